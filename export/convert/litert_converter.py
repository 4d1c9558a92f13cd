"""Converts simulated int8 to .tflite with litert-converter.

The file computes bit by bit what the simulation computes in JAX. TensorFlow's
converter does not understand the quantization marks of
`providers.mark_for_conversion`: its file would compute in float.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from litert_converter import converter_api_ext
from litert_converter.mlir import ir
from litert_converter.mlir import passmanager
import numpy as np

from deeplab import system
from deeplab.data import image_format
from deeplab.models import segmenter
from deeplab.quantization import pixel_input
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.simulator import providers
from export import request as request_lib
from export.convert import io_types
from export.convert import mixed_precision
from export.graph import checks
from export.graph import tflite_graph

PyTree = Any


def add_input_normalization(
  model: segmenter.Segmenter,
  variables: PyTree,
  request: request_lib.Request,
  mean: Sequence[float],
  std: Sequence[float],
  max_value: int = image_format.RGB.max_value,
) -> tuple[Any, PyTree, tuple[float, float] | None]:
  """Adds input normalization to a network if the request has it in the graph.

  The range of pixel values is known, so the input needs no calibration: an
  8-bit pixel is its own int8 value, minus the zero point.

  Args:
    model: network of normalized images.
    variables: its variables.
    request: the export.
    mean: mean per channel, in pixel values.
    std: standard deviation per channel, in pixel values.
    max_value: the largest pixel value.

  Returns:
    (network, variables, range of the input), the range None for a network of
    normalized images.
  """
  if not request.normalization_in_graph:
    return model, variables, None
  variables = pixel_input.add_normalization_layer(variables, mean, std)
  net = pixel_input.with_input_normalization(model, request.rules, len(mean))
  return net, variables, (0.0, float(max_value))


def _run_converter(text: str) -> bytes:
  """Converts a StableHLO module with quantization marks to a flatbuffer.

  Raises:
    ValueError: litert-converter fails.
  """
  with system.capture_stderr() as captured, ir.Context() as context:
    converter_api_ext.prepare_mlir_context(context)
    module = ir.Module.parse(text)
    config = converter_api_ext.ConvertToTFLConfig()
    config.qdq_conversion_mode = 'STATIC'
    config.strict_qdq_mode = True  # without it tensors stay float
    try:
      converter_api_ext.run_convert_to_tfl_passes(
        module, passmanager.PassManager(), config
      )
      converter_api_ext.set_signature(
        module.operation, 'serving_default', ['image'], ['output']
      )
      return converter_api_ext.export_flatbuffer_to_bytes(module.operation)
    except Exception as error:  # the converter raises many
      raise ValueError(
        'litert-converter cannot convert the model; --formats=int8 does it by '
        f'TensorFlow, or --float_layers leaves layers out: {error} '
        f'{captured()[:500]}'
      ) from error


def convert_network(
  model: segmenter.Segmenter,
  variables: PyTree,
  rules: rules_lib.Rules,
  request: request_lib.Request,
  mean: Sequence[float],
  std: Sequence[float],
  max_value: int = image_format.RGB.max_value,
) -> bytes:
  """Converts a network to an int8 file with the arithmetic of its simulation.

  Args:
    model: built with depthwise and pointwise 'conv', in float32.
    variables: {'params', 'batch_stats', 'quant_stats'}.
    rules: layers and granularity of quantization.
    request: the export; its output is 'logits' or 'argmax'.
    mean: mean per channel, in pixel values.
    std: standard deviation per channel, in pixel values.
    max_value: the largest pixel value.

  Returns:
    The bytes of the .tflite file.

  Raises:
    BadGraph: the converter left an operator or a dtype that must not be in such
      a file; names it and its tensor.
    ValueError: the converter failed.
  """
  net, variables, pixels = add_input_normalization(
    model, variables, request, mean, std, max_value
  )
  variables = jax.tree.map(np.asarray, variables)
  net = providers.mark_for_conversion(
    net, rules, variables, pixels, request.needs_int8_output
  )
  arrays = {k: v for k, v in variables.items() if k != 'quant_stats'}

  def compute(image: jax.Array) -> Any:
    # JAX arrays: NumPy arrays would lose Qwix's metadata.
    output: Any = net.apply(jax.tree.map(jnp.asarray, arrays), image)
    return output.logits

  image = jax.ShapeDtypeStruct((1, *request.input_size, len(mean)), jnp.float32)
  data = _run_converter(jax.jit(compute).lower(image).as_text())
  if rules.wide_layers:
    data = mixed_precision.insert_requantize(data)
  if request.output == 'argmax':
    data = io_types.set_io_types(data, request.input_type, 'float32')
    data = io_types.append_argmax(data, request.output_type)
  else:
    data = io_types.set_io_types(data, request.input_type, request.output_type)
  try:
    checks.check_graph(
      tflite_graph.read_tflite(data),
      'the int8_litert file',
      'int8',
      request.input_type,
      request.output_type,
      weights=rules.weights,
      floats_allowed=bool(rules.float_layers),
    )
  except tflite_graph.BadGraph as error:
    raise tflite_graph.BadGraph(
      f'{error}; --formats=int8 supports more operators'
    ) from None
  return data
