"""How far a file is from the model it was made of."""

from collections.abc import Sequence

import numpy as np

from deeplab import predictors

Parity = dict[str, float | int | None]


def outputs(
  predictor: predictors.Predictor, images: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Returns the predictor's output of each image [H, W, C], one at a time."""
  return [predictor(image[None])[0] for image in images]


def compare(
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
  ids = predictors.to_ids if scores else np.asarray
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
