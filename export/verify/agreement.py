"""Arg-max agreement of a file with JAX, per class.

Evaluation runs both predictors on the same images, one after the other. The
class maps of the first one are kept in memory as PNG files, a few kilobytes
each, until the second one is compared with them.
"""

from typing import Any

import cv2
import numpy as np

from deeplab import metrics
from deeplab.data import resize
from deeplab.inference import predictors


def _to_argmax_maps(output: np.ndarray) -> np.ndarray:
  return predictors.argmax(output) if output.ndim == 4 else output


class PredictorWrapper:
  """A `predictors.Predictor` whose outputs a subclass observes."""

  def __init__(self, predictor: predictors.Predictor):
    self._predictor = predictor
    self.input_size = predictor.input_size
    self.output = predictor.output
    self.batch_size = predictor.batch_size
    self.mean = predictor.mean

  def with_output(self, output: str) -> 'PredictorWrapper':
    """Returns itself; raises ValueError for any other output."""
    if output != self.output:
      raise ValueError(f'the observed output is {self.output}, not {output}')
    return self

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`."""
    return self._predictor(images)


class PredictionRecorder(PredictorWrapper):
  """A predictor whose class maps are kept."""

  def __init__(self, predictor: predictors.Predictor):
    super().__init__(predictor)
    self._predictions: list[np.ndarray] = []

  def with_output(self, output: str) -> 'PredictionRecorder':
    """Returns a recorder of another output, which shares the kept maps."""
    other = PredictionRecorder(self._predictor.with_output(output))
    other._predictions = self._predictions
    return other

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`."""
    output = self._predictor(images)
    for classes in _to_argmax_maps(output):
      self._predictions.append(cv2.imencode('.png', classes)[1])
    return output

  def prediction(self, index: int) -> np.ndarray:
    """Returns the class map of the image at an index, uint8 [h, w]."""
    classes = cv2.imdecode(self._predictions[index], cv2.IMREAD_UNCHANGED)
    return np.asarray(classes, np.uint8)

  def __len__(self) -> int:
    return len(self._predictions)


class PredictionComparer(PredictorWrapper):
  """A predictor whose class maps are compared with those of a recorder.

  Attributes:
    confusion: confusion matrix; rows are the recorder's classes, columns the
      predictor's.
  """

  def __init__(
    self,
    predictor: predictors.Predictor,
    recorder: PredictionRecorder,
    classes: int,
  ):
    super().__init__(predictor)
    self._recorder = recorder
    self._num_compared = 0
    self.confusion = metrics.ConfusionMatrix(classes)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`.

    Class maps of another size are resized to the recorder's, then compared.
    """
    output = self._predictor(images)
    for classes in _to_argmax_maps(output):
      expected = self._recorder.prediction(self._num_compared)
      self._num_compared += 1
      classes = resize.resize_nearest(classes, expected.shape)
      self.confusion.add(expected, classes)
    return output

  def agreement_shares(self) -> dict[str, Any]:
    """Returns the shares of pixels on which both agree.

    Returns:
      `all`, over all pixels, and `classes`, over the recorder's pixels of each
      class; None for a class without pixels.
    """
    matrix = self.confusion.matrix
    totals = matrix.sum(axis=1)
    return {
      'all': float(matrix.trace() / max(matrix.sum(), 1)),
      'classes': [
        float(matrix[i, i] / total) if total else None
        for i, total in enumerate(totals)
      ],
    }
