"""Resizes of images and label maps against values computed by hand."""

import numpy as np

from deeplab.data import resize


def test_resize_bilinear_by_hand():
  row = np.array([[[0.0], [10.0]]], np.float32)
  np.testing.assert_allclose(
    resize.resize_bilinear(row, (1, 4))[0, :, 0], [0, 2.5, 7.5, 10]
  )
  # Going down reads two neighbors: no filter.
  row = np.array([[[0.0], [1.0], [5.0], [9.0]]], np.float32)
  np.testing.assert_allclose(
    resize.resize_bilinear(row, (1, 2))[0, :, 0], [0.5, 7.0]
  )


def test_resize_bilinear_of_many_classes():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(5, 7, 150)).astype(np.float32)
  resized = resize.resize_bilinear(logits, (11, 13))
  assert resized.shape == (11, 13, 150)
  for k in (0, 149):
    np.testing.assert_allclose(
      resized[..., k : k + 1],
      resize.resize_bilinear(logits[..., k : k + 1], (11, 13)),
      atol=1e-6,
    )


def test_argmax_of_resized_is_that_of_all_scores():
  rng = np.random.default_rng(0)
  for classes in (1, 4, 21):
    scores = rng.integers(-9, 9, (6, 5, classes)).astype(np.float32)  # ties too
    for size in ((37, 41), (6, 5), (3, 4)):
      ids = resize.argmax_of_resized(scores, size)
      assert ids.dtype == np.uint8
      np.testing.assert_array_equal(
        ids, resize.resize_bilinear(scores, size).argmax(-1)
      )


def test_resize_nearest_by_hand():
  ids = np.array([[1, 2, 3]], np.uint8)
  np.testing.assert_array_equal(
    resize.resize_nearest(ids, (2, 6)), [[1, 1, 2, 2, 3, 3]] * 2
  )
  np.testing.assert_array_equal(
    resize.resize_nearest(np.arange(9, dtype=np.uint8)[None], (1, 3)),
    [[1, 4, 7]],
  )
