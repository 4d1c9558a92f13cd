"""Published weights are scored by the protocols of their source."""

import json
import os

import pytest

from experiments import published_scores
from experiments import zoo_rows


def make_row(published, weights='', config='configs/shapes_mnv2.py:smoke'):
  (row,) = zoo_rows.read_rows('mmseg_cityscapes_r18_d8_512x1024_80k')
  return row._replace(
    id='row', published=published, weights=weights, config=config
  )


@pytest.mark.parametrize(
  ('published', 'expected'),
  [
    ('72.41', {'': 72.41}),
    ('76.89 / 78.76', {'': 76.89, 'ms': 78.76}),
    ('73.94/74.32/75.38', {'': 73.94, 'flip': 74.32, 'ms': 75.38}),
    ('acc 94.46 iou 76.58; int8 94.42/76.25', {}),
    ('68.77 QAT', {}),
    ('80.46/- (FP16)', {'': 80.46}),
    ('', {}),
  ],
)
def test_scores_of_a_source_have_protocols(published, expected):
  assert published_scores.protocols_of(make_row(published)) == expected


def test_every_row_with_weights_has_a_protocol():
  rows = [row for row in zoo_rows.read_rows() if row.weights]
  assert [
    row.id for row in rows if not published_scores.protocols_of(row)
  ] == []


def test_a_row_is_scored_once(tmp_path, smoke_run, monkeypatch):
  row = make_row('50', smoke_run.workdir)
  folder = str(tmp_path / 'zoo')
  (first,), _ = published_scores.evaluate_rows([row], '', folder)
  assert first['miou'] == pytest.approx(smoke_run.metrics['miou'], abs=1e-6)
  assert (first['published'], first['protocol']) == (50, 'single')
  path = os.path.join(folder, 'row', 'single.json')
  with open(path, encoding='utf-8') as f:
    assert json.load(f) == first

  def load_model(*_, **__):
    raise AssertionError('evaluated again')

  monkeypatch.setattr(published_scores.identify, 'load_model', load_model)
  assert published_scores.evaluate_rows([row], '', folder) == ([first], [])
  # Other weights are scored anew.
  with pytest.raises(AssertionError, match='evaluated again'):
    published_scores.evaluate_rows([row._replace(weights='x')], '', folder)


def test_rows_without_weights_scores_or_data_are_named(tmp_path):
  city = 'configs/cityscapes_resnet.py:r18,80k'
  rows = [
    make_row('50'),
    make_row('', 'mmseg:x'),
    make_row('50', 'mmseg:x', city),
    make_row('50', 'mmseg:deeplabv3plus_r18-d8_512x1024_80k_cityscape'),
  ]
  records, left_out = published_scores.evaluate_rows(
    rows[:3], str(tmp_path), 'z'
  )
  assert records == []
  assert left_out == [
    'row: no weights are published',
    'row: no mIoU is published',
    f'row: {tmp_path}/cityscapes does not exist: put the data set there in its '
    'official layout, or link it',
  ]
  _, (sentence,) = published_scores.evaluate_rows(rows[3:], '', 'z')
  assert 'did you mean mmseg:deeplabv3plus_r18-d8_512x1024_80k' in sentence


def test_the_table():
  record = {
    'row': 'r',
    'protocol': 'ms+flip',
    'images': 500,
    'miou': 0.7850,
    'published': 78.76,
  }
  lines = published_scores.format_scores([record]).splitlines()
  cells = [cell.strip() for cell in lines[-1].strip('|').split('|')]
  assert cells == ['r', 'ms+flip', '500', '78.50', '78.76', '-0.26']
