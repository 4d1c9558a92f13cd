"""mIoU of a model and of the files made of it, by one protocol."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from absl import logging

from deeplab import evaluate
from deeplab import text
from deeplab.data import datasets
from deeplab.inference import predictors
from export import request as request_lib
from export import source as source_lib

_SAMPLES = 3  # images that a report shows


def metrics_of(
  result: evaluate.Result | None, names: Sequence[str]
) -> dict[str, Any]:
  """Returns `miou`, and `iou` of each class by place; None for no result."""
  if result is None:
    return {'miou': None, 'iou': None}
  value = lambda x: None if math.isnan(x) else float(x)
  return {
    'miou': value(result.metrics['miou']),
    'iou': [value(result.metrics[f'iou/{name}']) for name in names],
  }


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Evaluates models by one protocol, or not at all.

  Attributes:
    source: model and data.
    request: the export.
    enabled: whether to evaluate.
    limit: examples of the validation split, 0 for all.
  """

  source: source_lib.Source
  request: request_lib.Request
  enabled: bool
  limit: int

  def total(self) -> int:
    """Returns how many examples an evaluation reads."""
    config = self.source.config
    count = datasets.num_examples(config, config.data.eval_split)
    return min(count, self.limit) if self.limit else count

  def result(
    self, predictor: predictors.Predictor, name: str
  ) -> evaluate.Result | None:
    """Returns the scores of a predictor with the output of the files."""
    if not self.enabled:
      return None
    logging.info(
      'Evaluating %s on %s', name, text.plural(self.total(), 'image')
    )
    return evaluate.evaluate(
      predictors.static_protocol(predictor, self.request.input_size),
      source_lib.eval_examples(self.source, self.limit),
      self.source.info,
      evaluate.file_protocol(self.source.config.eval),
      total=self.total(),
      keep_samples=_SAMPLES,
    )

  def miou(self, predictor: predictors.Predictor, name: str) -> float | None:
    """Returns the mIoU of a predictor; None without an evaluation."""
    miou: float | None = metrics_of(
      self.result(predictor, name), self.source.info.class_names
    )['miou']
    return miou
