import json

import pytest

from experiments import zoo_export
from experiments import zoo_rows

FOUND = {
  'float32_difference': 2e-6,
  'argmax_agreement': 0.99,
  'operators': {'CONV_2D': 3, 'ADD': 1},
  'refused': {'ADD': 'why'},
}


def test_each_network_is_exported_once_and_kept(tmp_path, monkeypatch):
  exported = []

  def export(config, size):
    exported.append((config.name, size))
    return dict(FOUND)

  monkeypatch.setattr(zoo_export, 'export_untrained', export)
  path = str(tmp_path / 'exports.json')
  # The quantization-aware row is the same network.
  rows = zoo_rows.read_rows('ti_cityscapes_mnv2_unetlite_768x384*')
  assert len(rows) == 2
  found = zoo_export.collect_exports(rows, path)
  assert len(exported) == 1
  assert exported[0][1] == (256, 256)
  assert [x['id'] for x in found] == [row.id for row in rows]

  # Nothing is left to do in another run; other rows are added.
  rows = [*rows, *zoo_rows.read_rows('tf_cityscapes_mnv2_1025x2049')]
  zoo_export.collect_exports(rows, path)
  assert len(exported) == 2
  assert exported[1][1] == (129, 129)
  with open(path, encoding='utf-8') as f:
    kept = json.load(f)
  assert [len(x['rows']) for x in kept] == [2, 1]

  table = zoo_export.format_table(found).splitlines()
  assert table[2].split('|')[1:] == [
    *(f' {rows[0].id}     ', ' 2.0e-06 ', ' 0.9900       '),
    *(' ADD 1, CONV_2D 3 ', ' ADD                  ', ''),
  ]


def test_what_is_kept_is_of_every_row_as_it_is_now():
  """A network that was changed since is to be exported again."""
  kept = zoo_export.read_results(zoo_export.RESULTS_PATH)
  networks = {
    row: json.dumps(entry['network'], sort_keys=True)
    for entry in kept
    for row in entry['rows']
  }
  for row in zoo_rows.read_rows():
    now = json.loads(
      json.dumps(zoo_export.network_key(row, zoo_rows.load_config(row)))
    )
    assert networks[row.id] == json.dumps(now, sort_keys=True), row.id
  for entry in kept:
    assert entry['float32_difference'] <= zoo_export.FLOAT32_TOLERANCE
    assert 'CONV_2D' in entry['operators']
    assert set(entry['refused']) <= set(entry['operators'])


@pytest.mark.full
@pytest.mark.parametrize(
  ('row', 'refused'),
  [
    # One resize by 16 at the end; pooling's is of one pixel.
    ('st_person_mnv2_aspp_v2_256', {'RESIZE_BILINEAR'}),
    ('mobileseg_cityscapes_ghostnet_x1_0', {'RESIZE_BILINEAR'}),
  ],
)
def test_export(row, refused):
  (row,) = zoo_rows.read_rows(row)
  config = zoo_rows.load_config(row)
  size = zoo_export.export_size(row, config.model.output_stride)
  found = zoo_export.export_untrained(config, size)
  assert found['float32_difference'] < 1e-4
  assert found['argmax_agreement'] > 0.5
  assert set(found['refused']) == refused
  assert found['operators']['CONV_2D'] > 20
