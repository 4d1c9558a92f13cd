"""Exported .tflite files as predictors, run by LiteRT on the CPU.

A file says which tensors it takes and gives; what they mean (normalisation,
classes, colours) is in its model card, NAME.json beside NAME.tflite.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

from ai_edge_litert import interpreter
import numpy as np

from deeplab import system
from deeplab.data import image_format
from deeplab.data.augmentation import compose
from deeplab.inference import predictors

# LiteRT's kernels. 'default' runs float and int8 graphs through XNNPACK,
# 'builtin' through the optimised kernels alone, 'reference' through the plain
# loops they are checked against (slow). Quantised results of the three differ
# by up to two steps, so a report names the one it used.
RESOLVERS = {
  'default': interpreter.OpResolverType.AUTO,
  'builtin': interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
  'reference': interpreter.OpResolverType.BUILTIN_REF,
}
DEFAULT_RESOLVER = 'default'


def open_interpreter(
  content: bytes,
  *,
  resolver: str = DEFAULT_RESOLVER,
  num_threads: int | None = None,
  preserve_all_tensors: bool = False,
  name: str | os.PathLike = 'the file',
) -> interpreter.Interpreter:
  """Opens a .tflite file in LiteRT and allocates its tensors.

  Every LiteRT interpreter of the project comes from here.

  Args:
    content: bytes of the file.
    resolver: kernels that run it, a key of `RESOLVERS`.
    num_threads: CPU threads; None takes one for each core that this process may
      use.
    preserve_all_tensors: keep intermediate tensors readable after `invoke`, in
      exchange for memory.
    name: path of the file, for the error message.

  Raises:
    ValueError: `resolver` is unknown, or LiteRT cannot load the file.
  """
  if resolver not in RESOLVERS:
    raise ValueError(f'resolver={resolver!r} is not one of {list(RESOLVERS)}')
  try:
    opened = interpreter.Interpreter(
      model_content=content,
      num_threads=num_threads or system.cpu_count(),
      experimental_op_resolver_type=RESOLVERS[resolver],
      experimental_preserve_all_tensors=preserve_all_tensors,
    )
    opened.allocate_tensors()
  except (ValueError, RuntimeError) as error:
    raise ValueError(f'LiteRT cannot load {name}: {error}') from error
  return opened


CARD_KEYS = (
  'input_size',
  'value_range',
  'mean',
  'std',
  'normalization_in_graph',
  'output',
  'classes',
  'palette',
)


def card_path(path: str | os.PathLike) -> pathlib.Path:
  """Returns where the model card of NAME.tflite stands: NAME.json beside it."""
  return pathlib.Path(path).with_suffix('.json')


def read_card(path: str | os.PathLike) -> dict[str, Any]:
  """Reads the model card of a .tflite file.

  Args:
    path: the .tflite file.

  Returns:
    The card: `input_size` [H, W]; `value_range` of the images, [0, 255] or
    [0, 65535]; `mean` and `std`, a value a channel in that range;
    `normalization_in_graph`, whether the file wants images as they are;
    `output`, 'logits', 'softmax' or 'argmax'; `classes`, K names; `palette`,
    K RGB triples; and what else the exporter wrote, `sha256` of the file among
    it.

  Raises:
    ValueError: there is no card, it is no JSON, or a key is missing.
  """
  card_file = card_path(path)
  if not card_file.is_file():
    raise ValueError(
      f'{path} has no model card: put {card_file.name}, which the export '
      'writes, beside it'
    )
  try:
    card = json.loads(card_file.read_text())
  except ValueError as error:
    raise ValueError(
      f'the model card {card_file} is no JSON: {error}'
    ) from None
  missing = [key for key in CARD_KEYS if key not in card]
  if missing:
    raise ValueError(
      f'the model card {card_file} lacks {", ".join(missing)}: export the '
      'model again'
    )
  if card['output'] not in ('logits', 'softmax', 'argmax'):
    raise ValueError(
      f'the model card {card_file} says output={card["output"]!r}, which is '
      'not one of logits, softmax, argmax'
    )
  return card


def quantize_input(x: np.ndarray, detail: dict) -> np.ndarray:
  """Returns float values in the dtype that a tensor of the file has."""
  dtype = detail['dtype']
  if not np.issubdtype(dtype, np.integer):
    return x.astype(dtype)
  scale, zero_point = detail['quantization']
  if scale:
    x = x / scale + zero_point
  limits = np.iinfo(dtype)
  return np.clip(np.rint(x), limits.min, limits.max).astype(dtype)


def _dequantize_output(q: np.ndarray, detail: dict) -> np.ndarray:
  """Returns the float32 values of a tensor of the file."""
  scale, zero_point = detail['quantization']
  if np.issubdtype(q.dtype, np.integer) and scale:
    return (q.astype(np.float32) - zero_point) * np.float32(scale)
  return q.astype(np.float32)


class TFLitePredictor:
  """A .tflite file with its model card, run by LiteRT on the CPU.

  The file computes at one size: `predictors.ResizedPredictor` gives it
  images of any other.
  Input and output may be float32, int8 or uint8; quantised values are
  converted with the scales in the file.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    resolver: str = DEFAULT_RESOLVER,
    num_threads: int | None = None,
  ):
    """Loads a file.

    Args:
      path: NAME.tflite; NAME.json beside it is its card (`read_card`).
      resolver: which kernels run it, see `RESOLVERS`.
      num_threads: CPU threads; None is one for each core this process may use.

    Raises:
      ValueError: no such file, no TensorFlow Lite file or a damaged one, or a
        card that is missing or does not fit it.
    """
    self.resolver = resolver
    self._num_threads = num_threads
    self._load(path)

  def _load(self, path: str | os.PathLike) -> None:
    """Reads file and card, and checks that they belong together."""
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise ValueError(f'there is no file {self.path}')
    content = self.path.read_bytes()
    self._check_format(content)
    self.card = read_card(self.path)
    digest = self.card.get('sha256')
    if digest and digest != hashlib.sha256(content).hexdigest():
      raise ValueError(
        f'{self.path} is not the file that its model card {card_path(path)} '
        'was written with: it is damaged or was replaced, so export it again'
      )
    inputs, outputs = self._make_interpreter(content)
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0]['shape']) != 4:
      raise ValueError(
        f'{self.path} has {len(inputs)} inputs and {len(outputs)} outputs; a '
        'segmentation model maps one image [B, H, W, C] to one output'
      )
    self._input, self._output = inputs[0], outputs[0]
    shape = [int(n) for n in self._input['shape']]
    self.batch_size = shape[0]
    self.input_size = (shape[1], shape[2])
    said = [*self.card['input_size'], len(self.card['mean'])]
    if said != shape[1:]:
      raise ValueError(
        f'{self.path} takes images of {shape[1:]}, its model card says {said}: '
        'the card is of another file'
      )
    self.mean = tuple(float(x) for x in self.card['mean'])
    self.image_spec = image_format.ImageSpec(
      len(self.mean), 16 if self.card['value_range'][1] > 255 else 8
    )
    self._file_output = {'argmax': 'ids'}.get(
      self.card['output'], self.card['output']
    )
    self.output = self._file_output

  def with_output(self, output: str) -> 'TFLitePredictor':
    """Returns this predictor with another output, computed on the host."""
    if output == self.output:
      return self
    order = ('logits', 'softmax', 'ids')
    if order.index(predictors.check_output(output)) < order.index(
      self._file_output
    ):
      raise ValueError(
        f'{self.path} gives {self._file_output}, which no {output} can be made '
        'of: '
        'export it with another output, or ask for one view of whole images '
        "(eval.mode='whole', eval.scales=(1.0,), eval.flip=False)"
      )
    other = type(self).__new__(type(self))
    other.__dict__.update(self.__dict__)
    other.output = output
    return other

  def _check_format(self, content: bytes) -> None:
    if content[4:8] != b'TFL3':
      raise ValueError(f'{self.path} is not a TensorFlow Lite file')

  def _make_interpreter(self, content: bytes) -> tuple[list[dict], list[dict]]:
    """Makes the interpreter; returns details of its inputs and outputs."""
    self._interpreter: Any = open_interpreter(
      content,
      resolver=self.resolver,
      num_threads=self._num_threads,
      name=self.path,
    )
    return (
      self._interpreter.get_input_details(),
      self._interpreter.get_output_details(),
    )

  def _run(self, values: np.ndarray) -> np.ndarray:
    """Maps one batch to the output, both in the types of the file."""
    self._interpreter.set_tensor(self._input['index'], values)
    self._interpreter.invoke()
    return self._interpreter.get_tensor(self._output['index'])

  def _invoke(self, images: np.ndarray) -> np.ndarray:
    """Runs one static batch."""
    result = self._run(quantize_input(images, self._input))
    if self._file_output == 'ids':
      result = result[..., 0] if result.ndim == 4 else result
      return result.astype(np.uint8)
    return _dequantize_output(result, self._output)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] of the file's size and values to `output`."""
    expected = (*self.input_size, self.image_spec.channels)
    if images.shape[1:] != expected:
      raise ValueError(
        f'{self.path} takes images of {expected}, not {images.shape[1:]}: '
        'predictors.Resized changes their size'
      )
    count = len(images)
    images = np.asarray(images, np.float32)
    if not self.card['normalization_in_graph']:
      mean = np.asarray(self.card['mean'], np.float32)
      std = np.asarray(self.card['std'], np.float32)
      images = compose.normalize_image(images, mean, std)
    surplus = -count % self.batch_size
    images = np.concatenate([images, images[-1:].repeat(surplus, axis=0)])
    result = np.concatenate(
      [
        self._invoke(images[start : start + self.batch_size])
        for start in range(0, len(images), self.batch_size)
      ]
    )[:count]
    if self.output == self._file_output:
      return result
    if self.output == 'softmax':
      return predictors.softmax(result)
    return predictors.argmax(result)
