"""Reading raw files: palettes, bit depths, colors, and damaged files."""

import cv2
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds
import tifffile

from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_files

IDS = np.array([[0, 20, 255], [20, 0, 255]], np.uint8)


def decode(data, channels):
  feature = tfds.features.Image(shape=(None, None, channels))
  return feature.decode_example_np(data)


def test_rgb_files_keep_their_bytes(tmp_path):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
  for suffix in ('jpg', 'png'):
    path = tmp_path / f'image.{suffix}'
    Image.fromarray(pixels).save(path)
    data, size = raw_files.read_encoded_image(path)
    assert data == path.read_bytes()
    assert size == (9, 7)
    np.testing.assert_array_equal(raw_files.read_pixels(path), decode(data, 3))
  assert (decode(data, 3) == pixels).all()


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', '1', 'CMYK'])
def test_other_modes_are_converted_to_rgb(tmp_path, mode):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)
  image = Image.fromarray(pixels).convert(mode)
  path = tmp_path / ('image.tif' if mode == 'CMYK' else 'image.png')
  image.save(path)
  data, size = raw_files.read_encoded_image(path)
  assert size == (9, 7)
  got = decode(data, 3)
  assert got.shape == (9, 7, 3)
  np.testing.assert_array_equal(got, np.asarray(image.convert('RGB')))


def test_16_bit_images_are_rejected(tmp_path):
  Image.fromarray(np.ones((3, 3), np.uint16)).save(tmp_path / 'image.png')
  with pytest.raises(ValueError, match=r'image\.png: image of mode I;16'):
    raw_files.read_encoded_image(tmp_path / 'image.png')


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_rgb_images_are_rejected(tmp_path, suffix):
  path = tmp_path / f'image.{suffix}'
  deep = np.full((3, 4, 3), 1000, np.uint16)
  if suffix == 'png':
    cv2.imwrite(str(path), deep)
  else:
    tifffile.imwrite(path, deep, photometric='rgb')
  with pytest.raises(ValueError, match=r'mode RGB of 16 bits; .*depth=16'):
    raw_files.read_encoded_image(path)


def test_the_error_names_a_truncated_file(tmp_path):
  path = tmp_path / 'image.jpg'
  Image.effect_noise((64, 64), 50).convert('RGB').save(path)
  path.write_bytes(path.read_bytes()[:-500])
  with pytest.raises(ValueError, match=r'image\.jpg: damaged .* truncated'):
    raw_files.read_encoded_image(path)
  mask = tmp_path / 'mask.png'
  Image.effect_noise((64, 64), 50).save(mask)
  mask.write_bytes(mask.read_bytes()[:-500])
  with pytest.raises(ValueError, match=r'mask\.png: damaged'):
    mask_files.read_mask(mask)


def test_rgb_arrays_are_read(tmp_path):
  path = tmp_path / 'image.npy'
  pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
  np.save(path, pixels)
  data, size = raw_files.read_encoded_image(path)
  assert size == (4, 5)
  np.testing.assert_array_equal(decode(data, 3), pixels)
  np.testing.assert_array_equal(raw_files.read_pixels(path), pixels)
  np.save(path, pixels.astype(np.uint16))
  with pytest.raises(ValueError, match=r'image\.npy: image of uint16'):
    raw_files.read_encoded_image(path)
