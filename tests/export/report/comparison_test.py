"""Scores of an export and its baseline in one table."""

import json

import pytest

from export.report import comparison

REQUEST = {'input_size': (256, 256), 'output': 'logits', 'resize': 'trained'}


def report(**changes):
  return {
    'dataset': 'camvid',
    'scored': 101,
    'classes': ['sky', 'road'],
    'request': REQUEST,
    'jax': {'miou': 0.5},
    'formats': {'int8': {'miou': 0.495}, 'float32': {'miou': 0.5}},
    'beside': None,
    **changes,
  }


def earlier(tmp_path, **changes):
  folder = tmp_path / 'float'
  folder.mkdir()
  (folder / 'report.json').write_text(json.dumps(report(**changes)))
  return str(folder)


def test_scores_of_a_float_and_an_int8_run(tmp_path):
  trained = report(
    jax={'miou': 0.499}, formats={'int8_litert': {'miou': 0.501}}
  )
  trained['beside'] = comparison.read_baseline(earlier(tmp_path), trained)
  rows = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in comparison.render_comparison(trained)
    if line.startswith('|')
  ]
  assert rows[2:] == [
    ['float', 'JAX', '0.5000', '+0.00'],
    ['float', 'int8', '0.4950', '-0.50'],
    ['float', 'float32', '0.5000', '+0.00'],
    ['this', 'JAX', '0.4990', '-0.10'],
    ['this', 'int8_litert', '0.5010', '+0.10'],
  ]
  assert comparison.render_comparison(report()) == []


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'dataset': 'voc'}, 'its data set is voc, here it is camvid'),
    ({'scored': 9}, 'its number of scored images is 9, here it is 101'),
    ({'classes': ['sky', 'sea']}, r"its classes is \['sky', 'sea'\]"),
    (
      {'request': {**REQUEST, 'input_size': [64, 64]}},
      r'its input size is \(64, 64\)',
    ),
    ({'request': {**REQUEST, 'output': 'argmax'}}, 'its output is argmax'),
    ({'request': {**REQUEST, 'resize': 'host'}}, 'its resize is host'),
  ],
)
def test_scores_that_are_not_comparable(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    comparison.read_baseline(earlier(tmp_path, **changes), report())


def test_a_folder_without_an_export(tmp_path):
  with pytest.raises(ValueError, match='holds no earlier export'):
    comparison.read_baseline(str(tmp_path), report())
