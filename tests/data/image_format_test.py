"""Images of any number of channels, and their errors."""

import cv2
import ml_collections
import numpy as np
from PIL import Image
import pytest
import tifffile

from deeplab.data import image_format

BANDS = np.random.default_rng(0).integers(0, 65536, (9, 7, 8), np.uint16)


def test_channels_of_tiff_files(tmp_path):
  """Channels are planar or interleaved, of any number, in their order."""
  path = tmp_path / 'image.tif'
  for depth, pixels in ((16, BANDS), (8, (BANDS >> 8).astype(np.uint8))):
    for count in (1, 3, 4, 5, 8):
      part = pixels[..., :count]
      tifffile.imwrite(
        path,
        part,
        photometric='minisblack',
        planarconfig='contig' if count > 1 else None,
      )
      form = image_format.ImageSpec(count, depth)
      if form != image_format.RGB:
        np.testing.assert_array_equal(image_format.read_array(path, form), part)
      if count > 1:
        tifffile.imwrite(
          path,
          np.moveaxis(part, -1, 0),
          photometric='minisblack',
          planarconfig='separate',
          compression='zlib',
        )
        np.testing.assert_array_equal(image_format.read_array(path, form), part)


@pytest.mark.parametrize('compression', ['lzw', 'deflate', 'packbits'])
def test_compressed_tiff_files(tmp_path, compression):
  path = tmp_path / 'image.tif'
  tifffile.imwrite(
    path,
    BANDS,
    photometric='minisblack',
    planarconfig='contig',
    compression=compression,
  )
  np.testing.assert_array_equal(
    image_format.read_array(path, image_format.ImageSpec(8, 16)), BANDS
  )


def test_channels_of_png_files(tmp_path):
  path = tmp_path / 'image.png'
  deep = image_format.ImageSpec(3, 16)
  cv2.imwrite(str(path), BANDS[..., 2::-1])
  np.testing.assert_array_equal(
    image_format.read_array(path, deep), BANDS[..., :3]
  )
  # A grey image repeats its channel, or stays one.
  Image.fromarray(BANDS[..., 0]).save(path)
  got = image_format.read_array(path, deep)
  np.testing.assert_array_equal(got, BANDS[..., :1].repeat(3, 2))
  got = image_format.read_array(path, image_format.ImageSpec(1, 16))
  np.testing.assert_array_equal(got, BANDS[..., :1])


def test_other_channels_or_depth_are_rejected(tmp_path):
  path = tmp_path / 'image.npy'
  np.save(path, BANDS)
  form = image_format.ImageSpec(8, 8)
  with pytest.raises(
    ValueError, match=r'image\.npy: image of uint16 for config\.data\.depth=8'
  ):
    image_format.read_array(path, form)
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(ValueError, match=r'image\.npy: damaged or not an image'):
    image_format.read_array(path, form)
  tif = tmp_path / 'image.tif'
  tifffile.imwrite(tif, BANDS[..., 0])
  tif.write_bytes(tif.read_bytes()[:-50])
  with pytest.raises(ValueError, match=r'image\.tif: damaged or not an image'):
    image_format.read_array(tif, image_format.ImageSpec(1, 16))
  png = tmp_path / 'image.png'
  Image.effect_noise((64, 64), 50).save(png)
  png.write_bytes(png.read_bytes()[:-500])
  with pytest.raises(ValueError, match=r'image\.png: damaged or not an image'):
    image_format.read_array(png, image_format.ImageSpec(1, 8))
  with pytest.raises(ValueError, match='images of 3 channels of 12 bits'):
    image_format.ImageSpec(3, 12)


def test_image_spec_of_a_config():
  c = ml_collections.ConfigDict({'mean': (1.0, 2.0, 3.0)})
  assert image_format.image_spec(c) == image_format.RGB
  assert str(image_format.image_spec(c)) == 'RGB in 0..255'
  c.depth, c.mean = 16, (1.0,) * 5
  assert image_format.image_spec(c) == image_format.ImageSpec(5, 16)
  assert image_format.image_spec(c).max_value == 65535
  assert str(image_format.image_spec(c)) == '5 channels in 0..65535'
  assert str(image_format.ImageSpec(1)) == 'grey in 0..255'


def test_normalize():
  image = np.array([[[10, 20, 30]]], np.uint8)
  got = image_format.normalize_image(image, (10.0, 10.0, 10.0), (2.0, 4.0, 5.0))
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, [[[0.0, 2.5, 4.0]]], rtol=1e-6)
