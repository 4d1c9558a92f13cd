"""What the files of each format say of themselves."""

from collections.abc import Sequence
from typing import Any

import jax

from export.convert import onnx
from export.convert import saved_model
from export.graph import memory
from export.graph import tflite_graph
from export.report import model_card


def summarize_tflite(data: bytes) -> dict[str, Any]:
  """Returns what the bytes of a .tflite file say."""
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
  """Returns the same of a SavedModel, whose memory XLA plans when it runs."""
  image = jax.ShapeDtypeStruct((1, *shape), 'float32')
  result = jax.eval_shape(compute, image)
  end = lambda x: {
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
    'input': end(image),
    'output': end(result),
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
