"""Int8 as JAX simulates it, beside the file that litert-converter makes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deeplab import litert
from deeplab import predictors
from deeplab.models import segmenter
from deeplab.quantization import networks
from export import graph as graph_lib
from export import lowering
from export import parity
from export import request as request_lib
from export import score
from export import source as source_lib

PyTree = Any
# TFLite Micro's kernels are these, too.
RESOLVER = 'reference'


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
  from deeplab.quantization import providers  # Qwix may be absent

  data = source.config.data
  net, variables, pixels = lowering.network(
    network,
    variables,
    request,
    data.mean,
    data.std,
    source.pixels.highest,
  )
  mean, std = data.mean, data.std
  if pixels is not None:  # it normalises itself
    mean, std = np.zeros_like(mean), np.ones_like(std)
  return predictors.FlaxPredictor(
    providers.simulate(
      net, request.rules, pixels, **networks.forms(source.config)
    ),
    variables,
    mean,
    std,
    {'argmax': 'ids'}.get(request.output, request.output),
    float64=True,
  )


def compare(
  simulated: predictors.Predictor,
  path: str,
  images: Sequence[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Returns how far a file on the reference kernels is from its simulation.

  Args:
    simulated: see `predictor`.
    path: the file, with its card beside it.
    images: [H, W, C] of the file's size.
    scorer: gives the simulation's mIoU.

  Returns:
    `images`, how many; `resolver`, `miou`, `argmax_agreement`; and of logits
    with a scale what else `parity.steps` returns.
  """
  miou = scorer.miou(simulated, 'simulated int8')
  with open(path, 'rb') as f:
    scale = graph_lib.output_scale(graph_lib.read(f.read()))
  images = [np.rint(image) for image in images]
  file = litert.TFLitePredictor(path, resolver=RESOLVER)
  wanted = parity.outputs(simulated, images)
  found = parity.outputs(file, images)
  result: dict[str, Any]
  if scale is None:  # class ids, or logits in float32
    both = parity.compare(wanted, found)
    result = {k: both[k] for k in ('images', 'argmax_agreement')}
  else:
    result = parity.steps(wanted, found, scale)
  return {**result, 'resolver': RESOLVER, 'miou': miou}
