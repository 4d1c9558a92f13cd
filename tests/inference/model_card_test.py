"""Damaged model cards: one sentence with the file, or the same mask."""

import hashlib
import json

import numpy as np
import pytest

from deeplab import predict
from deeplab.inference import litert
from tests import damaged_json
from tests.export import small


@pytest.fixture(scope='module')
def card():
  """The card of `small.int8()`, with every key that the exporter writes."""
  content = small.int8()
  detail = {'dtype': 'int8', 'quantization': None}
  return {
    'file': 'x.tflite',
    'sha256': hashlib.sha256(content).hexdigest(),
    'format': 'int8',
    'source': {'config': 'tiny', 'trained': True, 'step': 7, 'run': 'a'},
    'dataset': 'shapes',
    'classes': [str(i) for i in range(small.CLASSES)],
    'palette': [[i, i, i] for i in range(small.CLASSES)],
    'labels': 'labels.txt',
    'input_size': list(small.SIZE),
    'channels': 3,
    'depth': 8,
    'value_range': [0, 255],
    'mean': [0.0, 0.0, 0.0],
    'std': [1.0, 1.0, 1.0],
    'normalization_in_graph': True,
    'input': {**detail, 'shape': [1, *small.SIZE, 3], 'values': 'RGB'},
    'output': 'logits',
    'output_tensor': {**detail, 'shape': [1, *small.SIZE, small.CLASSES]},
    'miou': 0.5,
  }


@pytest.fixture(scope='module')
def path(card, tmp_path_factory):
  """A file whose card gets the scales of the file."""
  path = small.write(tmp_path_factory.mktemp('cards'), small.int8())
  predictor = litert.TFLitePredictor(path)
  for key, detail in (
    ('input', predictor._input),
    ('output_tensor', predictor._output),
  ):
    card[key]['quantization'] = {
      'scale': float(detail.scale),
      'zero_point': int(detail.zero_point),
    }
  return path


def predict_with(path, content):
  """Returns what a prediction shows with a card: mask, names and colors."""
  with open(path.replace('.tflite', '.json'), 'wb') as f:
    f.write(content)
  segmenter = predict.from_tflite(path)
  mask = segmenter.predict(small.image())
  return mask.tolist(), segmenter.class_names, segmenter.palette


def test_a_damaged_card_is_named_or_changes_nothing(card, path):
  expected = predict_with(path, json.dumps(card).encode())
  refused, same = 0, 0
  for name, content in damaged_json.damages(card):
    try:
      result = predict_with(path, content)
    except ValueError as error:
      assert 'x.json' in str(error), f'{name}: {error}'
      assert '\n' not in str(error), f'{name}: {error}'
      refused += 1
    else:
      # Names are texts, whatever they are.
      if not name.startswith('classes.') or '"text"' not in name:
        assert result == expected, name
      same += 1
  assert refused > 500
  assert same < refused / 4


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'normalization_in_graph': None}, 'normalization_in_graph must be bool'),
    ({'mean': [0.0]}, r'std has 3 values, mean 1'),
    ({'mean': [0.0] * 4, 'std': [1.0] * 4}, 'channels is 3, mean has 4'),
    ({'palette': [[0, 0, 0]]}, 'palette has 1 colors for 5 classes'),
    ({'palette': [[0, 0, 256]] * 5}, r'palette\[0\]\[2\] must be smaller'),
    ({'value_range': [0, 65535]}, r'value_range is \[0, 65535\] at depth 8'),
    ({'std': [0.0, 1.0, 1.0]}, r'std\[0\] must be bigger than'),
    ({'output': 'argmax'}, r'x\.json|says argmax of 5 classes'),
    ({'sha256': 'x'}, 'sha256 must match pattern'),
  ],
)
def test_each_key_is_checked(card, path, change, message):
  with pytest.raises(ValueError, match=message):
    predict_with(path, json.dumps({**card, **change}).encode())


def test_scales_are_those_of_the_file(card, path):
  other = {**card['input'], 'quantization': {'scale': 0.5, 'zero_point': 0}}
  with pytest.raises(ValueError, match=r'input whose scale is .* says 0\.5'):
    predict_with(path, json.dumps({**card, 'input': other}).encode())


def test_keys_that_older_cards_lack_are_not_needed(card, path):
  needed = (
    *('input_size', 'value_range', 'mean', 'std', 'normalization_in_graph'),
    *('output', 'classes', 'palette'),
  )
  content = json.dumps({key: card[key] for key in needed}).encode()
  assert np.shape(predict_with(path, content)[0]) == small.SIZE
