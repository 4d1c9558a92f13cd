"""The model card of an exported file: how to feed it, and how to read it.

A file stores the types and shapes of its input and output. Their meaning
(normalization, classes, colors) is in its model card: NAME.json beside
NAME.tflite or NAME.onnx. `export/report/model_card.py` writes it.
"""

import os
import pathlib
from typing import Any

from deeplab.files import json_files
from deeplab.inference import predictors

_PIXEL = json_files.number(-65535, 65535)
_TENSOR = json_files.record(
  {},
  dtype=json_files.TEXT,
  shape=json_files.array(json_files.SIZE, 0, 6),
  quantization=json_files.nullable(
    json_files.record(
      {
        'scale': json_files.number(1e-30, 1e6),
        'zero_point': json_files.integer(-(2**31), 2**31 - 1),
      }
    )
  ),
)

# Keys that every card has, and those that the exporter adds.
SCHEMA = json_files.record(
  {
    'input_size': json_files.array(json_files.SIZE, 2),
    'value_range': {'enum': [[0, 255], [0, 65535]]},
    'mean': json_files.array(_PIXEL, 1, 1024),
    'std': json_files.array(json_files.number(1e-6, 65535), 1, 1024),
    'normalization_in_graph': json_files.FLAG,
    'output': {'enum': list(predictors.OUTPUTS)},
    'classes': json_files.array(json_files.TEXT, 1, 255),
    'palette': json_files.array(
      json_files.array(json_files.integer(0, 255), 3), 1, 255
    ),
  },
  file=json_files.TEXT,
  sha256=json_files.nullable({'type': 'string', 'pattern': '^[0-9a-f]{64}$'}),
  format=json_files.TEXT,
  source=json_files.nullable(
    json_files.record(
      {},
      config=json_files.TEXT,
      trained=json_files.FLAG,
      step=json_files.nullable(json_files.COUNT),
      run=json_files.nullable(json_files.TEXT),
    )
  ),
  dataset=json_files.TEXT,
  labels=json_files.TEXT,
  channels=json_files.integer(1, 1024),
  depth={'enum': [8, 16]},
  input=_TENSOR,
  output_tensor=_TENSOR,
  miou=json_files.nullable(json_files.SHARE),
)
_check_schema = json_files.compile_schema(SCHEMA)


def check_card(card: Any) -> None:
  """Checks keys and values of a card, and that they fit each other.

  Args:
    card: the content of the JSON file.

  Raises:
    ValueError: half a sentence that names the key.
  """
  _check_schema(card)
  channels, classes = len(card['mean']), len(card['classes'])
  if len(card['std']) != channels:
    raise ValueError(f'std has {len(card["std"])} values, mean {channels}')
  if card.get('channels', channels) != channels:
    raise ValueError(f'channels is {card["channels"]}, mean has {channels}')
  if len(card['palette']) != classes:
    raise ValueError(
      f'palette has {len(card["palette"])} colors for {classes} classes'
    )
  depth = card.get('depth')
  if depth and card['value_range'][1] != 2**depth - 1:
    raise ValueError(f'value_range is {card["value_range"]} at depth {depth}')


def card_path(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of a file's model card: NAME.json beside NAME.tflite."""
  return pathlib.Path(path).with_suffix('.json')


def read_card(path: str | os.PathLike) -> dict[str, Any]:
  """Reads the model card of an exported file.

  Args:
    path: the .tflite or .onnx file.

  Returns:
    The card. Keys that every card has: `input_size` [H, W]; `value_range` of
    the images, [0, 255] or [0, 65535]; `mean` and `std`, one value per channel
    in that range; `normalization_in_graph`, True if the file takes raw pixels;
    `output`, 'logits', 'softmax' or 'argmax'; `classes`, K names; `palette`,
    K RGB triples. The exporter adds more, such as the file's `sha256`.

  Raises:
    ValueError: the card is absent, is not JSON, lacks a key, or a key has a
      value that it cannot have.
  """
  file = card_path(path)
  if not file.is_file():
    raise ValueError(
      f'{path} has no model card: put {file.name}, which the export writes, '
      'beside it'
    )
  return json_files.read_checked_json(
    file, check_card, 'export the model again'
  )
