"""Decoding of records, whole and in part."""

import io

import cv2
import numpy as np
from PIL import Image
import pytest

from deeplab.data import decoding
from deeplab.data.preparation import raw_files

IDS = np.array([[0, 20, 255], [20, 0, 255]], np.uint8)
# Large enough for a window to be decoded alone.
HEIGHT, WIDTH = 600, 1001


def photograph(height=HEIGHT, width=WIDTH):
  """Returns an image uint8 [H, W, 3] of colored blobs and noise."""
  rng = np.random.default_rng(0)
  blobs = rng.integers(0, 256, (height // 12, width // 12, 3)).astype(np.uint8)
  image = cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC)
  noise = rng.normal(0, 12, image.shape)
  return (image + noise).clip(0, 255).astype(np.uint8)


def jpeg(image, **options):
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', **options)
  return file.getvalue()


def test_labels_decode_losslessly():
  data = raw_files.encode_png(IDS)
  assert decoding.read_label_size(data) == IDS.shape
  with pytest.raises(ValueError, match='a prepared example does not decode'):
    decoding.read_label_size(b'no image')
  assert decoding.decode_label(data).tolist() == IDS.tolist()
  with pytest.raises(ValueError, match='a prepared example does not decode'):
    decoding.decode_label(b'no image')
  with pytest.raises(ValueError, match='a prepared example does not decode'):
    decoding.decode_label(b'')  # OpenCV raises an error of its own


@pytest.mark.parametrize(
  ('rows', 'columns', 'alone'),
  [
    (slice(0, 100), slice(0, 100), True),
    (slice(500, 600), slice(880, 1001), True),
    (slice(301, 302), slice(457, 458), True),
    (slice(77, 330), slice(0, 1001), True),
    (slice(0, 600), slice(333, 600), True),
    (slice(0, 300), slice(0, 1001), False),  # not half of it is spared
  ],
)
@pytest.mark.parametrize(
  'options',
  [{'subsampling': i} for i in range(3)] + [{'progressive': True}],
  ids=['444', '422', '420', 'progressive'],
)
def test_windows_equal_crops_of_the_whole_image(
  monkeypatch, options, rows, columns, alone
):
  data = jpeg(photograph(), quality=85, **options)
  want = np.asarray(Image.open(io.BytesIO(data)))[rows, columns]
  np.testing.assert_array_equal(
    decoding.decode_image(data)[rows, columns], want
  )
  if alone:
    monkeypatch.setattr(decoding, 'decode_image', None)  # is not asked
  got = decoding.decode_window(data, (HEIGHT, WIDTH), rows, columns)
  assert got.dtype == np.uint8
  np.testing.assert_array_equal(got, want)


def test_exif_orientation_is_not_applied():
  exif = Image.Exif()
  exif[0x0112] = 6
  data = jpeg(photograph(), exif=exif)
  want = decoding.decode_image(data)[10:90, 900:950]
  got = decoding.decode_window(
    data, (HEIGHT, WIDTH), slice(10, 90), slice(900, 950)
  )
  np.testing.assert_array_equal(got, want)


def test_other_images_are_decoded_whole_and_cropped():
  image = photograph()
  window = slice(5, 25), slice(7, 8)
  for data in (image, raw_files.encode_png(image)):
    got = decoding.decode_window(data, image.shape[:2], *window)
    np.testing.assert_array_equal(got, image[window])
  small = jpeg(image[:300, :300])
  got = decoding.decode_window(small, (300, 300), *window)
  np.testing.assert_array_equal(got, decoding.decode_image(small)[window])


def test_a_damaged_jpeg_is_an_error():
  data = jpeg(photograph())
  with pytest.raises(ValueError, match='a prepared example does not decode'):
    decoding.decode_window(
      data[:200], (HEIGHT, WIDTH), slice(0, 9), slice(0, 9)
    )
