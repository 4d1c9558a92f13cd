"""An int8 file as C: the model as an array, and an example that runs it.

The tree builds with CMake. With the sources of TensorFlow Lite Micro it runs
the network on an image that is in it, and compares with what was computed
here; without them it compiles all but the few lines that call them.
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
# Methods of MicroMutableOpResolver that are not the operator's name in words.
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
  """Returns how MicroMutableOpResolver adds an operator."""
  words = operator.lower().split('_')
  return 'Add' + _RESOLVER_METHODS.get(
    operator, ''.join(w.capitalize() for w in words)
  )


def _c_initializer(values: Iterable[int]) -> str:
  """Returns integers as the lines of a C initialiser."""
  texts = [str(value) for value in values]
  rows = [texts[i : i + 20] for i in range(0, len(texts), 20)]
  return '\n'.join('  ' + ', '.join(row) + ',' for row in rows)


def expected_argmax(
  content: bytes, card: dict[str, Any], image: np.ndarray
) -> np.ndarray:
  """Returns the class of each pixel, uint8 [h, w], by TFLM if it is here.

  Args:
    content: of an int8 .tflite file.
    card: its model card.
    image: [H, W, C] in 0..255, of its size.
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
  """Returns what the templates' names stand for."""
  graph = tflite_graph.read_tflite(content)
  names = {'ARENA_BYTES': str(arena), 'MODEL_BYTES': str(len(content))}
  for end, index in (('INPUT', graph.inputs[0]), ('OUTPUT', graph.outputs[0])):
    tensor = graph.tensors[index]
    scale = tflite_graph.tensor_qparams(tensor) or {
      'scale': 1.0,
      'zero_point': 0,
    }
    depth = tensor.shape[3] if len(tensor.shape) == 4 else 1
    names |= {
      f'{end}_HEIGHT': str(tensor.shape[1]),
      f'{end}_WIDTH': str(tensor.shape[2]),
      f'{end}_CHANNELS': str(depth),
      f'{end}_TYPE': _C_TYPES[tensor.dtype],
      f'{end}_IS_FLOAT': str(int(tensor.dtype == 'float32')),
      f'{end}_SCALE': _c_float_literal(scale['scale']),
      f'{end}_ZERO_POINT': str(scale['zero_point']),
      f'{end}_MIN': str(_dtype_limit(tensor.dtype, 'min')),
      f'{end}_MAX': str(_dtype_limit(tensor.dtype, 'max')),
    }
  inside = card['normalization_in_graph']
  floats = lambda xs: ', '.join(_c_float_literal(x) for x in xs)
  names |= {
    'CLASSES': str(len(card['classes'])),
    'OUTPUT_IS_IDS': str(int(card['output'] == 'argmax')),
    'MEAN': floats([0] * len(card['mean']) if inside else card['mean']),
    'STD': floats([1] * len(card['std']) if inside else card['std']),
    'CLASS_NAMES': ', '.join(
      _c_string_literal(name) for name in card['classes']
    ),
    'OPERATOR_COUNT': str(len(tflite_graph.count_operators(graph))),
    'ADD_OPERATORS': '\n'.join(
      f'    if (resolver.{_resolver_method(name)}() != kTfLiteOk) return '
      'nullptr;'
      for name in sorted(tflite_graph.count_operators(graph))
    ),
  }
  return names


def _c_float_literal(value: float) -> str:
  """Returns a C literal of the same float32."""
  text = f'{np.float32(value):.9g}'
  return f'{text}f' if '.' in text or 'e' in text else f'{text}.0f'


def _c_string_literal(text: str) -> str:
  escaped = text.replace('\\', '\\\\').replace('"', '\\"')
  return f'"{escaped}"'


def _dtype_limit(dtype: str, which: str) -> int:
  return 0 if dtype == 'float32' else int(getattr(np.iinfo(dtype), which))


def write_c_project(
  folder: str,
  content: bytes,
  card: dict[str, Any],
  image: np.ndarray,
  arena_bytes: int,
) -> None:
  """Writes the tree.

  Args:
    folder: to make.
    content: of an int8 .tflite file.
    card: its model card.
    image: [H, W, C] in 0..255, of the file's size; rounded to whole numbers,
      it is the sample.
  """
  pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
  names = _template_values(content, card, arena_bytes)
  names |= {
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
      f.write(text.substitute(names))
