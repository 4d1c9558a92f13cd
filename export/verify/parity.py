"""Differences between the outputs of a file and of the model behind it."""

import collections
from collections.abc import Sequence

import numpy as np

from deeplab.inference import predictors

Parity = dict[str, float | int | None]


def predict_images(
  predictor: predictors.Predictor, images: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Runs a predictor on images one at a time.

  Args:
    predictor: a predictor.
    images: [H, W, C] each.

  Returns:
    Its output for each image, [H, W, K] or [H, W].
  """
  return [predictor(image[None])[0] for image in images]


class LSBDifferences:
  """Counts differences between a file and its simulation in LSB.

  One LSB is one integer of the file's output, `scale` in real units.
  """

  def __init__(self, scale: float):
    """Starts without images.

    Args:
      scale: quantization scale of the file's output.
    """
    self._scale = scale
    self._images = self._agree = self._pixels = 0
    self._distances: collections.Counter[int] = collections.Counter()

  def add(self, simulated: np.ndarray, found: np.ndarray) -> None:
    """Counts one image.

    Args:
      simulated: logits [H, W, K] of JAX in simulated int8.
      found: logits [H, W, K] of the file.
    """
    # Rounded to LSB, so that classes tie in both or in neither.
    a, b = np.rint(simulated / self._scale), np.rint(found / self._scale)
    counts = np.bincount(np.abs(a - b).astype(np.int64).ravel())
    self._distances.update(
      {lsb: int(count) for lsb, count in enumerate(counts) if count}
    )
    same = predictors.argmax(a) == predictors.argmax(b)
    self._images += 1
    self._agree += int(same.sum())
    self._pixels += same.size

  def summary(self) -> dict[str, float | int]:
    """Summarizes all images.

    Returns:
      `images`, their number; `same` and `within_one`, the shares of outputs
      that are equal or differ by at most one LSB; `max_steps`, the largest
      difference in LSB; `argmax_agreement`, the share of pixels with the same
      class.
    """
    total = self._distances.total()
    within_one = self._distances[0] + self._distances[1]
    return {
      'images': self._images,
      'same': self._distances[0] / total,
      'within_one': within_one / total,
      'max_steps': max(self._distances),
      'argmax_agreement': self._agree / self._pixels,
    }


def compare_in_lsb(
  simulated: Sequence[np.ndarray],
  found: Sequence[np.ndarray],
  scale: float,
) -> dict[str, float | int]:
  """Compares a simulation with the file that it simulates, in LSB.

  Args:
    simulated: logits [H, W, K] of JAX in simulated int8, one array per image.
    found: logits of the file, in the same shapes.
    scale: quantization scale of the file's output.

  Returns:
    The summary of `LSBDifferences`.
  """
  differences = LSBDifferences(scale)
  for a, b in zip(simulated, found, strict=True):
    differences.add(a, b)
  return differences.summary()


def compare_outputs(
  expected: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> Parity:
  """Compares outputs at the file's size, before they are resized back.

  Args:
    expected: outputs of JAX, one array per image: [H, W, K] float32 logits or
      probabilities, or [H, W] uint8 class ids.
    found: outputs of the file, in the same shapes.

  Returns:
    `images`, their number; `argmax_agreement`, the share of pixels with the
    same class; and `max_abs_difference`, `mean_abs_difference` and
    `reference_max_abs` (the largest expected magnitude) in units of the output,
    None for class ids.

  Raises:
    ValueError: there are no images, or shapes differ.
  """
  if not expected:
    raise ValueError('there are no images to compare the files on')
  for a, b in zip(expected, found, strict=True):
    if a.shape != b.shape:
      raise ValueError(f'outputs of {a.shape} and {b.shape} are not comparable')
  has_scores = expected[0].ndim == 3
  to_classes = predictors.argmax if has_scores else np.asarray
  pairs = list(zip(expected, found, strict=True))
  agreement = float(
    np.mean([np.mean(to_classes(a) == to_classes(b)) for a, b in pairs])
  )
  parity: Parity = {
    'images': len(pairs),
    'argmax_agreement': agreement,
    'max_abs_difference': None,
    'mean_abs_difference': None,
    'reference_max_abs': None,
  }
  if has_scores:
    differences = [np.abs(a.astype(np.float64) - b) for a, b in pairs]
    parity |= {
      'max_abs_difference': max(float(d.max()) for d in differences),
      'mean_abs_difference': float(np.mean([d.mean() for d in differences])),
      'reference_max_abs': max(float(np.abs(a).max()) for a in expected),
    }
  return parity
