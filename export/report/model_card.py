"""Model cards: NAME.json next to each file says how to feed and read it."""

import os
from typing import Any

from deeplab import system
from deeplab.data import dataset_info
from export import frozen_model
from export.graph import tflite_graph

LABELS_FILE = 'labels.txt'


def write_labels(directory: str, info: dataset_info.DatasetInfo) -> None:
  """Writes labels.txt: one class name per line, line i (from 0) for id i."""
  path = os.path.join(directory, LABELS_FILE)
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(f'{name}\n' for name in info.class_names)


def describe_tensor(graph: tflite_graph.Graph, index: int) -> dict[str, Any]:
  """Describes an input or output tensor of a file.

  Args:
    graph: graph of the file.
    index: index of the tensor.

  Returns:
    `dtype`, `shape`, and `quantization`: {'scale', 'zero_point'} with
    real = (quantized - zero_point) * scale, None for unquantized values.
  """
  tensor = graph.tensors[index]
  return {
    'dtype': tensor.dtype,
    'shape': list(tensor.shape),
    'quantization': tflite_graph.tensor_qparams(tensor),
  }


def make_card(
  model: frozen_model.FrozenModel,
  file: str,
  kind: str,
  file_summary: dict[str, Any],
  digest: str | None,
) -> dict[str, Any]:
  """Makes the model card of one file, without its mIoU.

  Args:
    model: the model as the files hold it.
    file: file name within the export.
    kind: format of the file.
    file_summary: `input` and `output` of the file (`describe_tensor`).
    digest: SHA-256 of the file, None for a folder.

  Returns:
    The content of the card.
  """
  source, request = model.source, model.request
  info, spec = source.dataset.info, source.dataset.spec
  values = str(spec)
  if not request.normalization_in_graph:
    values = f'({values} - mean) / std'
  if file_summary['input']['quantization'] is not None:
    values += ', quantized: round(value / scale) + zero_point'
  return {
    'file': file,
    'sha256': digest,
    'format': kind,
    'source': source.describe(),
    'dataset': info.name,
    'classes': list(info.class_names),
    'palette': [list(color) for color in info.palette],
    'labels': LABELS_FILE,
    'input_size': list(request.input_size),
    'channels': spec.channels,
    'depth': spec.depth,
    'value_range': [0, spec.max_value],
    'mean': list(model.mean),
    'std': list(model.std),
    'normalization_in_graph': request.normalization_in_graph,
    'input': {**file_summary['input'], 'values': values},
    'output': request.output,
    'output_tensor': file_summary['output'],
    'miou': None,
  }


def write_card(directory: str, name: str, value: dict[str, Any]) -> None:
  """Writes NAME.json.

  Args:
    directory: the export.
    name: format of the file, whose name without suffix it is.
    value: the card.
  """
  system.write_json(os.path.join(directory, f'{name}.json'), value)
