"""mIoU of a model and of the files made from it, by one protocol."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from absl import logging

from deeplab import evaluate
from deeplab import text
from deeplab.inference import predictors
from export import request as request_lib
from export import source as source_lib

_NUM_SHOWN_IMAGES = 3  # rows of the report's overlays


def select_iou_metrics(
  result: evaluate.Result | None, names: Sequence[str]
) -> dict[str, Any]:
  """Selects mIoU and IoU from an evaluation.

  Args:
    result: the evaluation, or None.
    names: class names.

  Returns:
    `miou`, and `iou` with a value per class, None for a class without pixels;
    both None without an evaluation.
  """
  if result is None:
    return {'miou': None, 'iou': None}
  nan_to_none = lambda x: None if math.isnan(x) else float(x)
  return {
    'miou': nan_to_none(result.metrics['miou']),
    'iou': [nan_to_none(result.metrics[f'iou/{name}']) for name in names],
  }


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Evaluates models by one protocol, or not at all.

  Attributes:
    source: the model and its data.
    request: the export, which defines the input size.
    enabled: False if nothing is evaluated.
    limit: number of validation examples, 0 for all.
  """

  source: source_lib.ExportSource
  request: request_lib.Request
  enabled: bool
  limit: int

  def num_images(self) -> int:
    """Returns the number of examples that an evaluation reads."""
    dataset = self.source.dataset
    count = dataset.num_examples(dataset.config.eval_split)
    return min(count, self.limit) if self.limit else count

  def score_predictor(
    self, predictor: predictors.Predictor, name: str
  ) -> evaluate.Result | None:
    """Evaluates a predictor as a file of the export is evaluated.

    Args:
      predictor: JAX or a file, with the output of the files.
      name: its name in the log.

    Returns:
      The evaluation; None if the scorer is not enabled.
    """
    if not self.enabled:
      return None
    logging.info(
      'Evaluating %s on %s', name, text.plural(self.num_images(), 'image')
    )
    return evaluate.evaluate_predictor(
      predictors.fixed_size_predictor(predictor, self.request.input_size),
      source_lib.eval_examples(self.source, self.limit),
      self.source.dataset.info,
      evaluate.single_view_config(self.source.config.eval),
      total=self.num_images(),
      keep_samples=_NUM_SHOWN_IMAGES,
    )

  def compute_miou(
    self, predictor: predictors.Predictor, name: str
  ) -> float | None:
    """Returns the mIoU of a predictor; None if the scorer is not enabled."""
    miou: float | None = select_iou_metrics(
      self.score_predictor(predictor, name),
      self.source.dataset.info.class_names,
    )['miou']
    return miou
