"""A small int8 file with the operators of the model family, made once."""

import functools
import json
import warnings

import numpy as np
import tensorflow as tf

from deeplab import system

SIZE = (16, 24)
CLASSES = 5


def convert(compute, size, output: str = 'int8', channels: int = 3) -> bytes:
  """Returns the int8 file of a tf.function of one image [1, H, W, C].

  Args:
    compute: the function.
    size: (H, W).
    output: dtype of the output.
    channels: C.
  """
  rng = np.random.default_rng(1)
  with system.capture_stderr(), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
      [compute.get_concrete_function()], compute
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
      [rng.uniform(0, 255, (1, *size, channels)).astype(np.float32)]
      for _ in range(4)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.as_dtype(output)
    return bytes(converter.convert())


@functools.cache
def int8(output: str = 'int8', channels: int = 3) -> bytes:
  """Returns a file that maps an int8 image of `SIZE` to logits in `output`."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: tf.constant(rng.standard_normal(shape, np.float32))
  stem, deep, wide = (
    draw(3, 3, channels, 8),
    draw(3, 3, 8, 1),
    draw(1, 1, 16, CLASSES),
  )

  shape = (1, *SIZE, channels)

  def resize(x, size):
    return tf.raw_ops.ResizeBilinear(
      images=x, size=size, half_pixel_centers=True
    )

  @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
  def compute(x):
    x = tf.nn.relu6(tf.nn.conv2d(x / 100.0, stem, 2, 'SAME'))
    y = tf.nn.depthwise_conv2d(x, deep, (1, 1, 1, 1), 'SAME', dilations=(2, 2))
    x += y
    pooled = tf.nn.avg_pool2d(x, x.shape[1:3], 1, 'VALID')
    x = tf.concat([resize(pooled, x.shape[1:3]), x], axis=-1)
    return resize(tf.nn.conv2d(x, wide, 1, 'SAME'), SIZE)

  return convert(compute, SIZE, output, channels)


def image(seed: int = 0) -> np.ndarray:
  """Returns uint8 [H, W, 3]."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def write(folder, content: bytes, **changes) -> str:
  """Writes x.tflite and its card to a folder; returns the path."""
  card = {
    'input_size': list(SIZE),
    'value_range': [0, 255],
    'mean': [0.0] * 3,
    'std': [1.0] * 3,
    'normalization_in_graph': True,
    'output': 'logits',
    'classes': [str(i) for i in range(CLASSES)],
    'palette': [[0, 0, 0]] * CLASSES,
    **changes,
  }
  (folder / 'x.json').write_text(json.dumps(card))
  (folder / 'x.tflite').write_bytes(content)
  return str(folder / 'x.tflite')
