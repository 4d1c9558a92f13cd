"""Polygons and run lengths against literals, and malformed ones."""

import math

import numpy as np
from pycocotools import mask as coco_mask
import pytest

from deeplab.data.preparation import rasterize


def test_a_polygon_covers_its_pixels():
  mask = rasterize.segmentation_to_mask([[1, 1, 4, 1, 4, 3, 1, 3]], (5, 6))
  assert mask.dtype == bool
  assert mask.astype(int).tolist() == [
    [0, 0, 0, 0, 0, 0],
    [0, 1, 1, 1, 0, 0],
    [0, 1, 1, 1, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
  ]


def test_several_polygons_are_a_union():
  square = [0, 0, 2, 0, 2, 2, 0, 2]
  assert rasterize.segmentation_to_mask([square, square], (4, 4)).sum() == 4
  moved = [value + 1 for value in square]
  assert rasterize.segmentation_to_mask([square, moved], (4, 4)).sum() == 7


def test_polygons_are_clipped_to_the_image():
  mask = rasterize.segmentation_to_mask([[-2, -2, 2, -2, 2, 2, -2, 2]], (4, 4))
  assert mask.sum() == 4
  assert mask[:2, :2].all()


def test_run_lengths_are_column_major():
  # 2 pixels off, 3 on, 1 off: of 3 rows and 2 columns.
  expected = [[0, 1], [0, 1], [1, 0]]
  runs = {'size': [3, 2], 'counts': [2, 3, 1]}
  assert (
    rasterize.segmentation_to_mask(runs, (3, 2)).astype(int).tolist()
    == expected
  )
  # The same, compressed: 6 bits a character, from '0' (48) on.
  runs = {'size': [3, 2], 'counts': '231'}
  assert (
    rasterize.segmentation_to_mask(runs, (3, 2)).astype(int).tolist()
    == expected
  )


def test_points_are_flattened():
  assert rasterize.flatten_points([[1, 2], [3, 4.5]]) == [1, 2, 3, 4.5]


@pytest.mark.parametrize(
  ('segmentation', 'message'),
  [
    (None, 'broken polygon: there are no points'),
    ([], 'broken polygon: there are no points'),
    ([[0, 0, 1, 1]], 'broken polygon: 2 points enclose no area'),
    (
      [[0, 0, 1, 1, 2]],
      'broken polygon: 5 numbers are not a list of x, y pairs',
    ),
    ([0, 0, 1, 1, 2, 2], 'broken polygon: 1 numbers are not a list'),
    ([[0, 0, 1, 'a', 2, 2]], "broken polygon: .*'a'"),
    ([[0, 0, 1, 1, 9, 2]], r'point \(9, 2\) is far outside the image of 4x3'),
    ([[0, 0, float('nan'), 1, 2, 2]], r'point \(nan, 1\) is far outside'),
    ({'size': [4, 3], 'counts': [12]}, r'size \[4, 3\] for an image of 3 rows'),
    ({'counts': [12]}, 'size None for an image of 3 rows and 4 columns'),
    ({'size': 7, 'counts': [12]}, 'size 7 for an image of 3 rows'),
    (
      {'size': [3, 4], 'counts': [11]},
      'run lengths of 11 pixels in place of 1',
    ),
    ({'size': [3, 4], 'counts': []}, 'run lengths of 0 pixels in place of 12'),
    ({'size': [3, 4], 'counts': [-1, 13]}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': [2.5, 9.5]}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': [math.nan]}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': [math.inf]}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': ['12']}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': [[12]]}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': [[1], 2]}, 'not a list of whole numbers'),
    ({'size': [3, 4], 'counts': [10**400]}, 'whole numbers of 0 to 12 pixels'),
    ({'size': [3, 4], 'counts': [2**32, 12]}, 'whole numbers of 0 to 12 pixel'),
    ({'size': [3, 4]}, 'run lengths without `counts`'),
    ({'size': [3, 4], 'counts': 7}, 'run lengths without `counts`'),
    ({'size': [3, 4], 'counts': '999'}, 'run lengths of 27 pixels in place of'),
    ({'size': [3, 4], 'counts': ''}, 'broken run lengths: .* is empty or no C'),
    (
      {'size': [3, 4], 'counts': '9 3'},
      'broken run lengths: .* or no COCO str',
    ),
    (
      {'size': [3, 4], 'counts': '9\x80'},
      'broken run lengths: .* or no COCO s',
    ),
    ({'size': [3, 4], 'counts': '93P'}, 'broken run lengths: `counts` is cut'),
    (
      {'size': [3, 4], 'counts': 'P' * 8 + '0'},
      'a number in `counts` is too l',
    ),
    ({'size': [3, 4], 'counts': '<O1'}, 'whole numbers of 0 to 12 pixels'),
    ([[10**400, 0, 1, 1, 2, 2]], 'broken polygon: .*too large'),
    ([[0, 0, math.inf, 1, 2, 2]], r'point \(inf, 1\) is far outside'),
    (
      [[0, 0, 4, 3] * 600_000],
      'outline of 4800000 pixels is longer than 419',
    ),
  ],
)
def test_broken_segmentations(segmentation, message):
  with pytest.raises(ValueError, match=message):
    rasterize.segmentation_to_mask(segmentation, (3, 4))


def test_a_mask_may_be_empty():
  runs = {'size': [3, 4], 'counts': [12]}
  assert np.count_nonzero(rasterize.segmentation_to_mask(runs, (3, 4))) == 0


@pytest.mark.parametrize('shape', [(1, 1), (7, 5), (40, 300)])
@pytest.mark.parametrize('share', [0.0, 0.02, 0.5, 1.0])
def test_compressed_run_lengths_are_pycocotools(shape, share):
  mask = np.random.default_rng(0).random(shape) < share
  encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
  runs = {'size': list(shape), 'counts': encoded['counts'].decode()}
  got = rasterize.segmentation_to_mask(runs, shape)
  assert got.dtype == bool
  np.testing.assert_array_equal(got, mask)


def test_cut_run_lengths_are_refused():
  """pycocotools fills the rest with pixels of uninitialized memory."""
  mask = np.random.default_rng(0).random((40, 30)) < 0.5
  encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
  counts = encoded['counts'].decode()
  for length in range(len(counts)):
    runs = {'size': [40, 30], 'counts': counts[:length]}
    with pytest.raises(ValueError, match='run lengths'):
      rasterize.segmentation_to_mask(runs, (40, 30))


def test_whole_floats_are_run_lengths():
  runs = {'size': [3.0, 2.0], 'counts': [2.0, 4]}
  got = rasterize.segmentation_to_mask(runs, (3, 2))
  assert got.astype(int).tolist() == [[0, 1], [0, 1], [1, 1]]
