"""What stands beside a file, so that nobody has to guess how to feed it."""

import os
from typing import Any

from deeplab import system
from deeplab.data import dataset_info
from export import request as request_lib
from export import source as source_lib
from export.graph import tflite_graph

LABELS_FILE = 'labels.txt'


def write_labels(directory: str, info: dataset_info.DatasetInfo) -> None:
  """Writes the class names, one a line, line i (from 0) for id i."""
  path = os.path.join(directory, LABELS_FILE)
  with open(path, 'w', encoding='utf-8') as f:
    f.writelines(f'{name}\n' for name in info.class_names)


def describe_tensor(graph: tflite_graph.Graph, index: int) -> dict[str, Any]:
  """Describes an input or output tensor of a file.

  Returns:
    `dtype`, `shape`, and `quantization`: {'scale', 'zero_point'} with
    real = (quantised - zero_point) * scale, None for unquantised values.
  """
  tensor = graph.tensors[index]
  return {
    'dtype': tensor.dtype,
    'shape': list(tensor.shape),
    'quantization': tflite_graph.tensor_qparams(tensor),
  }


def make_card(
  file: str,
  kind: str,
  request: request_lib.Request,
  source: source_lib.ExportSource,
  file_summary: dict[str, Any],
  digest: str | None,
) -> dict[str, Any]:
  """Returns the model card of one file, with no mIoU in it yet.

  Args:
    file: its name in the export's folder.
    kind: its format.
    request: the export.
    source: the model.
    file_summary: holds `input` and `output`, as `describe_tensor` returns them.
    digest: SHA-256 of the file, None for a folder.
  """
  info, data = source.dataset.info, source.config.data
  wants = str(source.dataset.spec)
  if not request.normalization_in_graph:
    wants = f'({wants} - mean) / std'
  if file_summary['input']['quantization'] is not None:
    wants += ', quantised: round(value / scale) + zero_point'
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
    'channels': source.dataset.spec.channels,
    'depth': source.dataset.spec.depth,
    'value_range': [0, source.dataset.spec.max_value],
    'mean': [float(x) for x in data.mean],
    'std': [float(x) for x in data.std],
    'normalization_in_graph': request.normalization_in_graph,
    'input': {**file_summary['input'], 'values': wants},
    'output': request.output,
    'output_tensor': file_summary['output'],
    'miou': None,
  }


def write_card(directory: str, name: str, value: dict[str, Any]) -> None:
  """Writes NAME.json into a folder."""
  system.write_json(os.path.join(directory, f'{name}.json'), value)
