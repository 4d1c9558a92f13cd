"""Compares the int8_litert file with the JAX simulation of its arithmetic.

litert-converter's file computes what `quantization.simulator` computes: on
LiteRT's reference kernels outputs are equal bit by bit, on the others they may
differ by a few LSB.
"""

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
from export import frozen_model
from export.graph import tflite_graph
from export.verify import agreement
from export.verify import parity
from export.verify import score

# The plain loops, which the simulation matches bit by bit.
REFERENCE_RESOLVER = 'reference'


def make_simulated_predictor(
  model: frozen_model.FrozenModel,
) -> predictors.FlaxPredictor:
  """Returns the network of the int8_litert file, in simulated int8.

  Args:
    model: the model as the files hold it.
  """
  from export.convert import litert_converter

  request = model.request
  net, variables, input_range = litert_converter.add_input_normalization(
    model.network,
    model.simulation_variables,
    request,
    model.mean,
    model.std,
    model.max_value,
  )
  simulated: Any = model.source.network.simulate_int8(
    net, request.rules, input_range, int8_output=request.needs_int8_output
  )
  if not request.normalization_in_graph:
    simulated = predictors.WithNormalization(simulated, model.mean, model.std)
  return predictors.Int8Predictor(
    simulated, variables, model.mean, request.output
  )


class _ComparingPredictor(agreement.PredictorWrapper):
  """A simulation that also runs files on each image, and counts differences.

  Attributes:
    differences: name of a file -> `parity.LSBDifferences`.
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
  """Counts the differences of TFLite Micro; {} if it cannot run the file."""
  if not interpreters.has_tflm():
    return {}
  try:
    with system.capture_stderr():
      comparing = _ComparingPredictor(
        simulated, {'tflm': tflm.TFLMPredictor(path)}, scale
      )
    for image in images:
      comparing(image[None])
  except ValueError as error:
    logging.info('TFLite Micro does not run %s: %s', path, error)
    return {}
  return comparing.differences


def compare_with_file(
  simulated: predictors.Predictor,
  path: str,
  images: Sequence[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Compares a file on three kinds of kernels with its simulation.

  LiteRT's kernels run all images of the evaluation, or `images` without one.
  TFLite Micro's kernels, which are slow, run `images`.

  Args:
    simulated: the predictor of `make_simulated_predictor`.
    path: the .tflite file, with its model card beside it.
    images: [H, W, C] each, of the file's size.
    scorer: evaluates on the validation split, or not at all.

  Returns:
    `miou` of the simulation, and `beside`: kernels (those of
    `interpreters.RESOLVERS`, and 'tflm' if it runs the file) -> the summary of
    `parity.LSBDifferences`, and `miou` of the reference kernels. `beside` is
    empty for a file of class ids or float32 logits, whose output has no LSB.
  """
  with open(path, 'rb') as f:
    scale = tflite_graph.output_scale(tflite_graph.read_tflite(f.read()))
  if scale is None:
    return {
      'miou': scorer.compute_miou(simulated, 'simulated int8'),
      'beside': {},
    }
  with system.capture_stderr():  # interpreters print a greeting
    files = {
      resolver: litert.TFLitePredictor(path, resolver=resolver)
      for resolver in (REFERENCE_RESOLVER, interpreters.DEFAULT_RESOLVER)
    }
  comparing = _ComparingPredictor(simulated, files, scale)
  miou = scorer.compute_miou(comparing, 'simulated int8 and its file')
  if miou is None:
    for image in images:
      comparing(image[None])
  differences = comparing.differences | _compare_with_tflm(
    simulated, path, images, scale
  )
  kernels = {
    name: {**counted.summary(), 'miou': None}
    for name, counted in differences.items()
  }
  kernels[REFERENCE_RESOLVER]['miou'] = scorer.compute_miou(
    files[REFERENCE_RESOLVER], 'int8_litert on reference kernels'
  )
  return {'miou': miou, 'beside': kernels}
