"""Summaries of exported files: sizes, memory, operators, inputs and outputs."""

from collections.abc import Sequence
from typing import Any

import jax

from export.convert import onnx
from export.convert import saved_model
from export.graph import memory
from export.graph import tflite_graph
from export.report import model_card


def summarize_tflite(data: bytes) -> dict[str, Any]:
  """Summarizes a .tflite file.

  Args:
    data: bytes of the file.

  Returns:
    `weight_bytes`, `peak_activation_bytes` (the arena plan),
    `activation_lower_bound_bytes`, `unpacked_weight_bytes`, `macs`, `operators`
    (name -> count), `operator_dtypes` (name -> dtype -> count), and `input` and
    `output` (`model_card.describe_tensor`).
  """
  graph = tflite_graph.read_tflite(data)
  activations = memory.activation_lifetimes(graph)
  return {
    'weight_bytes': tflite_graph.weight_bytes(graph),
    'peak_activation_bytes': memory.plan_arena(activations),
    'activation_lower_bound_bytes': memory.lower_bound(activations),
    'unpacked_weight_bytes': memory.unpacked_weight_bytes(graph),
    'macs': tflite_graph.count_macs(graph),
    'operators': tflite_graph.count_operators(graph),
    'operator_dtypes': tflite_graph.count_operator_dtypes(graph),
    'input': model_card.describe_tensor(graph, graph.inputs[0]),
    'output': model_card.describe_tensor(graph, graph.outputs[0]),
  }


def summarize_saved_model(
  compute: saved_model.ServingFunction, shape: Sequence[int], macs: int
) -> dict[str, Any]:
  """Summarizes a SavedModel.

  Args:
    compute: the function in it, [1, H, W, C] float32 -> output.
    shape: (H, W, C).
    macs: multiply-accumulates of the network.

  Returns:
    The keys of `summarize_tflite`. XLA plans activations when it compiles the
    function, so their bytes are None.
  """
  image = jax.ShapeDtypeStruct((1, *shape), 'float32')
  output = jax.eval_shape(compute, image)
  describe = lambda x: {
    'dtype': str(x.dtype),
    'shape': list(x.shape),
    'quantization': None,
  }
  return {
    **saved_model.summarize_stablehlo(compute, shape),
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'unpacked_weight_bytes': 0,
    'macs': macs,
    'input': describe(image),
    'output': describe(output),
  }


def summarize_onnx(content: bytes, base: bytes) -> dict[str, Any]:
  """Summarizes an .onnx file that was converted from a .tflite file.

  Args:
    content: bytes of the .onnx file.
    base: bytes of the .tflite file; MACs and I/O tensors are the same.

  Returns:
    The keys of `summarize_tflite`. ONNX Runtime plans activations when it
    runs, so their bytes are None.
  """
  own = onnx.summarize_onnx(content)
  return summarize_tflite(base) | {
    'weight_bytes': own['weight_bytes'],
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'operators': own['operators'],
    'operator_dtypes': {
      name: {f'opset {own["opset"]}': count}
      for name, count in own['operators'].items()
    },
  }
