"""Procedural shapes: deterministic, varied, not told apart by color."""

import numpy as np

from deeplab.data import catalog
from deeplab.data import datasets
from deeplab.data.builders import shapes
from tests.data.builders import layouts


def pictures(stream, count):
  pairs = [
    shapes.draw_example(np.random.default_rng((shapes.SEED, stream, i)))
    for i in range(count)
  ]
  return tuple(np.stack(arrays) for arrays in zip(*pairs, strict=True))


def test_images_and_labels():
  images, labels = pictures(0, 30)
  assert images.shape == (30, 128, 128, 3)
  assert images.dtype == labels.dtype == np.uint8
  again = pictures(0, 2)
  np.testing.assert_array_equal(images[:2], again[0])
  np.testing.assert_array_equal(labels[:2], again[1])
  shares = np.bincount(labels.ravel(), minlength=256) / labels.size
  assert shares[6:255].sum() == 0
  assert 0.5 < shares[0] < 0.8
  assert (shares[1:6] > 0.02).all()
  assert 0.03 < shares[255] < 0.12  # the void border
  # Two labels never touch: the border is between them everywhere.
  for a, b in (
    (labels[:, 1:], labels[:, :-1]),
    (labels[:, :, 1:], labels[:, :, :-1]),
  ):
    assert ((a == b) | (a == 255) | (b == 255)).all()


def test_colours_do_not_reveal_classes():
  """The best guess from colors alone is far below mIoU 0.5."""

  def bins(images):
    return (images.astype(np.int64) // 32 @ (64, 8, 1)).ravel()

  images, labels = pictures(0, 60)
  histogram = np.zeros((512, 6))
  valid = labels.ravel() != 255
  np.add.at(histogram, (bins(images)[valid], labels.ravel()[valid]), 1)
  images, labels = pictures(1, 30)
  valid = labels.ravel() != 255
  truth = labels.ravel()[valid]
  for prior in (1.0, histogram.sum(0)):  # most frequent, or most typical
    guess = (histogram / prior).argmax(1)[bins(images)[valid]]
    confusion = np.bincount(truth * 6 + guess, minlength=36).reshape(6, 6)
    hits = np.diag(confusion)
    iou = hits / (confusion.sum(0) + confusion.sum(1) - hits)
    assert iou.mean() < 0.3


def test_builder(config, monkeypatch):
  monkeypatch.setattr(shapes, '_SPLITS', {'train': 3, 'val': 2})
  config.data.name = 'shapes'
  got = layouts.examples(config)
  layouts.check_metadata(config, got)
  images, labels = pictures(1, 2)
  assert len(got) == 2
  for i in range(2):
    np.testing.assert_array_equal(got[i]['image'], images[i])
    np.testing.assert_array_equal(got[i]['label'], labels[i])
  assert datasets.Dataset(config.data).num_examples('train') == 3


def test_counts():
  assert catalog.INFOS['shapes'].splits == {'train': 600, 'val': 100}


def test_the_version_changes_with_the_drawing():
  """If the drawing changes, raise VERSION and update these numbers."""
  _, label = shapes.draw_example(np.random.default_rng((shapes.SEED, 0, 0)))
  counts = np.bincount(label.ravel(), minlength=256)
  assert str(shapes.Shapes.VERSION) == '1.2.0'
  assert counts[[0, 1, 2, 3, 4, 5, 255]].tolist() == [
    *(9453, 2354, 3191, 0, 0, 0, 1386)
  ]
