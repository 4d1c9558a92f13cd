"""Exported .tflite files, run by LiteRT on the CPU."""

from collections.abc import Sequence
import os
import pathlib
from typing import Any

import numpy as np

from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.inference import file_predictor
from deeplab.inference import interpreters
from deeplab.inference import model_card


def check_tflite_format(path: str | os.PathLike, content: bytes) -> None:
  """Raises ValueError if a file lacks the identifier of TensorFlow Lite."""
  from deeplab import tflite_schema  # late: 50 ms, and most commands read none

  if not tflite_schema.has_identifier(content):
    raise ValueError(
      f'{path} is not a TensorFlow Lite file; export or download it again'
    )


def _tensor_detail(detail: dict) -> file_predictor.TensorDetail:
  """Converts one entry of LiteRT's `get_input_details`."""
  scale, zero_point = detail['quantization']
  return file_predictor.TensorDetail(
    detail['dtype'],
    tuple(detail['shape']),
    scale,
    zero_point,
    key=detail['index'],
  )


def _read_details(
  opened: Any, path: str | os.PathLike
) -> file_predictor.InputsAndOutputs:
  """Returns the inputs and outputs of an interpreter.

  Raises:
    ValueError: the name of a tensor is not UTF-8.
  """
  try:
    return (
      [_tensor_detail(x) for x in opened.get_input_details()],
      [_tensor_detail(x) for x in opened.get_output_details()],
    )
  except UnicodeDecodeError as error:
    raise ValueError(
      f'LiteRT cannot load {path}: a name is not UTF-8 ({error}); export it '
      'again'
    ) from error


class TFLitePredictor(file_predictor.FilePredictor):
  """A .tflite file with its model card, run by LiteRT on the CPU."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    resolver: str = interpreters.DEFAULT_RESOLVER,
    num_threads: int | None = None,
    card: dict[str, Any] | None = None,
  ):
    """Loads a file.

    Args:
      path: NAME.tflite.
      card: its model card; None to read NAME.json beside it.
      resolver: kernels that run it, a key of `interpreters.RESOLVERS`.
      num_threads: CPU threads; None takes one for each core that this process
        may use.

    Raises:
      ValueError: the file is absent, damaged or not TensorFlow Lite, or its
        card is absent or belongs to another file.
    """
    self.resolver = resolver
    self._num_threads = num_threads
    super().__init__(path, card)

  def _check_format(self, content: bytes) -> None:
    check_tflite_format(self.path, content)

  def _open(self, content: bytes) -> file_predictor.InputsAndOutputs:
    self._interpreter = interpreters.open_litert(
      content,
      resolver=self.resolver,
      num_threads=self._num_threads,
      name=self.path,
    )
    return _read_details(self._interpreter, self.path)

  def _run(self, values: np.ndarray) -> np.ndarray:
    try:
      self._interpreter.set_tensor(self._input.key, values)
      self._interpreter.invoke()
      return self._interpreter.get_tensor(self._output.key)
    except (RuntimeError, ValueError) as error:
      raise ValueError(
        f'LiteRT cannot run {self.path}: {error}; export it again'
      ) from error


def open_without_card(
  path: str | os.PathLike,
  info: dataset_info.DatasetInfo,
  image_spec: image_format.ImageSpec,
  mean: Sequence[float],
  std: Sequence[float],
) -> TFLitePredictor:
  """Opens a .tflite file that another program has written.

  The card that it lacks is made of what is known of its network, and of the
  types and shapes in the file. Files return logits, class ids, or, where the
  last operator is SOFTMAX, probabilities.

  Args:
    path: the file; it takes normalized images.
    info: its classes.
    image_spec: channels and depth of its images.
    mean: value per channel that images are normalized with.
    std: standard deviation per channel.

  Raises:
    ValueError: the file is damaged, or has no image as its input, or an output
      of other classes.
  """
  content = pathlib.Path(path).read_bytes()
  check_tflite_format(path, content)
  opened = interpreters.open_litert(content, name=path)
  inputs, outputs = _read_details(opened, path)
  if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 4:
    raise ValueError(
      f'{path} has {len(inputs)} inputs and {len(outputs)} outputs; a '
      'segmentation model maps one image [B, H, W, C] to one output'
    )
  shape = [int(n) for n in outputs[0].shape]
  output = 'softmax' if _ends_in_softmax(content) else 'logits'
  if len(shape) == 3 or shape[-1] == 1:
    output = 'argmax'
  elif shape[-1] != info.num_classes:
    raise ValueError(
      f'{path} returns values of {shape[-1]} classes and {info.name} has '
      f'{info.num_classes}: name a config of its classes (--config=PAGE)'
    )
  card = {
    'input_size': [int(n) for n in inputs[0].shape[1:3]],
    'value_range': [0, image_spec.max_value],
    'mean': list(mean),
    'std': list(std),
    'normalization_in_graph': False,
    'output': output,
    'classes': list(info.class_names),
    'palette': [list(color) for color in info.palette],
  }
  model_card.check_card(card)
  return TFLitePredictor(path, card=card)


def _ends_in_softmax(content: bytes) -> bool:
  """Returns True if the operator that writes the output is SOFTMAX."""
  from ai_edge_litert import schema_py_generated as schema

  from deeplab import tflite_schema

  model = schema.ModelT.InitFromPackedBuf(content)
  graph = model.subgraphs[0]
  return any(
    tflite_schema.operator_name(model.operatorCodes[operator.opcodeIndex])
    == 'SOFTMAX'
    for operator in graph.operators
    if graph.outputs[0] in operator.outputs
  )
