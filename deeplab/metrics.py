"""Segmentation metrics from integer counts, divided once at the end.

Counts are int64, so they add up exactly over images, batches and hosts.
A class that stands neither in the labels nor in the predictions has no score:
NaN, and no part in any mean. Rows of a confusion matrix are labels, columns
predictions.

Boundary IoU follows Cheng et al., "Boundary IoU: Improving Object-Centric
Image Segmentation Evaluation", CVPR 2021 (arXiv:2103.16562), with the counts
of a class summed over the data set.
"""

from collections.abc import Sequence
import math

import cv2
import numpy as np

from deeplab.data import dataset_info

# Scores of images are added in units of 2 ** -40: exactly, in any order.
_IOU_UNIT = 2.0**-40
_LOSS_UNIT = 2.0**-20


def _to_uint8_ids(ids: np.ndarray, what: str) -> np.ndarray:
  """Returns class ids as uint8, or says which value is no class id."""
  ids = np.asarray(ids)
  if ids.dtype == np.uint8:
    return ids
  if not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(f'{what} are {ids.dtype}; class ids are integers')
  if ids.size and (ids.min() < 0 or ids.max() > 255):
    bad = ids.min() if ids.min() < 0 else ids.max()
    raise ValueError(f'{what} hold the value {bad}; class ids are 0..255')
  return ids.astype(np.uint8)


def _count_pairs(
  labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
  """Returns the [256, 256] int64 counts of (label, prediction) pairs.

  Raises:
    ValueError: shapes differ, or a label is neither a class nor 255.
  """
  labels = _to_uint8_ids(labels, 'labels')
  predictions = _to_uint8_ids(predictions, 'predictions')
  if labels.shape != predictions.shape:
    raise ValueError(
      f'labels {labels.shape} and predictions {predictions.shape} are not of '
      'one shape'
    )
  pairs = labels.ravel().astype(np.uint16) << 8 | predictions.ravel()
  counts = np.bincount(pairs, minlength=1 << 16).reshape(256, 256)
  bad = np.flatnonzero(counts[num_classes : dataset_info.IGNORE].any(axis=1))
  if bad.size:
    raise ValueError(
      f'a label holds the value {num_classes + bad[0]}, but ids are '
      f'0..{num_classes - 1} and {dataset_info.IGNORE} (ignored)'
    )
  return counts.astype(np.int64)


def _check_num_classes(num_classes: int) -> None:
  if not 1 <= num_classes <= dataset_info.IGNORE:
    raise ValueError(
      f'num_classes={num_classes} is not in 1..{dataset_info.IGNORE}, the '
      'range that 8-bit labels can hold'
    )


class ConfusionMatrix:
  """A confusion matrix over any number of images.

  Attributes:
    matrix: int64 [K, K], rows = label, columns = prediction.
  """

  def __init__(self, num_classes: int):
    _check_num_classes(num_classes)
    self.matrix = np.zeros((num_classes, num_classes), np.int64)

  def add(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Counts pixels; those labelled 255 do not count, whatever is predicted.

    Args:
      labels: integer ids of any shape, 0..K-1 or 255.
      predictions: integer ids of the same shape, 0..K-1 where the label is not
        255.

    Returns:
      int64 [K, K], what was added to the matrix.

    Raises:
      ValueError: shapes differ, or a value is no class id.
    """
    k = len(self.matrix)
    counts = _count_pairs(labels, predictions, k)
    bad = np.flatnonzero(counts[:k, k:].any(axis=0))
    if bad.size:
      raise ValueError(
        f'a prediction holds the value {k + bad[0]}, but ids are 0..{k - 1}'
      )
    self.matrix += counts[:k, :k]
    return counts[:k, :k]


class ImageIoU:
  """The mean over images of the mean IoU of the classes in their labels.

  It is STMicroelectronics' "average IoU", which scores an image at the size of
  the network's input: `config.eval.resize_labels` compares like with like.

  Attributes:
    counts: int64 [2], the sum over images in units of 2 ** -40, and how many
      images there are; one without a label is none.
  """

  def __init__(self):
    self.counts = np.zeros(2, np.int64)

  def add(self, matrix: np.ndarray) -> None:
    """Adds one image by its own confusion matrix, int64 [K, K]."""
    labelled = matrix.sum(1)
    there = labelled > 0
    if there.any():
      hits = np.diagonal(matrix)
      union = labelled + matrix.sum(0) - hits
      mean = (hits[there] / union[there]).mean()
      self.counts += (round(mean / _IOU_UNIT), 1)


class CrossEntropy:
  """The mean cross entropy of labelled pixels, in nats.

  It is the training loss of `cross_entropy`, or of `sigmoid_cross_entropy`,
  without class weights.

  Attributes:
    sigmoid: whether each class is told from the rest by its own logit (see
      `pixels.sigmoid_term`), or all from each other by a softmax.
    counts: int64 [2], the sum over pixels in units of 2 ** -20, rounded once an
      image, and how many there are.
  """

  def __init__(self, *, sigmoid: bool):
    self.sigmoid = sigmoid
    self.counts = np.zeros(2, np.int64)

  def add(self, label: np.ndarray, scores: np.ndarray) -> None:
    """Adds one image.

    Args:
      label: uint8 [H, W], 0..K-1, or 255, which does not count.
      scores: float32 [H, W, K], logits of the sigmoids, probabilities of the
        softmax.
    """
    valid = label != dataset_info.IGNORE
    if self.sigmoid:
      classes = np.arange(scores.shape[-1])
      signs = np.where(label[..., None] == classes, -1.0, 1.0)
      loss = np.logaddexp(0.0, signs * scores).mean(-1)[valid].sum()
    else:
      ids = np.where(valid, label, 0)[..., None]
      picked = np.take_along_axis(scores, ids, -1)[..., 0][valid]
      loss = -np.log(np.maximum(picked, 1e-12), dtype=np.float64).sum()
    self.counts += (round(loss / _LOSS_UNIT), valid.sum())


def boundary_distance(size: Sequence[int], share: float) -> int:
  """Returns the width in pixels of the boundary band of an image.

  Args:
    size: (H, W) of the image.
    share: width as a share of the image's diagonal; 0.02 in the paper.
  """
  return max(1, round(share * math.hypot(size[0], size[1])))


def boundary_band(ids: np.ndarray, distance: int) -> np.ndarray:
  """Returns where a pixel is within `distance` of a pixel of another id.

  A pixel of class k is in the band exactly where eroding the mask of k with a
  (2 * distance + 1) square removes it; outside the image is no class, so the
  image's border is a boundary. One minimum and one maximum filter over the ids
  find the bands of all classes at once: a window holds a second id where its
  minimum or its maximum is not the centre.

  Args:
    ids: uint8 [H, W], with 255 for no class.
    distance: pixels, at least 1.

  Returns:
    bool [H, W], False where `ids` is 255.
  """
  kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
  ids = cv2.copyMakeBorder(
    ids, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=dataset_info.IGNORE
  )
  low, high = cv2.erode(ids, kernel), cv2.dilate(ids, kernel)
  band = ((low != ids) | (high != ids)) & (ids != dataset_info.IGNORE)
  return band[1:-1, 1:-1]


class BoundaryIoU:
  """Counts of boundary IoU over any number of images.

  Attributes:
    counts: int64 [2, K], intersections and unions of the boundary bands.
    share: band width as a share of the image's diagonal.
  """

  def __init__(self, num_classes: int, share: float):
    _check_num_classes(num_classes)
    if share <= 0:
      raise ValueError(f'boundary_share={share} is not positive')
    self.counts = np.zeros((2, num_classes), np.int64)
    self.share = share

  def add(self, label: np.ndarray, prediction: np.ndarray) -> None:
    """Adds one image.

    Ignored pixels are cut out of the prediction as they are out of the label,
    before the bands are drawn: a perfect prediction scores 1 beside them too.

    Args:
      label: integer ids [H, W], 0..K-1 or 255.
      prediction: integer ids [H, W].
    """
    k = self.counts.shape[1]
    label = _to_uint8_ids(label, 'labels')
    prediction = _to_uint8_ids(prediction, 'predictions')
    if label.ndim != 2 or label.shape != prediction.shape:
      raise ValueError(
        f'label {label.shape} and prediction {prediction.shape} are not two '
        'images of one size'
      )
    prediction = np.where(
      label == dataset_info.IGNORE, dataset_info.IGNORE, prediction
    )
    prediction = prediction.astype(np.uint8)
    distance = boundary_distance(label.shape, self.share)
    ours = np.where(boundary_band(prediction, distance), prediction, 255)
    truth = np.where(boundary_band(label, distance), label, 255)
    counts = _count_pairs(truth, ours, k)
    common = np.diagonal(counts)[:k]
    self.counts[0] += common
    self.counts[1] += counts.sum(1)[:k] + counts.sum(0)[:k] - common


def _safe_divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Divides, with NaN where there is nothing to divide by."""
  return np.where(
    denominator > 0, numerator / np.maximum(denominator, 1), np.nan
  )


def _nanmean(values: np.ndarray) -> float:
  """Returns the mean over what is not NaN; NaN if nothing is left."""
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else math.nan


def _scored_miou(
  confusion: np.ndarray, class_names: Sequence[str], unscored: Sequence[str]
) -> float:
  """Returns the mIoU of the other classes, as if `unscored` were void."""
  unknown = set(unscored) - set(class_names)
  if unknown:
    raise ValueError(
      f'unscored classes {sorted(unknown)} are none of {list(class_names)}'
    )
  rest = np.array([name not in unscored for name in class_names])
  counted = confusion * rest[:, None]
  hits = np.diagonal(counted)
  return _nanmean(
    _safe_divide(hits, counted.sum(1) + counted.sum(0) - hits)[rest]
  )


def compute_scores(
  confusion: np.ndarray,
  class_names: Sequence[str],
  boundary: np.ndarray | None = None,
  images: np.ndarray | None = None,
  unscored: Sequence[str] = (),
  loss: np.ndarray | None = None,
) -> dict[str, float]:
  """Returns every metric by name.

  With n_ij pixels of class i predicted as j, t_i = sum_j n_ij labelled i,
  p_i = sum_j n_ji predicted i, and N of them all:

    pixel_accuracy      sum_i n_ii / N
    accuracy/<class>    n_ii / t_i, its recall     mean_accuracy, their mean
    precision/<class>   n_ii / p_i                 mean_precision
    iou/<class>         n_ii / (t_i + p_i - n_ii)  miou
    dice/<class>        2 n_ii / (t_i + p_i), its F1 score     mean_dice
    fw_iou              sum_i t_i iou_i / N
    kappa               Cohen's: accuracy beyond sum_i t_i p_i / N^2
    image_iou           see `ImageIoU`
    loss                see `CrossEntropy`
    miou_scored         miou of all but the `unscored`
    boundary_iou/<class>  likewise on the bands    boundary_iou

  Args:
    confusion: int64 [K, K], rows = label.
    class_names: K names.
    boundary: int64 [2, K], intersections and unions of boundary bands; None
      leaves boundary IoU out.
    images: counts of `ImageIoU`; None leaves it out.
    unscored: names of classes that are void in `miou_scored`, neither labels
      nor scores; it is left out if there are none. A network that tells
      "other" from 31 classes is scored on those alone by MLPerf.
    loss: counts of `CrossEntropy`; None leaves `loss` out.

  Returns:
    Fractions in 0..1 (kappa: -1..1, loss: nats), NaN for what is not defined:
    the means leave it out.
  """
  confusion = np.asarray(confusion, np.int64)
  if confusion.shape != (len(class_names), len(class_names)):
    raise ValueError(
      f'{len(class_names)} class names do not fit a confusion matrix of shape '
      f'{confusion.shape}'
    )
  hits = np.diagonal(confusion)
  labelled, predicted = confusion.sum(1), confusion.sum(0)
  iou = _safe_divide(hits, labelled + predicted - hits)
  accuracy = _safe_divide(hits, labelled)
  precision = _safe_divide(hits, predicted)
  dice = _safe_divide(2 * hits, labelled + predicted)
  total = labelled.sum()
  agreement = float(_safe_divide(hits.sum(), total))
  share = labelled / max(total, 1)
  chance = float((share * (predicted / max(total, 1))).sum())
  result = {
    'miou': _nanmean(iou),
    'pixel_accuracy': agreement,
    'mean_accuracy': _nanmean(accuracy),
    'mean_precision': _nanmean(precision),
    'fw_iou': float(_safe_divide((labelled * np.nan_to_num(iou)).sum(), total)),
    'mean_dice': _nanmean(dice),
    'kappa': (agreement - chance) / (1 - chance) if chance < 1 else math.nan,
  }
  tables = {
    'iou': iou,
    'accuracy': accuracy,
    'precision': precision,
    'dice': dice,
  }
  if boundary is not None:
    tables['boundary_iou'] = _safe_divide(boundary[0], boundary[1])
    result['boundary_iou'] = _nanmean(tables['boundary_iou'])
  if images is not None:
    result['image_iou'] = float(_safe_divide(images[0] * _IOU_UNIT, images[1]))
  if loss is not None:
    result['loss'] = float(_safe_divide(loss[0] * _LOSS_UNIT, loss[1]))
  if unscored:
    result['miou_scored'] = _scored_miou(confusion, class_names, unscored)
  for metric, values in tables.items():
    for name, value in zip(class_names, values, strict=True):
      result[f'{metric}/{name}'] = float(value)
  return result


def metric_names(
  class_names: Sequence[str], unscored: Sequence[str], loss: bool
) -> tuple[str, ...]:
  """Returns the names of all metrics of an evaluation, with its loss or not."""
  k = len(class_names)
  confusion, boundary = np.zeros((k, k), np.int64), np.zeros((2, k), np.int64)
  two = np.zeros(2, np.int64)
  return tuple(
    compute_scores(
      confusion, class_names, boundary, two, unscored, two if loss else None
    )
  )
