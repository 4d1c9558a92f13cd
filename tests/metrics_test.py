"""Metrics against values computed by hand and a naive boundary IoU."""

import math

import numpy as np
import pytest
from scipy import ndimage

from deeplab import metrics
from tests import mmseg_module
from tests import torchvision_module

NAMES = ('sky', 'road', 'car')


def _three_classes():
  labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 255, 255], np.uint8)
  predictions = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 200], np.uint8)
  confusion = metrics.ConfusionMatrix(3)
  confusion.add(labels, predictions)
  return confusion


def test_confusion_by_hand():
  np.testing.assert_array_equal(
    _three_classes().matrix, [[3, 1, 0], [0, 2, 1], [1, 0, 1]]
  )
  assert _three_classes().matrix.dtype == np.int64


def test_scores_by_hand():
  scores = metrics.compute_scores(_three_classes().matrix, NAMES)
  assert scores['pixel_accuracy'] == pytest.approx(6 / 9)
  assert scores['iou/sky'] == pytest.approx(3 / 5)
  assert scores['iou/road'] == pytest.approx(2 / 4)
  assert scores['iou/car'] == pytest.approx(1 / 3)
  assert scores['miou'] == pytest.approx((3 / 5 + 2 / 4 + 1 / 3) / 3)
  assert scores['accuracy/sky'] == pytest.approx(3 / 4)
  assert scores['mean_accuracy'] == pytest.approx((3 / 4 + 2 / 3 + 1 / 2) / 3)
  assert scores['fw_iou'] == pytest.approx(
    (4 * 3 / 5 + 3 * 2 / 4 + 2 * 1 / 3) / 9
  )
  assert scores['dice/sky'] == pytest.approx(6 / 8)
  assert scores['mean_dice'] == pytest.approx((6 / 8 + 4 / 6 + 2 / 4) / 3)
  assert scores['precision/sky'] == pytest.approx(3 / 4)
  assert scores['mean_precision'] == pytest.approx((3 / 4 + 2 / 3 + 1 / 2) / 3)
  # Chance: (4 * 4 + 3 * 3 + 2 * 2) / 81.
  assert scores['kappa'] == pytest.approx((6 / 9 - 29 / 81) / (1 - 29 / 81))
  for absent in ('boundary_iou', 'image_iou', 'miou_scored'):
    assert absent not in scores


def test_labels_are_rows_and_predictions_columns():
  # Labelled 6 and 2, predicted 5 and 3: no score may mix them up.
  scores = metrics.compute_scores(np.array([[5, 1], [0, 2]]), 'ab')
  expected = {
    'pixel_accuracy': 7 / 8,
    'accuracy/a': 5 / 6,
    'accuracy/b': 1.0,
    'precision/a': 1.0,
    'precision/b': 2 / 3,
    'iou/a': 5 / 6,
    'iou/b': 2 / 3,
    'dice/a': 10 / 11,
    'dice/b': 4 / 5,
    'fw_iou': (6 * 5 / 6 + 2 * 2 / 3) / 8,
    'kappa': 5 / 7,  # chance: (6 * 5 + 2 * 3) / 64
  }
  assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_unscored_classes_are_void_in_labels_only():
  scores = metrics.compute_scores(
    _three_classes().matrix, NAMES, unscored=('sky',)
  )
  # road: 2 of 3 labelled, and nothing else that is scored was called road;
  # car: 1 of 2, and a road pixel was called car.
  assert scores['miou_scored'] == pytest.approx((2 / 3 + 1 / 3) / 2)
  with pytest.raises(ValueError, match=r"classes \['moon'\] are not among"):
    metrics.compute_scores(_three_classes().matrix, NAMES, unscored=('moon',))


def test_image_iou_is_a_mean_over_images():
  confusion, images = metrics.ConfusionMatrix(3), metrics.ImageIoU()
  for label, prediction in (
    ([0, 0, 0, 1], [0, 0, 2, 1]),  # 2/3 and 1; class 2 is not in the label
    ([1, 1, 255, 255], [1, 0, 0, 0]),  # 1/2
    ([255, 255], [0, 1]),  # no label, no score
  ):
    images.add(confusion.add(np.array(label), np.array(prediction)))
  assert images.counts[1] == 2
  scores = metrics.compute_scores(confusion.matrix, NAMES, images=images.counts)
  assert scores['image_iou'] == pytest.approx((5 / 6 + 1 / 2) / 2)
  assert scores['miou'] == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)


def test_metric_names_are_those_of_the_scores():
  names = metrics.metric_names(NAMES, (), loss=False)
  assert {'miou', 'image_iou', 'boundary_iou/sky', 'kappa'} <= set(names)
  assert 'miou_scored' not in names
  assert 'miou_scored' in metrics.metric_names(NAMES, ('sky',), loss=False)
  assert set(metrics.metric_names(NAMES, (), loss=True)) == {*names, 'loss'}


def test_cross_entropy_by_hand():
  loss = metrics.CrossEntropy(sigmoid=False)
  sure = np.array([[[0.5, 0.5], [0.1, 0.9], [0.0, 1.0]]], np.float32)
  loss.add(np.array([[0, 1, 255]], np.uint8), sure)
  loss.add(np.array([[255]], np.uint8), sure[:, :1])
  # (log 2 - log 0.9) / 2
  scores = metrics.compute_scores(np.eye(2, dtype=int), 'ab', loss=loss.counts)
  assert scores['loss'] == pytest.approx(0.3992539, abs=1e-6)
  assert loss.counts[1] == 2
  loss.add(np.array([[0]], np.uint8), np.array([[[0.0, 1.0]]], np.float32))
  assert np.isfinite(
    metrics.compute_scores(np.eye(2), 'ab', loss=loss.counts)['loss']
  )


def test_sigmoid_cross_entropy_by_hand():
  loss = metrics.CrossEntropy(sigmoid=True)
  logits = np.array([[[2.0, -1.0], [3.0, 3.0], [9.0, 9.0]]], np.float32)
  loss.add(np.array([[1, 0, 255]], np.uint8), logits)
  # log(1 + e^2) = 2.126928 and log(1 + e) = 1.313262; log(1 + e^-3) = 0.048587
  # and log(1 + e^3) = 3.048587. The softmax would have log 2 for the second.
  scores = metrics.compute_scores(np.eye(2), 'ab', loss=loss.counts)
  expected = (2.126928 + 1.313262 + 0.048587 + 3.048587) / 4
  assert scores['loss'] == pytest.approx(expected, abs=2e-6)
  assert loss.counts[1] == 2
  loss.add(np.array([[0]], np.uint8), np.array([[[-1e4, 1e4]]], np.float32))
  assert loss.counts[0] * 2**-20 == pytest.approx(2 * expected + 1e4)


def test_scores_equal_mmsegmentation(monkeypatch):
  torch, _ = torchvision_module.load()
  mmseg = mmseg_module.load(monkeypatch, 'mmseg.evaluation')
  rng = np.random.default_rng(0)
  confusion = rng.integers(1, 1000, (5, 5))
  theirs = mmseg.IoUMetric.total_area_to_metrics(
    *(
      torch.tensor(counts)
      for counts in (
        np.diagonal(confusion).copy(),
        confusion.sum(0) + confusion.sum(1) - np.diagonal(confusion),
        confusion.sum(0),
        confusion.sum(1),
      )
    ),
    ['mIoU', 'mDice', 'mFscore'],
  )
  ours = metrics.compute_scores(confusion, 'abcde')
  assert ours['pixel_accuracy'] == pytest.approx(theirs['aAcc'])
  for name, column in (
    ('iou', 'IoU'),
    ('accuracy', 'Acc'),
    ('dice', 'Dice'),
    ('dice', 'Fscore'),
    ('precision', 'Precision'),
    ('accuracy', 'Recall'),
  ):
    found = [ours[f'{name}/{c}'] for c in 'abcde']
    np.testing.assert_allclose(found, theirs[column], rtol=1e-6)


def test_absent_class_is_nan_and_in_no_mean():
  scores = metrics.compute_scores(np.diag([5, 0, 3]), NAMES)
  assert math.isnan(scores['iou/road'])
  assert math.isnan(scores['accuracy/road'])
  assert math.isnan(scores['dice/road'])
  assert scores['miou'] == scores['mean_dice'] == scores['fw_iou'] == 1.0


def test_predicted_but_unlabeled_class_scores_zero_iou():
  scores = metrics.compute_scores(np.array([[4, 4], [0, 0]]), ('a', 'b'))
  assert scores['iou/b'] == 0.0
  assert math.isnan(scores['accuracy/b'])
  assert scores['miou'] == 0.25
  assert scores['mean_accuracy'] == 0.5


def test_nothing_counted_is_nan_not_zero():
  scores = metrics.compute_scores(np.zeros((2, 2), np.int64), ('a', 'b'))
  assert all(math.isnan(value) for value in scores.values())


def test_counts_of_images_add_up():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 4, (6, 5, 7), np.uint8)
  labels[labels == 3] = 255
  predictions = rng.integers(0, 3, (6, 5, 7))
  whole, left, right = (metrics.ConfusionMatrix(3) for _ in range(3))
  whole.add(labels, predictions)
  for label, prediction in zip(labels[:2], predictions[:2], strict=True):
    left.add(label, prediction)
  right.add(labels[2:], predictions[2:])
  np.testing.assert_array_equal(left.matrix + right.matrix, whole.matrix)
  assert whole.matrix.sum() == np.count_nonzero(labels != 255)


def test_counts_beyond_float32_and_int32_are_exact():
  confusion = metrics.ConfusionMatrix(2)
  confusion.matrix[0, 0] = 2**40
  confusion.add(np.zeros(1, np.uint8), np.zeros(1, np.uint8))
  assert confusion.matrix[0, 0] == 2**40 + 1


@pytest.mark.parametrize(
  ('labels', 'predictions', 'message'),
  [
    ([200], [0], 'label holds the value 200'),
    ([3], [0], 'label holds the value 3'),
    ([0], [3], 'prediction holds the value 3'),
    ([-1], [0], 'labels hold the value -1'),
    ([0], [300], 'predictions hold the value 300'),
    ([0.0], [0], 'class ids are integers'),
    ([0, 1], [0], 'have different shapes'),
  ],
)
def test_invalid_class_ids_are_rejected(labels, predictions, message):
  with pytest.raises(ValueError, match=message):
    metrics.ConfusionMatrix(3).add(np.array(labels), np.array(predictions))


def test_invalid_numbers_of_classes_are_rejected():
  with pytest.raises(ValueError, match='2 class names'):
    metrics.compute_scores(np.zeros((3, 3), np.int64), ('a', 'b'))
  with pytest.raises(ValueError, match='num_classes=256'):
    metrics.ConfusionMatrix(256)


@pytest.mark.parametrize(
  ('size', 'share', 'pixels'),
  [
    *(((360, 480), 0.02, 12), ((3, 4), 0.02, 1), ((30, 40), 0.1, 5)),
    # 2.8 and 2.4 pixels are rounded.
    *(((30, 40), 0.056, 3), ((30, 40), 0.048, 2)),
  ],
)
def test_boundary_distance(size, share, pixels):
  assert metrics.boundary_distance(size, share) == pixels


def _naive_band(mask, distance):
  """Returns the pixels that `distance` erosions remove, as in the paper."""
  eroded = ndimage.binary_erosion(
    mask, np.ones((3, 3)), iterations=distance, border_value=0
  )
  return mask & ~eroded


@pytest.mark.parametrize('seed', range(3))
def test_boundary_iou_against_binary_masks_one_by_one(seed):
  rng = np.random.default_rng(seed)
  share, classes = 0.06, 4
  boundary = metrics.BoundaryIoU(classes, share)
  expected = np.zeros((2, classes), np.int64)
  for size in ((23, 31), (40, 30)):
    blocks = rng.integers(0, classes, (2, 6, 6), np.uint8)
    label, prediction = (
      np.kron(block, np.ones((7, 7), np.uint8))[: size[0], : size[1]].copy()
      for block in blocks
    )
    prediction[label == 0] = 0
    label[rng.random(size) < 0.02] = 255
    boundary.add(label, prediction)
    distance = max(1, round(share * math.hypot(*size)))
    for k in range(classes):
      truth = _naive_band(label == k, distance)
      ours = _naive_band((prediction == k) & (label != 255), distance)
      expected[0, k] += (truth & ours).sum()
      expected[1, k] += (truth | ours).sum()
  np.testing.assert_array_equal(boundary.counts, expected)
  assert expected[0].sum() > 0


def test_boundary_iou_of_a_shifted_square():
  # Bands of 1 px: two rings of 36 pixels, shifted by one row; the columns
  # overlap in 2 * 9 pixels, the bottom row lies on the square's inside.
  label = np.zeros((20, 20), np.uint8)
  label[5:15, 5:15] = 1
  prediction = np.roll(label, 1, axis=0)
  boundary = metrics.BoundaryIoU(2, 0.01)
  boundary.add(label, prediction)
  assert boundary.counts[:, 1].tolist() == [18, 54]
  scores = metrics.compute_scores(
    np.diag([1, 1]), ('background', 'square'), boundary.counts
  )
  assert scores['boundary_iou/square'] == pytest.approx(18 / 54)


def test_perfect_prediction_beside_ignored_pixels_scores_one():
  label = np.zeros((16, 16), np.uint8)
  label[:, 8:] = 1
  label[4:12, 6:10] = 255
  boundary = metrics.BoundaryIoU(2, 0.1)
  boundary.add(label, np.where(label == 255, 1, label))
  np.testing.assert_array_equal(boundary.counts[0], boundary.counts[1])
