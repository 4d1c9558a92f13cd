"""Converts a SavedModel to .tflite with TensorFlow's converter.

Formats: float32, float16, int8 and int16x8. Ranges of activations are the
minimum and maximum that TensorFlow's own calibration finds.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from deeplab import system
from deeplab.data import image_format
from deeplab.data import resize
from export import request as request_lib
from export.graph import checks
from export.graph import edit
from export.graph import tflite_graph

KINDS = ('float32', 'float16', 'int8', 'int16x8')
_INTEGER_KINDS = ('int8', 'int16x8')
_INT16X8_OPS = (
  tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
)


def convert_saved_model(
  path: str,
  kind: str,
  request: request_lib.Request,
  samples: Iterable[np.ndarray] = (),
) -> bytes:
  """Converts a SavedModel and rejects a result that devices could not run.

  * float32 and float16 use builtin operators only; float16 stores float16
    weights, which a CPU unpacks when it loads the file.
  * int8 is full-integer: weights symmetric per output channel (or per tensor),
    activations asymmetric per tensor, biases int32.
  * int16x8 has symmetric 16-bit activations and 64-bit biases.

  Args:
    path: folder of the SavedModel.
    kind: one of `KINDS`.
    request: the export.
    samples: float32 [1, H, W, C] each, the calibration inputs of int8 and
      int16x8.

  Returns:
    The bytes of the file.

  Raises:
    BadGraph: the converter left an operator or a dtype that must not be in such
      a file; names it and its tensor.
    ValueError: the kind is unknown, samples are missing, or the converter
      failed.
  """
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is not one of {KINDS}')
  samples = iter(samples)
  first = next(samples, None)
  if kind in _INTEGER_KINDS and first is None:
    raise ValueError(f'{kind} needs calibration images, and there are none')

  def representative():
    yield [first]
    for sample in samples:
      yield [sample]

  with system.capture_stderr() as captured:
    converter = tf.lite.TFLiteConverter.from_saved_model(path)
    _configure_converter(converter, kind, request)
    if kind in _INTEGER_KINDS:
      converter.representative_dataset = representative
    try:
      data = edit.shorten_tensor_names(bytes(converter.convert()))
    except Exception as error:  # of many types, RuntimeError among them
      raise ValueError(
        f'TensorFlow cannot convert the model to {kind}: '
        f'{_format_converter_errors(error, captured())}'
      ) from error
  checks.check_graph(
    tflite_graph.read_tflite(data),
    f'the {kind} file',
    kind,
    *request.io_types(kind),
    weights=request.rules.weights,
  )
  return data


def _configure_converter(
  converter: Any, kind: str, request: request_lib.Request
) -> None:
  """Sets the options of a `tf.lite.TFLiteConverter` for one format."""
  converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
  if kind != 'float32':
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  if kind == 'float16':
    converter.target_spec.supported_types = [tf.float16]
  if kind == 'int16x8':
    converter.target_spec.supported_ops = [_INT16X8_OPS]
  if kind == 'int8':
    # The option has no public name.
    converter._experimental_disable_per_channel = (
      request.rules.weights == 'tensor'
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.as_dtype(request.input_type)
    if request.output != 'argmax':  # class ids have their type in the graph
      converter.inference_output_type = tf.as_dtype(request.output_type)


def _format_converter_errors(error: Exception, stderr: str) -> str:
  """Returns the converter's messages without MLIR dumps and stack traces."""
  lines = [
    line.split('error: ', 1)[1].strip()
    for line in f'{stderr}\n{error}'.splitlines()
    if 'error: ' in line
  ]
  # The first lines name the operator; the rest repeat that it failed.
  return '; '.join(dict.fromkeys(lines[:5])) or str(error).strip()[:500]


def representative_dataset(
  images: Iterable[np.ndarray],
  size: Sequence[int],
  normalization_in_graph: bool,
  mean: Sequence[float],
  std: Sequence[float],
  max_value: int = image_format.RGB.max_value,
) -> Iterator[np.ndarray]:
  """Yields the inputs with which TensorFlow calibrates activation ranges.

  The first image gets one black and one white pixel, so that the range of the
  input is that of all pixel values and not that of the brightest photograph:
  with normalization in the graph the input has scale 1 and zero point 0 (-128
  for int8), which is the pixel values themselves, or scale 257 for images of
  16 bits.

  Args:
    images: [h, w, C] pixel values, of any size.
    size: (H, W) of the file.
    normalization_in_graph: the file takes pixel values; False: normalized ones.
    mean: mean per channel, in pixel values.
    std: standard deviation per channel, in pixel values.
    max_value: the largest pixel value.

  Yields:
    float32 [1, H, W, C].
  """
  for i, image in enumerate(images):
    # A copy, because an image of the right size is returned unchanged.
    x = np.array(resize.resize_bilinear(image, size), np.float32)
    if i == 0:
      x[0, 0] = 0
      x[-1, -1] = max_value
    if not normalization_in_graph:
      x = image_format.normalize_image(
        x, np.asarray(mean, np.float32), np.asarray(std, np.float32)
      )
    yield x[None]
