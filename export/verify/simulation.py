"""Int8 as JAX simulates it, beside the file that litert-converter makes."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import logging
import numpy as np

from deeplab import system
from deeplab.inference import interpreters
from deeplab.inference import litert
from deeplab.inference import predictors
from deeplab.inference import tflm
from deeplab.models import segmenter
from export import request as request_lib
from export import source as source_lib
from export.convert import litert_converter
from export.graph import tflite_graph
from export.verify import agreement
from export.verify import parity
from export.verify import score

PyTree = Any
# The plain loops, whose arithmetic the simulation is.
REFERENCE_RESOLVER = 'reference'


def make_simulated_predictor(
  source: source_lib.ExportSource,
  network: segmenter.Segmenter,
  variables: PyTree,
  request: request_lib.Request,
) -> predictors.FlaxPredictor:
  """Returns the network of the file, in simulated int8.

  Args:
    source: the model.
    network: see `source.build_export_model`.
    variables: see `source.prepare_int8_variables`.
    request: the export.
  """
  data = source.config.data
  net, variables, pixels = litert_converter.add_input_normalization(
    network,
    variables,
    request,
    data.mean,
    data.std,
    source.dataset.spec.max_value,
  )
  model = source.network.simulate_int8(
    net, request.rules, pixels, int8_output=request.needs_int8_output
  )
  if not request.normalization_in_graph:
    model = predictors.WithNormalization(model, data.mean, data.std)
  return predictors.Int8Predictor(model, variables, data.mean, request.output)


class _ComparingPredictor(agreement.PredictorWrapper):
  """A simulation, counted against files that are asked about the same images.

  Attributes:
    differences: a `parity.LSBDifferences` for each file.
  """

  def __init__(
    self,
    simulated: predictors.Predictor,
    files: Mapping[str, predictors.Predictor],
    scale: float,
  ):
    super().__init__(simulated)
    self._files = files
    self.differences = {name: parity.LSBDifferences(scale) for name in files}

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`."""
    images = np.rint(images)
    output = self._predictor(images)
    for name, file in self._files.items():
      for simulated, found in zip(output, file(images), strict=True):
        self.differences[name].add(simulated, found)
    return output


def _compare_with_tflm(
  simulated: predictors.Predictor,
  path: str,
  images: Sequence[np.ndarray],
  scale: float,
) -> dict[str, parity.LSBDifferences]:
  """Returns how far TFLite Micro is; nothing where it cannot run the file."""
  if not interpreters.has_tflm():
    return {}
  try:
    with system.capture_stderr():
      few = _ComparingPredictor(
        simulated, {'tflm': tflm.TFLMPredictor(path)}, scale
      )
    for image in images:
      few(image[None])
  except ValueError as error:
    logging.info('TFLite Micro does not run %s: %s', path, error)
    return {}
  return few.differences


def compare_with_file(
  simulated: predictors.Predictor,
  path: str,
  images: Sequence[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Returns how far a file is from its simulation, on kernels of three kinds.

  LiteRT's are asked about all images of the evaluation, or about `images`
  without one; TFLite Micro's, which take long, about `images`.

  Args:
    simulated: see `make_simulated_predictor`.
    path: the file, with its card beside it.
    images: [H, W, C] of the file's size.
    scorer: gives mIoU.

  Returns:
    `miou` of the simulation, and `beside`: by kernels
    (`interpreters.RESOLVERS`, and 'tflm' where it runs the file) the summary of
    `parity.LSBDifferences`, and `miou` for the reference kernels. `beside` is
    empty for a file of class ids or of float32 logits, which have no LSB to
    count in.
  """
  with open(path, 'rb') as f:
    scale = tflite_graph.output_scale(tflite_graph.read_tflite(f.read()))
  if scale is None:
    return {
      'miou': scorer.compute_miou(simulated, 'simulated int8'),
      'beside': {},
    }
  with system.capture_stderr():  # interpreters greet
    files = {
      resolver: litert.TFLitePredictor(path, resolver=resolver)
      for resolver in (REFERENCE_RESOLVER, interpreters.DEFAULT_RESOLVER)
    }
  many = _ComparingPredictor(simulated, files, scale)
  miou = scorer.compute_miou(many, 'simulated int8, and its file beside it')
  if miou is None:
    for image in images:
      many(image[None])
  few = _compare_with_tflm(simulated, path, images, scale)
  beside = {
    name: {**counted.summary(), 'miou': None}
    for name, counted in (many.differences | few).items()
  }
  beside[REFERENCE_RESOLVER]['miou'] = scorer.compute_miou(
    files[REFERENCE_RESOLVER], 'int8_litert on reference kernels'
  )
  return {'miou': miou, 'beside': beside}
