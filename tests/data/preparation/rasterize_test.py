"""Polygons and run lengths against literals, and malformed ones."""

import numpy as np
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
    ({'size': [3, 4], 'counts': [11]}, 'run lengths of 11 pixels for .* of 12'),
    ({'size': [3, 4], 'counts': [-1, 13]}, 'run lengths of 12 pixels'),
    ({'size': [3, 4]}, 'run lengths without `counts`'),
    ({'size': [3, 4], 'counts': '999'}, 'broken run lengths'),
  ],
)
def test_broken_segmentations(segmentation, message):
  with pytest.raises(ValueError, match=message):
    rasterize.segmentation_to_mask(segmentation, (3, 4))


def test_a_mask_may_be_empty():
  runs = {'size': [3, 4], 'counts': [12]}
  assert np.count_nonzero(rasterize.segmentation_to_mask(runs, (3, 4))) == 0
