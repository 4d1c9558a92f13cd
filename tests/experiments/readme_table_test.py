import json

import pytest

from configs import shapes_mnv2
from deeplab import workdir as workdir_lib
from experiments import readme_table


def _run(tmp_path):
  workdir = tmp_path / 'run'
  workdir_lib.write_or_check_config(
    str(workdir), shapes_mnv2.get_config('smoke')
  )
  return workdir


def test_collect_and_draw(tmp_path):
  workdir = _run(tmp_path)
  folder = workdir / 'eval' / 'int8'
  folder.mkdir(parents=True)
  scores = {'miou': 0.5, 'pixel_accuracy': 0.75, 'boundary_iou': 0.25}
  scores |= {'examples': 3, 'iou/disc': None}
  (folder / 'metrics.json').write_text(json.dumps(scores))
  result = readme_table.summarize_run(str(workdir))
  assert readme_table.format_table([result]).splitlines()[-1] == (
    '| shapes_mnv2_smoke | int8 | 3 | 0.5000 | 0.7500 | 0.2500 |'
  )


def test_a_run_without_evaluation_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r'has no evaluation; run python -m'):
    readme_table.summarize_run(str(_run(tmp_path)))


def test_only_the_text_between_the_markers_changes():
  text = 'a\n<!-- results:begin -->\nold\n<!-- results:end -->\nz\n'
  assert readme_table.replace_between_markers(text, 'new', 'results') == (
    'a\n<!-- results:begin -->\nnew\n<!-- results:end -->\nz\n'
  )
  with pytest.raises(ValueError, match='lacks the markers'):
    readme_table.replace_between_markers('no markers', 'new', 'results')
