import json
import os

import jax
import numpy as np
import pytest

from deeplab import workdir as workdir_lib
from deeplab.training import checkpoints
from experiments import plots
from experiments import readme_table
from experiments import tabulate


def _run(label, seed, miou=None, gmacs=1.0, **more):
  run = {'id': f'{label}-s{seed}', 'labels': {'output_stride': label}}
  run |= {'seed': seed, **more}
  if miou is not None:
    metrics = {'miou': miou, 'iou/sky': miou, 'iou/car': None}
    run['record'] = {'metrics': metrics, 'seconds': 1800.0}
    run['record'] |= {'devices': 2, 'device': 'cpu'}
    run |= {'gmacs': gmacs, 'params': 1234567, 'size': [64, 64]}
  return run


@pytest.fixture
def sweep():
  """Returns a sweep: one setting is whole, one half done, one failed."""
  return {
    'study': 'stride_smoke',
    'question': 'How fine?',
    'reference': '| a |\n|---|\n| 1 |\n',
    'verdict': 'Finer is better.',
    'config': 'configs/x.py:smoke',
    'axes': {'output_stride': ['16', '8', '32']},
    'runs': [
      _run('16', 0, 0.50),
      _run('8', 0, 0.57, gmacs=3.0),
      _run('32', 0, error='Error: too coarse'),
      _run('16', 1, 0.52),
      _run('8', 1),
      _run('32', 1, error='Error: too coarse'),
    ],
  }


def test_means_deviations_and_differences(sweep):
  lines = tabulate.format_table(sweep).splitlines()
  cells = [[c.strip() for c in line.split('|')[1:-1]] for line in lines]
  assert cells[0] == (
    ['output stride', 'GMACs', 'params', 'mIoU', '±', 'to base', 'runs']
  )
  # (50 + 52) / 2; sqrt(2) between two that are 2 apart.
  assert cells[2] == ['16', '1.000', '1,234,567', '51.00', '1.41', '', '2']
  assert cells[3] == (
    ['8', '3.000', '1,234,567', '57.00', '', '+6.00', '1, 1 to come']
  )
  assert cells[4] == ['32', '', '', '', '', '', '0, 2 failed']


def test_a_page_has_it_all(sweep):
  page = tabulate.format_page(sweep)
  for words in (
    'How fine? (`configs/x.py:smoke`, 3 runs, 1.5 hours on 2 x cpu)',
    '- 32-s1: Error: too coarse',
    'Published:\n\n| a |',
  ):
    assert words in page
  assert page.endswith('\n\nFiner is better.')


def test_pages_are_drawn_anew_where_they_ask_for_it(sweep, tmp_path):
  path = tmp_path / 'README.md'
  marks = (
    readme_table.begin_marker('ablation:stride_smoke'),
    ('<!-- ablation:stride_smoke:end -->'),
  )
  path.write_text('a\n{}\nold\n{}\nz\n'.format(*marks))
  tabulate.update_page(str(path), [sweep, {**sweep, 'study': 'other'}])
  text = path.read_text()
  assert text.startswith(f'a\n{marks[0]}\nHow fine?')
  assert text.endswith(f'Finer is better.\n{marks[1]}\nz\n')
  assert 'old' not in text


def test_what_runs_left_is_collected(smoke_run, tmp_path, sweep):
  runs = [_run(label, 0) | {'config_hash': '0'} for label in ('16', '8', '32')]
  plan = {**sweep, 'runs': runs}
  workdir = str(tmp_path)
  (tmp_path / 'sweep.json').write_text(json.dumps(plan))
  os.makedirs(tmp_path / 'runs')
  os.symlink(smoke_run.workdir, tabulate.run_dir(workdir, '16-s0'))
  os.makedirs(tmp_path / 'errors')
  (tmp_path / 'errors' / '8-s0.txt').write_text('Error: no\n')
  done, failed, waiting = tabulate.collect_sweep(workdir)['runs']
  assert done['record'] == workdir_lib.read_run_record(smoke_run.workdir)
  assert done['size'] == [64, 64]
  variables, _, _ = checkpoints.load_variables(
    workdir_lib.checkpoint_dir(smoke_run.workdir), 'latest'
  )
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  assert done['params'] == sum(sizes)
  assert failed['error'] == 'Error: no'
  assert 'record' not in waiting and 'error' not in waiting
  collected = tabulate.collect_sweep(workdir)
  tabulate.write_plots(collected, workdir, workdir)
  assert len(list(tmp_path.glob('stride_smoke_*.png'))) == 3
  assert tabulate.group_by_setting(collected)[0].metric_values('miou') == (
    [smoke_run.metrics['miou']]
  )


def test_the_front_leaves_out_what_is_dearer_and_no_better():
  assert plots.pareto_front([1, 2, 2, 3, 4], [50, 40, 55, 55, 60]) == [0, 2, 4]


def test_plots_are_pictures():
  pictures = [
    plots.plot_pareto([('a', 1.0, [0.5, 0.6]), ('b', 9.0, [0.7])]),
    plots.plot_pareto([('a', 1.0, [0.5, 0.6]), ('b', 1.0, [0.7])]),
    plots.plot_learning_curves(
      {'a': [[(1, 0.1), (2, 0.3)], [(1, 0.2)]], 'b': [[]]}
    ),
    plots.plot_class_iou(
      ['sky', 'car'], {'a': [[0.5, 0.6], []], 'b': [[0.1], [0.2]]}
    ),
  ]
  for picture in pictures:
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.min() < 128 < picture.max()
