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


def derive_file(kind: str, content: bytes) -> tuple[str, bytes, dict[str, Any]]:
  """Returns name, bytes and facts of a format, made of .tflite bytes."""
  facts = summarize_tflite(content)
  if not kind.startswith('onnx'):
    return f'{kind}.tflite', content, facts
  content = onnx.convert_tflite(content)
  own = onnx.summarize_onnx(content)
  facts |= {
    'weight_bytes': own['weight_bytes'],
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'operators': own['operators'],
    'operator_dtypes': {
      name: {f'opset {own["opset"]}': count}
      for name, count in own['operators'].items()
    },
  }
  return f'{kind}.onnx', content, facts
