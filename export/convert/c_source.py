"""Writes an int8 file as a C project: the model as an array, and an example.

The project builds with CMake. With the sources of TensorFlow Lite Micro the
example runs the network on an embedded image and compares the classes with
those that Python computed; without them everything compiles but the file that
calls TFLite Micro.
"""

from collections.abc import Iterable
import os
import pathlib
import string
import tempfile
from typing import Any

import numpy as np

from deeplab import system
from deeplab.inference import interpreters
from deeplab.inference import litert
from deeplab.inference import tflm
from export.graph import tflite_graph

_TEMPLATES = pathlib.Path(__file__).parent / 'c_template'
_C_TYPES = {
  'int8': 'int8_t',
  'uint8': 'uint8_t',
  'int32': 'int32_t',
  'float32': 'float',
}
# Methods of MicroMutableOpResolver that are not the capitalized operator name.
# Source: tflite-micro, micro_mutable_op_resolver.h.
_RESOLVER_METHODS = {
  'BATCH_MATMUL': 'BatchMatMul',
  'CUMSUM': 'CumSum',
  'L2_POOL_2D': 'L2Pool2D',
  'CONV_2D': 'Conv2D',
  'DEPTHWISE_CONV_2D': 'DepthwiseConv2D',
  'AVERAGE_POOL_2D': 'AveragePool2D',
  'MAX_POOL_2D': 'MaxPool2D',
  'PADV2': 'PadV2',
  'RELU6': 'Relu6',
}


def _resolver_method(operator: str) -> str:
  """Returns the method of MicroMutableOpResolver that adds an operator."""
  words = operator.lower().split('_')
  return 'Add' + _RESOLVER_METHODS.get(
    operator, ''.join(w.capitalize() for w in words)
  )


def _c_initializer(values: Iterable[int]) -> str:
  """Formats integers as the lines of a C initializer."""
  texts = [str(value) for value in values]
  rows = [texts[i : i + 20] for i in range(0, len(texts), 20)]
  return '\n'.join('  ' + ', '.join(row) + ',' for row in rows)


def expected_argmax(
  content: bytes, card: dict[str, Any], image: np.ndarray
) -> np.ndarray:
  """Computes the classes of an image on TFLM, or on LiteRT without it.

  Args:
    content: bytes of an int8 .tflite file.
    card: its model card.
    image: [H, W, C] in 0..255, of the file's size.

  Returns:
    uint8 [h, w], class ids.
  """
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'model.tflite')
    with open(path, 'wb') as f:
      f.write(content)
    system.write_json(os.path.join(folder, 'model.json'), card)
    predictor = (
      tflm.TFLMPredictor(path)
      if interpreters.has_tflm()
      else litert.TFLitePredictor(path, resolver='reference')
    )
    return predictor.with_output('argmax')(image[None])[0]


def _template_values(
  content: bytes, card: dict[str, Any], arena: int
) -> dict[str, str]:
  """Returns the placeholders of the templates and their values."""
  graph = tflite_graph.read_tflite(content)
  operators = sorted(tflite_graph.count_operators(graph))
  normalizes = not card['normalization_in_graph']
  mean = card['mean'] if normalizes else [0] * len(card['mean'])
  std = card['std'] if normalizes else [1] * len(card['std'])
  return {
    'ARENA_BYTES': str(arena),
    'MODEL_BYTES': str(len(content)),
    **_tensor_values('INPUT', graph.tensors[graph.inputs[0]]),
    **_tensor_values('OUTPUT', graph.tensors[graph.outputs[0]]),
    'CLASSES': str(len(card['classes'])),
    'OUTPUT_IS_IDS': str(int(card['output'] == 'argmax')),
    'MEAN': ', '.join(map(_c_float_literal, mean)),
    'STD': ', '.join(map(_c_float_literal, std)),
    'CLASS_NAMES': ', '.join(map(_c_string_literal, card['classes'])),
    'OPERATOR_COUNT': str(len(operators)),
    'ADD_OPERATORS': '\n'.join(
      f'    if (resolver.{_resolver_method(name)}() != kTfLiteOk) return '
      'nullptr;'
      for name in operators
    ),
  }


def _tensor_values(prefix: str, tensor: tflite_graph.Tensor) -> dict[str, str]:
  """Returns the placeholders of an input [1, H, W, C] or output tensor."""
  qparams = tflite_graph.tensor_qparams(tensor) or {
    'scale': 1.0,
    'zero_point': 0,
  }
  channels = tensor.shape[3] if len(tensor.shape) == 4 else 1
  return {
    f'{prefix}_HEIGHT': str(tensor.shape[1]),
    f'{prefix}_WIDTH': str(tensor.shape[2]),
    f'{prefix}_CHANNELS': str(channels),
    f'{prefix}_TYPE': _C_TYPES[tensor.dtype],
    f'{prefix}_IS_FLOAT': str(int(tensor.dtype == 'float32')),
    f'{prefix}_SCALE': _c_float_literal(qparams['scale']),
    f'{prefix}_ZERO_POINT': str(qparams['zero_point']),
    f'{prefix}_MIN': str(_dtype_limit(tensor.dtype, 'min')),
    f'{prefix}_MAX': str(_dtype_limit(tensor.dtype, 'max')),
  }


def _c_float_literal(value: float) -> str:
  """Formats a number as a C literal of the same float32."""
  text = f'{np.float32(value):.9g}'
  return f'{text}f' if '.' in text or 'e' in text else f'{text}.0f'


def _c_string_literal(text: str) -> str:
  escaped = text.replace('\\', '\\\\').replace('"', '\\"')
  return f'"{escaped}"'


def _dtype_limit(dtype: str, which: str) -> int:
  """Returns the 'min' or 'max' of an integer dtype, 0 for float32."""
  return 0 if dtype == 'float32' else int(getattr(np.iinfo(dtype), which))


def write_c_project(
  folder: str,
  content: bytes,
  card: dict[str, Any],
  image: np.ndarray,
  arena_bytes: int,
) -> None:
  """Writes the C project.

  Args:
    folder: folder to create.
    content: bytes of an int8 .tflite file.
    card: its model card.
    image: [H, W, C] in 0..255, of the file's size; rounded to integers it is
      the example's image.
    arena_bytes: size of TFLite Micro's arena in the example.
  """
  pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
  values = _template_values(content, card, arena_bytes)
  values |= {
    'MODEL_DATA': _c_initializer(content),
    'SAMPLE_PIXELS': _c_initializer(pixels.ravel().tolist()),
    'SAMPLE_IDS': _c_initializer(
      expected_argmax(content, card, pixels).ravel().tolist()
    ),
    'KERNELS': 'TFLite Micro' if interpreters.has_tflm() else 'LiteRT',
  }
  os.makedirs(folder)
  for template in sorted(_TEMPLATES.iterdir()):
    text = string.Template(template.read_text(encoding='utf-8'))
    path = os.path.join(folder, template.name)
    with open(path, 'w', encoding='utf-8') as f:
      f.write(text.substitute(values))
