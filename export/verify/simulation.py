"""Int8 as JAX simulates it, beside the file that litert-converter makes."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import logging
import numpy as np

from deeplab import networks
from deeplab import system
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
REFERENCE = 'reference'


def predictor(
  source: source_lib.Source,
  network: segmenter.Segmenter,
  variables: PyTree,
  request: request_lib.Request,
) -> predictors.FlaxPredictor:
  """Returns the network of the file, in simulated int8.

  Args:
    source: the model.
    network: see `source.deployed`.
    variables: see `source.quantized`.
    request: the export.
  """
  from deeplab.quantization.simulator import providers  # Qwix may be absent

  data = source.config.data
  net, variables, pixels = litert_converter.network(
    network,
    variables,
    request,
    data.mean,
    data.std,
    source.pixels.highest,
  )
  return predictors.FlaxPredictor(
    providers.simulate(
      net,
      request.rules,
      pixels,
      **networks.forms(source.config),
      narrow_output=request.narrow_output,
    ),
    variables,
    data.mean,
    data.std,
    request.predicted,
    float64=True,
    pixels=pixels is not None,
  )


class _Beside(agreement.Observed):
  """A simulation, counted against files that are asked about the same images.

  Attributes:
    counted: a `parity.Steps` for each file.
  """

  def __init__(
    self,
    simulated: predictors.Predictor,
    files: Mapping[str, predictors.Predictor],
    scale: float,
  ):
    super().__init__(simulated)
    self._files = files
    self.counted = {name: parity.Steps(scale) for name in files}

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] to `output`."""
    images = np.rint(images)
    output = self._predictor(images)
    for name, file in self._files.items():
      for simulated, found in zip(output, file(images), strict=True):
        self.counted[name].add(simulated, found)
    return output


def _by_micro(
  simulated: predictors.Predictor,
  path: str,
  images: Sequence[np.ndarray],
  scale: float,
) -> dict[str, parity.Steps]:
  """Returns how far TFLite Micro is; nothing where it cannot run the file."""
  if not tflm.available():
    return {}
  try:
    with system.capture_stderr():
      few = _Beside(simulated, {'tflm': tflm.TFLMPredictor(path)}, scale)
    for image in images:
      few(image[None])
  except ValueError as error:
    logging.info('TFLite Micro does not run %s: %s', path, error)
    return {}
  return few.counted


def compare(
  simulated: predictors.Predictor,
  path: str,
  images: Sequence[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Returns how far a file is from its simulation, on kernels of three kinds.

  LiteRT's are asked about all images of the evaluation, or about `images`
  without one; TFLite Micro's, which take long, about `images`.

  Args:
    simulated: see `predictor`.
    path: the file, with its card beside it.
    images: [H, W, C] of the file's size.
    scorer: gives mIoU.

  Returns:
    `miou` of the simulation, and `beside`: by kernels (`litert.RESOLVERS`, and
    'tflm' where it runs the file) what `parity.Steps.shares` returns, and
    `miou` for the reference kernels. `beside` is empty for a file of class
    ids, or of logits that stay in float32: there are no steps to count.
  """
  with open(path, 'rb') as f:
    scale = tflite_graph.output_scale(tflite_graph.read(f.read()))
  if scale is None:
    return {'miou': scorer.miou(simulated, 'simulated int8'), 'beside': {}}
  with system.capture_stderr():  # interpreters greet
    files = {
      resolver: litert.TFLitePredictor(path, resolver=resolver)
      for resolver in (REFERENCE, litert.DEFAULT_RESOLVER)
    }
  many = _Beside(simulated, files, scale)
  miou = scorer.miou(many, 'simulated int8, and its file beside it')
  if miou is None:
    for image in images:
      many(image[None])
  few = _by_micro(simulated, path, images, scale)
  beside = {
    name: {**counted.shares(), 'miou': None}
    for name, counted in (many.counted | few).items()
  }
  beside[REFERENCE]['miou'] = scorer.miou(
    files[REFERENCE], 'int8_litert on reference kernels'
  )
  return {'miou': miou, 'beside': beside}
