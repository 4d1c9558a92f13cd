"""Killed preparations leave no trace, and repeat to the byte."""

import contextlib
import errno
import fcntl
import json
import pathlib
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

from deeplab.data import datasets
from deeplab.data.builders import folder
from deeplab.data.preparation import locking
from tests import helpers
from tests.data.builders import isaid_test
from tests.data.builders import layouts

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture
def isaid_config(config, tmp_path):
  """Two images of iSAID, cut into two patches and one."""
  masks = tmp_path / 'isaid/val/Semantic_masks/images/images'
  for stem, (height, width) in (('P0003', (300, 950)), ('P0007', (200, 300))):
    ids = np.arange(height)[:, None] // 20 % 16 + np.zeros(width, int)
    image = isaid_test.COLORS[::-1][ids]
    layouts.save(tmp_path / f'isaid/val/images/images/{stem}.png', image)
    mask = masks / f'{stem}_instance_color_RGB.png'
    layouts.save(mask, isaid_test.COLORS[ids])
  layouts.point(config, 'isaid', tmp_path / 'isaid')
  config.data.train_split = 'val'
  return config


@contextlib.contextmanager
def killed_runs(config):
  """Yields a function that runs `killed` for a folder and an event number.

  It returns the exit status, or the number of events if there are fewer.
  """
  with subprocess.Popen(
    [
      sys.executable,
      '-m',
      'tests.data.preparation.killed',
      json.dumps(config.to_dict()),
    ],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:

    def prepare(base, event):
      print(event, base, file=process.stdin, flush=True)
      return int(process.stdout.readline())

    yield prepare


def contents(base):
  """Returns the bytes of each file below a folder; None for a folder."""
  return {
    str(path.relative_to(base)): path.read_bytes() if path.is_file() else None
    for path in base.rglob('*')
  }


@pytest.mark.usefixtures('root')
@pytest.mark.parametrize('kind', ['folder', 'isaid'])
def test_after_a_kill_at_any_event_the_next_run_writes_the_same_bytes(
  request, config, tmp_path, kind
):
  if kind == 'isaid':
    config = request.getfixturevalue('isaid_config')
  with killed_runs(config) as prepare:
    count = prepare(tmp_path / 'undisturbed', -1)
    expected = contents(tmp_path / 'undisturbed')
    assert sum('.array_record' in name for name in expected) == 1
    assert count > 20
    # The folder is renamed at the last moment but one. One that comes after
    # another has fewer moments: most folders are there.
    rng = random.Random(0)
    for i, moments in enumerate(
      (
        [rng.randrange(count)],
        [rng.randrange(count)],
        [rng.randrange(count - 9), rng.randrange(count - 9)],
        [count - 2],
        [count - 1],
      )
    ):
      base = tmp_path / f'killed{i}'
      for moment in moments:
        assert prepare(base, moment) == -signal.SIGKILL
      if moments == [count - 2]:
        assert len(list(base.rglob('incomplete.*/*.array_record*'))) == 1
      prepare(base, -1)
      assert contents(base) == expected


@pytest.mark.usefixtures('root')
def test_data_of_a_running_preparation_is_kept(config, tmp_path):
  """Unfinished data is kept while its folder is locked, and then removed."""
  base = pathlib.Path(config.data.data_dir)
  place = pathlib.Path(
    folder.make_builder(config.data, 'train').data_path
  ).parent
  with locking.lock_and_clean(place):
    at_work = place / 'incomplete.HERE_1.1.0'
    at_work.mkdir()
    beside = place.with_name('train_edited') / 'incomplete.DEAD_1.1.0'
    beside.mkdir(parents=True)
    datasets.Dataset(config.data).prepare('train')
    assert list(base.rglob('incomplete.*')) == [at_work]
    with locking.lock_and_clean(place.with_name('val_0')):
      assert at_work.exists()
  with locking.lock_and_clean(place.with_name('val_0')):
    assert not at_work.exists()


@pytest.mark.usefixtures('root')
def test_nothing_is_printed(config, capsys):
  datasets.Dataset(config.data).prepare('train')
  assert pathlib.Path(config.data.data_dir).is_dir()
  assert capsys.readouterr().out == ''


def test_without_locks_nothing_is_removed(tmp_path, monkeypatch):
  def refuse(descriptor, operation):
    raise OSError(errno.ENOLCK, 'no locks available')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  left = tmp_path / 'a/incomplete.HERE_1.1.0'
  left.mkdir(parents=True)
  with locking.lock_and_clean(tmp_path / 'a'):
    pass
  assert left.exists()


@pytest.mark.usefixtures('root')
def test_a_full_disk_is_one_sentence(config):
  path = folder.make_builder(config.data, 'train').data_path
  with (
    helpers.full_disk(1000),
    pytest.raises(OSError, match='could not write') as refused,
  ):
    datasets.Dataset(config.data).prepare('train')
  assert str(refused.value) == (
    f'could not write {path}: File too large; free some space and run the '
    'same command again'
  )
  datasets.Dataset(config.data).prepare('train')
