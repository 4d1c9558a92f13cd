"""Compares exported files with JAX: outputs, arg-max agreement and mIoU.

Every file and the JAX model see the same images by the same protocol, so that a
difference between two rows of the report is one of the files.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from deeplab import evaluate
from deeplab import system
from deeplab.inference import predictors
from deeplab.models import segmenter
from export import file_formats
from export import frozen_model
from export.verify import agreement
from export.verify import parity
from export.verify import score
from export.verify import simulation


@dataclasses.dataclass(frozen=True)
class _WithoutLastResize:
  """A network without its last resize, for `predictors.FlaxPredictor`."""

  model: segmenter.Segmenter

  def apply(self, variables: Any, images: jax.Array) -> Any:
    """Computes logits [B, h, w, K] at the size of the head."""
    return self.model.apply(variables, images, full_resolution=False)


@dataclasses.dataclass(frozen=True)
class Verification:
  """The comparison of one file with JAX.

  Attributes:
    outputs: outputs of the file, [h, w, K] or [h, w] per image.
    parity: differences from the outputs of JAX (`parity.compare_outputs`).
    result: evaluation on the validation split; None without one.
    metrics: `miou` and `iou` of it (`score.select_iou_metrics`).
    agreement: arg-max agreement with JAX per class on the validation split;
      None without an evaluation.
    simulation: differences from simulated int8 (`simulation.compare_with_file`)
      for a format that is simulated, else None.
  """

  outputs: Sequence[np.ndarray]
  parity: parity.Parity
  result: evaluate.Result | None
  metrics: dict[str, Any]
  agreement: dict[str, Any] | None
  simulation: dict[str, Any] | None


class Verifier:
  """The JAX model that files are compared with.

  Attributes:
    expected: its outputs on `model.images`, [h, w, K] or [h, w] each.
    result: its evaluation on the validation split; None without one.
    metrics: `miou` and `iou` of it.
  """

  def __init__(self, model: frozen_model.FrozenModel, scorer: score.Scorer):
    """Runs and evaluates the JAX model.

    Args:
      model: the model as the files hold it.
      scorer: evaluates on the validation split, or not at all.
    """
    self._model = model
    self._scorer = scorer
    reference = _reference_predictor(model)
    comparable = reference
    if model.request.resize == 'host':
      comparable = reference.with_model(_WithoutLastResize(reference.model))
    self.expected = parity.predict_images(comparable, model.images)
    self._recorder = agreement.PredictionRecorder(reference)
    self.result = scorer.score_predictor(self._recorder, 'JAX')
    self.metrics = self._select_metrics(self.result)

  def _select_metrics(self, result: evaluate.Result | None) -> dict[str, Any]:
    names = self._model.source.dataset.info.class_names
    return score.select_iou_metrics(result, names)

  def verify_file(self, file: file_formats.File) -> Verification:
    """Runs and evaluates one file, and compares it with JAX.

    Args:
      file: a file of a format that can be run, its model card beside it.
    """
    model, scorer = self._model, self._scorer
    with system.capture_stderr():  # interpreters print a greeting
      predictor = file.format.open(model, file)
    outputs = parity.predict_images(predictor, model.images)
    comparer = agreement.PredictionComparer(
      predictor, self._recorder, model.source.dataset.info.num_classes
    )
    result = scorer.score_predictor(comparer, file.format.name)
    simulated = None
    if file.format.simulate:
      simulated = simulation.compare_with_file(
        file.format.simulate(model), file.path, model.images, scorer
      )
    return Verification(
      outputs=outputs,
      parity=parity.compare_outputs(self.expected, outputs),
      result=result,
      metrics=self._select_metrics(result),
      agreement=comparer.agreement_shares() if scorer.enabled else None,
      simulation=simulated,
    )


def _reference_predictor(
  model: frozen_model.FrozenModel,
) -> predictors.FlaxPredictor:
  """Returns JAX as it is evaluated, with the kernels of this platform."""
  network = model.source.network
  return network.predictor(
    network.add_input_normalization(model.source.variables),
    model.request.output,
  )
