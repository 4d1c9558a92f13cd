"""How far a file is from the model it was made of."""

import collections
from collections.abc import Sequence

import numpy as np

from deeplab.inference import predictors

Parity = dict[str, float | int | None]


def predict_images(
  predictor: predictors.Predictor, images: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Returns the predictor's output of each image [H, W, C], one at a time."""
  return [predictor(image[None])[0] for image in images]


class LSBDifferences:
  """Counts how far a file's output is from a simulation, in its own steps."""

  def __init__(self, scale: float):
    """Starts at nothing.

    Args:
      scale: step of the file's output.
    """
    self._scale = scale
    self._images = self._agree = self._pixels = 0
    self._distances: collections.Counter[int] = collections.Counter()

  def add(self, simulated: np.ndarray, found: np.ndarray) -> None:
    """Counts one image.

    Args:
      simulated: what JAX computes in simulated int8, [H, W, K] logits.
      found: what the file computes, alike.
    """
    # Whole steps, which the file's outputs are: ties of classes fall alike.
    a, b = np.rint(simulated / self._scale), np.rint(found / self._scale)
    counts = np.bincount(np.abs(a - b).astype(np.int64).ravel())
    self._distances.update(
      {step: int(count) for step, count in enumerate(counts) if count}
    )
    same = predictors.argmax(a) == predictors.argmax(b)
    self._images += 1
    self._agree += int(same.sum())
    self._pixels += same.size

  def summary(self) -> dict[str, float | int]:
    """Returns what was found.

    `images`: how many; `same` and `within_one`: shares of the outputs that are
    equal, or one step apart at most; `max_steps`: the largest distance;
    `argmax_agreement`: share of pixels of one class.
    """
    total = self._distances.total()
    near = self._distances[0] + self._distances[1]
    return {
      'images': self._images,
      'same': self._distances[0] / total,
      'within_one': near / total,
      'max_steps': max(self._distances),
      'argmax_agreement': self._agree / self._pixels,
    }


def compare_in_lsb(
  simulated: Sequence[np.ndarray],
  found: Sequence[np.ndarray],
  scale: float,
) -> dict[str, float | int]:
  """Compares a simulation with the file that it simulates, in LSB."""
  counted = LSBDifferences(scale)
  for a, b in zip(simulated, found, strict=True):
    counted.add(a, b)
  return counted.summary()


def compare_outputs(
  expected: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> Parity:
  """Compares outputs at the file's own size, before any resize back.

  Args:
    expected: what JAX computes, one array an image: [H, W, K] float32 logits
      or probabilities, or [H, W] uint8 ids.
    found: what the file computes, alike.

  Returns:
    `images`: how many; `argmax_agreement`: share of pixels of one class; and
    `max_abs_difference`, `mean_abs_difference` and `reference_max_abs` (the
    largest expected magnitude), in units of the output; None for ids.

  Raises:
    ValueError: there is nothing to compare, or shapes differ.
  """
  if not expected:
    raise ValueError('there are no images to compare the files on')
  for a, b in zip(expected, found, strict=True):
    if a.shape != b.shape:
      raise ValueError(f'outputs of {a.shape} and {b.shape} are not comparable')
  scores = expected[0].ndim == 3
  ids = predictors.argmax if scores else np.asarray
  pairs = list(zip(expected, found, strict=True))
  agreement = float(np.mean([np.mean(ids(a) == ids(b)) for a, b in pairs]))
  parity: Parity = {
    'images': len(pairs),
    'argmax_agreement': agreement,
    'max_abs_difference': None,
    'mean_abs_difference': None,
    'reference_max_abs': None,
  }
  if scores:
    differences = [np.abs(a.astype(np.float64) - b) for a, b in pairs]
    parity |= {
      'max_abs_difference': max(float(d.max()) for d in differences),
      'mean_abs_difference': float(np.mean([d.mean() for d in differences])),
      'reference_max_abs': max(float(np.abs(a).max()) for a in expected),
    }
  return parity
