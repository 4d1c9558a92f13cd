"""How often a file names the class that JAX names, class by class.

Two predictors are asked about the same images, one after the other, which
evaluation does anyway: the first one's answers are kept as small PNG files.
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
  """A predictor that is looked at; see `predictors.Predictor`."""

  def __init__(self, predictor: predictors.Predictor):
    self._predictor = predictor
    self.input_size = predictor.input_size
    self.output = predictor.output
    self.batch_size = predictor.batch_size
    self.mean = predictor.mean

  def with_output(self, output: str) -> 'PredictorWrapper':
    """Returns itself; ValueError for another output than it has."""
    if output != self.output:
      raise ValueError(f'what is observed is {self.output}, not {output}')
    return self

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`."""
    return self._predictor(images)


class PredictionRecorder(PredictorWrapper):
  """A predictor whose answers are kept."""

  def __init__(self, predictor: predictors.Predictor):
    super().__init__(predictor)
    self._predictions: list[np.ndarray] = []

  def with_output(self, output: str) -> 'PredictionRecorder':
    """Returns itself with another output; what was kept is shared."""
    other = PredictionRecorder(self._predictor.with_output(output))
    other._predictions = self._predictions
    return other

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, 3] to `output`."""
    output = self._predictor(images)
    for ids in _to_argmax_maps(output):
      self._predictions.append(cv2.imencode('.png', ids)[1])
    return output

  def prediction(self, index: int) -> np.ndarray:
    """Returns uint8 [h, w], the classes of the image that came `index`th."""
    ids = cv2.imdecode(self._predictions[index], cv2.IMREAD_UNCHANGED)
    return np.asarray(ids, np.uint8)

  def __len__(self) -> int:
    return len(self._predictions)


class PredictionComparer(PredictorWrapper):
  """A predictor whose answers are counted against those of a recorder.

  Attributes:
    confusion: rows are the recorder's classes, columns the predictor's.
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
    """Maps [B, H, W, 3] to `output`.

    Maps of another size than the recorder's are compared at its size.
    """
    output = self._predictor(images)
    for ids in _to_argmax_maps(output):
      wanted = self._recorder.prediction(self._num_compared)
      self._num_compared += 1
      ids = resize.resize_nearest(ids, wanted.shape)
      self.confusion.add(wanted, ids)
    return output

  def agreement_shares(self) -> dict[str, Any]:
    """Returns `all`, and `classes`: a share of pixels, None for no pixels."""
    matrix = self.confusion.matrix
    totals = matrix.sum(axis=1)
    return {
      'all': float(matrix.trace() / max(matrix.sum(), 1)),
      'classes': [
        float(matrix[i, i] / total) if total else None
        for i, total in enumerate(totals)
      ],
    }
