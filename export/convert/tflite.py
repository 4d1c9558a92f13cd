"""SavedModel -> .tflite, in float32, float16, int8 or int16x8."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab import system
from deeplab.data import image_format
from deeplab.data import resize
from export import file_formats
from export import request as request_lib
from export.graph import checks
from export.graph import edit
from export.graph import tflite_graph

KINDS = ('float32', 'float16', 'int8', 'int16x8')
_INT16X8 = (
  tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
)


def _format_converter_errors(error: Exception, held: str) -> str:
  """Returns the converter's own words, without MLIR dumps and stack traces."""
  lines = [
    line.split('error: ', 1)[1].strip()
    for line in f'{held}\n{error}'.splitlines()
    if 'error: ' in line
  ]
  # The first ones name the operator; the rest repeat that it failed.
  return '; '.join(dict.fromkeys(lines[:5])) or str(error).strip()[:500]


def convert_saved_model(
  path: str,
  kind: str,
  request: request_lib.Request,
  samples: Iterable[np.ndarray] = (),
) -> bytes:
  """Converts a SavedModel, and refuses a result that devices could not run.

  float32 and float16 use builtin operators only; float16 stores float16
  weights, which a CPU unpacks when it loads the file. int8 is full-integer:
  weights symmetric per output channel, activations asymmetric per tensor from
  the smallest and largest value over the samples, biases int32. int16x8 has
  symmetric 16-bit activations and 64-bit biases.

  Args:
    path: the SavedModel's folder.
    kind: of `KINDS`.
    request: the export.
    samples: float32 [1, H, W, C] each; for int8 and int16x8 alone.

  Returns:
    The bytes of the file.

  Raises:
    graph.BadGraph: an operator that must not be in such a file; it and its
      tensor are named.
    ValueError: the converter failed, and why; or no samples for int8.
  """
  if kind not in KINDS:
    raise ValueError(f'kind={kind!r} is not one of {KINDS}')
  samples = iter(samples)
  first = next(samples, None)
  if file_formats.FORMATS[kind].calibrated and first is None:
    raise ValueError(f'{kind} needs calibration images, and there are none')

  def representative():
    yield [first]
    for sample in samples:
      yield [sample]

  with system.capture_stderr() as held:
    converter = tf.lite.TFLiteConverter.from_saved_model(path)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if kind != 'float32':
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == 'float16':
      converter.target_spec.supported_types = [tf.float16]
    if file_formats.FORMATS[kind].calibrated:
      converter.representative_dataset = representative
    if kind == 'int16x8':
      converter.target_spec.supported_ops = [_INT16X8]
    if kind == 'int8':
      # TensorFlow has no public name for it.
      converter._experimental_disable_per_channel = (
        request.rules.weights == 'tensor'
      )
      converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8
      ]
      converter.inference_input_type = tf.as_dtype(request.input_type)
      if request.output != 'argmax':  # ids keep the type they have
        converter.inference_output_type = tf.as_dtype(request.output_type)
    try:
      data = edit.shorten_tensor_names(bytes(converter.convert()))
    except Exception as error:  # the converter raises many, RuntimeError too
      raise ValueError(
        f'TensorFlow cannot convert the model to {kind}: '
        f'{_format_converter_errors(error, held())}'
      ) from error
  checks.check_graph(
    tflite_graph.read_tflite(data),
    f'the {kind} file',
    kind,
    *request.io_types(kind),
    weights=request.rules.weights,
  )
  return data


def representative_dataset(
  images: Iterable[np.ndarray],
  size: Sequence[int],
  normalization_in_graph: bool,
  mean: Sequence[float],
  std: Sequence[float],
  max_value: int = image_format.RGB.max_value,
) -> Iterator[np.ndarray]:
  """Yields the inputs [1, H, W, C] float32 that calibration runs.

  Images are resized as `predictors.ResizedPredictor` does it. One black and one
  white pixel in the first one make the input's range that of all pixel values,
  so that its scale does not hang on the brightest photograph: with
  normalisation in the graph, scale 1 and zero point 0 (-128 for int8), pixels
  as they are; or scale 257 for images of 16 bits.

  Args:
    images: [h, w, C], any size.
    size: (H, W) of the file.
    normalization_in_graph: the file takes images as they are.
    mean: a value a channel.
    std: likewise.
    max_value: the largest value that a pixel may have.
  """
  for i, image in enumerate(images):
    # A copy: an image of the right size comes back as it is.
    x = np.array(resize.resize_bilinear(image, size), np.float32)
    if i == 0:
      x[0, 0] = 0
      x[-1, -1] = max_value
    if not normalization_in_graph:
      x = image_format.normalize_image(
        x, np.asarray(mean, np.float32), np.asarray(std, np.float32)
      )
    yield x[None]
