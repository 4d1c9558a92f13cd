"""Base of the predictors of exported files: checks, types and batches."""

import abc
import copy
import hashlib
import os
import pathlib
import threading
from typing import Any
from typing import NamedTuple
from typing import Self

import numpy as np

from deeplab.data import image_format
from deeplab.inference import model_card
from deeplab.inference import predictors


class TensorDetail(NamedTuple):
  """Type of a file's input or output.

  Attributes:
    dtype: NumPy type.
    shape: its sizes; [B, H, W, C] for the input.
    scale: quantization scale; 0 for a tensor that is not quantized.
    zero_point: quantization zero point.
    key: index or name by which the runtime addresses it.
  """

  dtype: Any
  shape: tuple[int, ...]
  scale: float
  zero_point: int
  key: Any = None


InputsAndOutputs = tuple[list[TensorDetail], list[TensorDetail]]


def quantize_input(x: np.ndarray, detail: TensorDetail) -> np.ndarray:
  """Converts float values of any shape to the type of a file's input."""
  if not np.issubdtype(detail.dtype, np.integer):
    return x.astype(detail.dtype)
  if detail.scale:
    x = x / detail.scale + detail.zero_point
  limits = np.iinfo(detail.dtype)
  return np.clip(np.rint(x), limits.min, limits.max).astype(detail.dtype)


def _dequantize_output(q: np.ndarray, detail: TensorDetail) -> np.ndarray:
  """Converts an output of any shape to the float32 values it stands for."""
  if np.issubdtype(q.dtype, np.integer) and detail.scale:
    return (q.astype(np.float32) - detail.zero_point) * np.float32(detail.scale)
  return q.astype(np.float32)


class FilePredictor(abc.ABC):
  """An exported file with its model card, as a `predictors.Predictor`.

  The file computes at one size; `predictors.ResizedPredictor` adapts it to
  images of any size. Input and output may be float32, int8 or uint8: quantized
  values are converted with the scales of the file.

  A subclass is a runtime. It implements `_open`, which loads the file, and
  `_run`, which computes one batch; `litert`, `onnx` and `tflm` are examples.

  Several threads may call one predictor: `_run` runs in one of them at a time,
  because an interpreter keeps its input and output in place. One run takes all
  cores already, and an interpreter for each thread would multiply the memory.

  Attributes:
    path: of the file.
    card: its model card, as `model_card.read_card` returns it.
    resolver: name of the kernels that run it.
    batch_size: images per run of the file; any number may be passed.
    input_size: (H, W) of the file.
    mean: one value per channel, the color of padding.
    image_spec: channels and bit depth of the images.
    output: 'logits', 'softmax' or 'argmax'.
  """

  resolver: str

  def __init__(
    self, path: str | os.PathLike, card: dict[str, Any] | None = None
  ):
    """Reads file and card, and checks that they belong together.

    Args:
      path: of the file.
      card: its model card; None to read NAME.json beside it.

    Raises:
      ValueError: the file is absent, damaged or in another format, or the card
        is absent or belongs to another file.
    """
    self.path = pathlib.Path(path)
    if not self.path.is_file():
      raise ValueError(f'there is no file {self.path}')
    content = self.path.read_bytes()
    self._check_format(content)
    self.card = model_card.read_card(self.path) if card is None else card
    digest = self.card.get('sha256')
    if digest and digest != hashlib.sha256(content).hexdigest():
      raise ValueError(
        f'{self.path} does not match the sha256 in its model card '
        f'{model_card.card_path(path)}: it is damaged or was replaced, so '
        'export it again'
      )
    inputs, outputs = self._open(content)
    if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
      raise ValueError(
        f'{self.path} has {len(inputs)} inputs and {len(outputs)} outputs; a '
        'segmentation model maps one image [B, H, W, C] to one output'
      )
    self._input, self._output = inputs[0], outputs[0]
    batch, *shape = (int(n) for n in self._input.shape)
    self.batch_size = batch
    self.input_size = (shape[0], shape[1])
    card_shape = [*self.card['input_size'], len(self.card['mean'])]
    if card_shape != shape:
      raise ValueError(
        f'{self.path} takes images of {shape}, its model card '
        f'{model_card.card_path(path)} says {card_shape}: the card belongs to '
        'another file'
      )
    self.mean = tuple(float(x) for x in self.card['mean'])
    self.image_spec = image_format.ImageSpec(
      len(self.mean), 16 if self.card['value_range'][1] > 255 else 8
    )
    self._file_output = self.output = self.card['output']
    # Shared with the copies of `with_output`, as the interpreter is.
    self._lock = threading.Lock()
    self._check_tensor('input', self._input)
    self._check_tensor('output_tensor', self._output)
    self._check_output_shape()

  def _check_tensor(self, key: str, detail: TensorDetail) -> None:
    """Raises ValueError if the card describes a tensor of another file.

    Args:
      key: of the description in the card; older cards lack it.
      detail: the tensor as it is in the file.
    """
    described = self.card.get(key, {})
    quantization = described.get('quantization') or {}
    found = {
      'dtype': np.dtype(detail.dtype).name,
      'shape': [int(n) for n in detail.shape],
      'scale': np.float32(detail.scale or 0),
      'zero_point': detail.zero_point if detail.scale else 0,
    }
    expected = {
      'dtype': described.get('dtype', found['dtype']),
      'shape': described.get('shape', found['shape']),
      'scale': found['scale'],
      'zero_point': found['zero_point'],
    }
    if 'quantization' in described:
      expected['scale'] = np.float32(quantization.get('scale', 0))
      expected['zero_point'] = quantization.get('zero_point', 0)
    for name, value in expected.items():
      if value != found[name]:
        raise ValueError(
          f'{self.path} has an {key.replace("_", " ")} whose {name} is '
          f'{found[name]}, its model card {model_card.card_path(self.path)} '
          f'says {value}: the card belongs to another file, or is damaged'
        )

  def _check_output_shape(self) -> None:
    """Raises ValueError if the card names another output or other classes."""
    shape = tuple(int(n) for n in self._output.shape)
    classes = len(self.card['classes'])
    if self._file_output == 'argmax':
      fits = len(shape) == 3 or (len(shape) == 4 and shape[3] == 1)
    else:
      fits = len(shape) == 4 and shape[3] == classes
    if not fits:
      raise ValueError(
        f'{self.path} has an output of shape {list(shape)}, its model card '
        f'{model_card.card_path(self.path)} says {self._file_output} of '
        f'{classes} classes: the card belongs to another file, or is damaged'
      )

  def _check_format(self, content: bytes) -> None:
    """Raises ValueError if the content is obviously in another format."""
    del content  # by default the runtime is the judge, in `_open`

  @abc.abstractmethod
  def _open(self, content: bytes) -> InputsAndOutputs:
    """Loads the file into the runtime.

    Args:
      content: bytes of the file; `self.card` is already read.

    Returns:
      The inputs and the outputs of the file.

    Raises:
      ValueError: the runtime is not installed or cannot load the file.
    """

  @abc.abstractmethod
  def _run(self, values: np.ndarray) -> np.ndarray:
    """Maps one batch [B, H, W, C] to the output, in the types of the file.

    It is never called in two threads at once.
    """

  def with_output(self, output: str) -> Self:
    """Returns this predictor with another output, computed on the host."""
    if output == self.output:
      return self
    order = predictors.OUTPUTS
    if order.index(predictors.check_output(output)) < order.index(
      self._file_output
    ):
      raise ValueError(
        f'{self.path} returns {self._file_output}, and no {output} can be made '
        'from that: export it with another output, or evaluate one view of '
        "whole images (eval.mode='whole', eval.scales=(1.0,), eval.flip=False)"
      )
    other = copy.copy(self)
    other.output = output
    return other

  def _predict_batch(self, images: np.ndarray) -> np.ndarray:
    """Maps float32 [B, H, W, C] of the file's batch size to its output."""
    values = quantize_input(images, self._input)
    with self._lock:
      result = self._run(values)
    if self._file_output == 'argmax':
      result = result[..., 0] if result.ndim == 4 else result
      return result.astype(np.uint8)
    return _dequantize_output(result, self._output)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Maps [B, H, W, C] at the file's size and value range to `output`."""
    expected = (*self.input_size, self.image_spec.channels)
    if images.shape[1:] != expected:
      raise ValueError(
        f'{self.path} takes images of {expected}, not {images.shape[1:]}: '
        'wrap it in predictors.ResizedPredictor'
      )
    count = len(images)
    images = np.asarray(images, np.float32)
    if not self.card['normalization_in_graph']:
      mean = np.asarray(self.card['mean'], np.float32)
      std = np.asarray(self.card['std'], np.float32)
      images = image_format.normalize_image(images, mean, std)
    surplus = -count % self.batch_size
    images = np.concatenate([images, images[-1:].repeat(surplus, axis=0)])
    result = np.concatenate(
      [
        self._predict_batch(images[start : start + self.batch_size])
        for start in range(0, len(images), self.batch_size)
      ]
    )[:count]
    if self.output == self._file_output:
      return result
    if self.output == 'softmax':
      return predictors.softmax(result)
    return predictors.argmax(result)
