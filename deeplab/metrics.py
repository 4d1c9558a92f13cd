"""Segmentation metrics from integer counts, divided once at the end.

Counts are int64, so they add up exactly over images, batches and hosts. A class
that is neither in the labels nor in the predictions scores NaN and is left out
of all means. Rows of a confusion matrix are labels, columns are predictions.

Of `deeplab.data` this module uses the id of ignored pixels; `deeplab.data` must
not import it.

Boundary IoU follows Cheng et al., "Boundary IoU: Improving Object-Centric
Image Segmentation Evaluation", CVPR 2021 (arXiv:2103.16562), with the counts
of a class summed over the data set.
"""

from collections.abc import Sequence
import math

import cv2
import numpy as np

from deeplab.data import dataset_info

# Fixed-point units of sums of floats: integer sums are exact in any order.
_IOU_UNIT = 2.0**-40
_LOSS_UNIT = 2.0**-20


def _to_uint8_ids(ids: np.ndarray, name: str) -> np.ndarray:
  """Converts class ids to uint8.

  Args:
    ids: integers of any shape.
    name: of the array, for errors.

  Raises:
    ValueError: names the value that is not a class id.
  """
  ids = np.asarray(ids)
  if ids.dtype == np.uint8:
    return ids
  if not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(f'{name} are {ids.dtype}; class ids are integers')
  if ids.size and (ids.min() < 0 or ids.max() > 255):
    bad = ids.min() if ids.min() < 0 else ids.max()
    raise ValueError(f'{name} hold the value {bad}; class ids are 0..255')
  return ids.astype(np.uint8)


def _count_pairs(
  labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts pairs of label and prediction.

  Args:
    labels: integer ids of any shape.
    predictions: integer ids of the same shape.
    num_classes: labels are below it, or 255.

  Returns:
    int64 [256, 256], rows = label, columns = prediction.

  Raises:
    ValueError: shapes differ, or a label is neither a class nor 255.
  """
  labels = _to_uint8_ids(labels, 'labels')
  predictions = _to_uint8_ids(predictions, 'predictions')
  if labels.shape != predictions.shape:
    raise ValueError(
      f'labels {labels.shape} and predictions {predictions.shape} have '
      'different shapes'
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
      f'num_classes={num_classes} is not in 1..{dataset_info.IGNORE}: labels '
      f'have 8 bits, and {dataset_info.IGNORE} means ignored'
    )


class ConfusionMatrix:
  """Confusion matrix of any number of images.

  Attributes:
    matrix: int64 [K, K], rows = label, columns = prediction.
  """

  def __init__(self, num_classes: int):
    _check_num_classes(num_classes)
    self.matrix = np.zeros((num_classes, num_classes), np.int64)

  def add(self, labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Counts the pixels whose label is not 255.

    Args:
      labels: integer ids of any shape, 0..K-1 or 255.
      predictions: integer ids of the same shape, 0..K-1 wherever the label is
        not 255.

    Returns:
      int64 [K, K], the counts of these pixels alone.

    Raises:
      ValueError: shapes differ, or a value is not a class id.
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
  """Mean over images of the mean IoU of the classes in the image's label.

  This is STMicroelectronics' "average IoU". They score an image at the size of
  the network's input; set `config.eval.resize_labels` to compare with them.

  Attributes:
    counts: int64 [2], sum over images in units of 2 ** -40, and number of
      images that have a labeled pixel.
  """

  def __init__(self):
    self.counts = np.zeros(2, np.int64)

  def add(self, matrix: np.ndarray) -> None:
    """Adds one image, given its confusion matrix, int64 [K, K]."""
    labeled = matrix.sum(1)
    present = labeled > 0
    if present.any():
      hits = np.diagonal(matrix)
      union = labeled + matrix.sum(0) - hits
      mean = (hits[present] / union[present]).mean()
      self.counts += (round(mean / _IOU_UNIT), 1)


class CrossEntropy:
  """Mean cross entropy of the labeled pixels, in nats.

  Without class weights it equals the training loss `cross_entropy` or
  `sigmoid_cross_entropy`.

  Attributes:
    sigmoid: True for one independent sigmoid per class, averaged over classes;
      False for a softmax over the classes.
    counts: int64 [2], sum over pixels in units of 2 ** -20, rounded once per
      image, and number of pixels.
  """

  def __init__(self, *, sigmoid: bool):
    self.sigmoid = sigmoid
    self.counts = np.zeros(2, np.int64)

  def add(self, label: np.ndarray, scores: np.ndarray) -> None:
    """Adds one image.

    Args:
      label: uint8 [H, W], 0..K-1, or 255, which is not counted.
      scores: float32 [H, W, K], logits for the sigmoids, probabilities for the
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
  """Returns the width of the boundary band of an image, in pixels.

  Args:
    size: (H, W) of the image.
    share: width divided by the diagonal of the image; 0.02 in the paper.
  """
  return max(1, round(share * math.hypot(size[0], size[1])))


def boundary_band(ids: np.ndarray, distance: int) -> np.ndarray:
  """Finds the pixels within `distance` of a pixel with another id.

  A pixel of class k is in the band if erosion of the mask of k with a square
  of 2 * distance + 1 pixels removes it. There is no class outside the image, so
  the border of the image is a boundary. One minimum and one maximum filter over
  the ids find the bands of all classes at once: a window holds a second id if
  its minimum or its maximum differs from its center.

  Args:
    ids: uint8 [H, W], with 255 for no class.
    distance: in pixels, at least 1.

  Returns:
    bool [H, W], False wherever `ids` is 255.
  """
  kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
  ids = cv2.copyMakeBorder(
    ids, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=dataset_info.IGNORE
  )
  low, high = cv2.erode(ids, kernel), cv2.dilate(ids, kernel)
  band = ((low != ids) | (high != ids)) & (ids != dataset_info.IGNORE)
  return band[1:-1, 1:-1]


class BoundaryIoU:
  """Counts for the boundary IoU of any number of images.

  Attributes:
    counts: int64 [2, K], intersections and unions of the boundary bands.
    share: width of the band divided by the diagonal of the image.
  """

  def __init__(self, num_classes: int, share: float):
    _check_num_classes(num_classes)
    if share <= 0:
      raise ValueError(f'boundary_share={share} is not positive')
    self.counts = np.zeros((2, num_classes), np.int64)
    self.share = share

  def add(self, label: np.ndarray, prediction: np.ndarray) -> None:
    """Adds one image.

    Pixels that the label ignores are removed from the prediction before the
    bands are computed, so that a perfect prediction scores 1 next to them, too.

    Args:
      label: integer ids [H, W], 0..K-1 or 255.
      prediction: integer ids [H, W].

    Raises:
      ValueError: the sizes differ, or a value is not a class id.
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
  """Divides counts of any shape; NaN wherever the denominator is 0."""
  return np.where(
    denominator > 0, numerator / np.maximum(denominator, 1), np.nan
  )


def _nanmean(values: np.ndarray) -> float:
  """Returns the mean of the values that are not NaN; NaN if all are."""
  values = values[~np.isnan(values)]
  return float(values.mean()) if values.size else math.nan


def _scored_miou(
  confusion: np.ndarray, class_names: Sequence[str], unscored: Sequence[str]
) -> float:
  """Returns the mIoU of the scored classes.

  Labels of `unscored` classes are treated as ignored.

  Args:
    confusion: int64 [K, K], rows = label.
    class_names: K names.
    unscored: some of them.

  Raises:
    ValueError: an unscored class is not one of `class_names`.
  """
  unknown = set(unscored) - set(class_names)
  if unknown:
    raise ValueError(
      f'unscored classes {sorted(unknown)} are not among {list(class_names)}'
    )
  is_scored = np.array([name not in unscored for name in class_names])
  counted = confusion * is_scored[:, None]
  hits = np.diagonal(counted)
  return _nanmean(
    _safe_divide(hits, counted.sum(1) + counted.sum(0) - hits)[is_scored]
  )


def compute_scores(
  confusion: np.ndarray,
  class_names: Sequence[str],
  boundary: np.ndarray | None = None,
  images: np.ndarray | None = None,
  unscored: Sequence[str] = (),
  loss: np.ndarray | None = None,
) -> dict[str, float]:
  """Computes every metric from the counts.

  With n_ij pixels of class i predicted as j, t_i = sum_j n_ij labeled i,
  p_i = sum_j n_ji predicted i, and N pixels in all:

    pixel_accuracy      sum_i n_ii / N
    accuracy/<class>    n_ii / t_i, its recall     mean_accuracy, their mean
    precision/<class>   n_ii / p_i                 mean_precision
    iou/<class>         n_ii / (t_i + p_i - n_ii)  miou
    dice/<class>        2 n_ii / (t_i + p_i), its F1 score     mean_dice
    fw_iou              sum_i t_i iou_i / N
    kappa               Cohen's: accuracy beyond sum_i t_i p_i / N^2
    image_iou           mean over images of the image's own mIoU (`ImageIoU`)
    loss                cross entropy in nats (`CrossEntropy`)
    miou_scored         miou of all classes but `unscored`
    boundary_iou/<class>  iou of the boundary bands            boundary_iou

  Args:
    confusion: int64 [K, K], rows = label.
    class_names: K names.
    boundary: int64 [2, K], intersections and unions of boundary bands; without
      them there is no boundary IoU.
    images: int64 [2], counts of `ImageIoU`; without them there is no
      `image_iou`.
    unscored: names of classes whose labels and scores `miou_scored` ignores;
      without them there is no such metric. MLPerf, for example, scores a
      network of 31 classes and "other" on the 31.
    loss: int64 [2], counts of `CrossEntropy`; without them there is no `loss`.

  Returns:
    Fractions in 0..1 (kappa: -1..1, loss: nats) by name. A score that is not
    defined is NaN; means are over the defined ones.

  Raises:
    ValueError: the shape of the matrix does not fit the number of classes, or
      an unscored class is not one of them.
  """
  confusion = np.asarray(confusion, np.int64)
  if confusion.shape != (len(class_names), len(class_names)):
    raise ValueError(
      f'{len(class_names)} class names do not fit a confusion matrix of shape '
      f'{confusion.shape}'
    )
  hits = np.diagonal(confusion)
  labeled, predicted = confusion.sum(1), confusion.sum(0)
  iou = _safe_divide(hits, labeled + predicted - hits)
  accuracy = _safe_divide(hits, labeled)
  precision = _safe_divide(hits, predicted)
  dice = _safe_divide(2 * hits, labeled + predicted)
  total = labeled.sum()
  agreement = float(_safe_divide(hits.sum(), total))
  share = labeled / max(total, 1)
  chance = float((share * (predicted / max(total, 1))).sum())
  result = {
    'miou': _nanmean(iou),
    'pixel_accuracy': agreement,
    'mean_accuracy': _nanmean(accuracy),
    'mean_precision': _nanmean(precision),
    'fw_iou': float(_safe_divide((labeled * np.nan_to_num(iou)).sum(), total)),
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
  """Returns the names of all metrics of an evaluation.

  Args:
    class_names: K names.
    unscored: names of classes that `miou_scored` ignores.
    loss: True if the evaluation computes the loss, too.
  """
  k = len(class_names)
  confusion, boundary = np.zeros((k, k), np.int64), np.zeros((2, k), np.int64)
  pair = np.zeros(2, np.int64)
  return tuple(
    compute_scores(
      confusion, class_names, boundary, pair, unscored, pair if loss else None
    )
  )
