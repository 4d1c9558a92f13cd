"""Damaged checkpoints are noticed: cut, removed and flipped bits."""

import collections
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil

import jax.numpy as jnp
import optax
import pytest

from deeplab.training import checkpoint_files
from deeplab.training import checkpoints
from deeplab.training import train_step
from tests import helpers

METADATA = {'seconds': 12.5, 'plateau': {'best': None, 'stale': 3}}


def _state(value):
  state = train_step.init_state(
    helpers.TinyNet(), optax.sgd(0.1, 0.9), channels=3, seed=value, ema=True
  )
  return state.replace(step=jnp.int32(value))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Folder of checkpoints of steps 1, 2 and 3, of which 2 has a score."""
  folder = tmp_path_factory.mktemp('saved') / 'checkpoints'
  manager = checkpoints.Checkpoints(str(folder), keep_latest=3, keep_best=1)
  for step, miou in {1: None, 2: 0.5, 3: None}.items():
    manager.save(_state(step), step, miou, METADATA)
    manager.wait()
  manager.close()
  return folder


@pytest.fixture
def copy(saved, tmp_path):
  """A copy of these checkpoints."""
  return pathlib.Path(shutil.copytree(saved, tmp_path / 'copy'))


def _largest_file(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def _cut(folder):
  path = _largest_file(folder / 'training')
  os.truncate(path, path.stat().st_size // 2)


def _remove(name):
  def damage(folder):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()

  return damage


def _replace(name, old, new):
  def damage(folder):
    content = (folder / name).read_text()
    assert old in content
    (folder / name).write_text(content.replace(old, new, 1))

  return damage


DAMAGE = {
  'cut': (_cut, r'.*'),
  'index': (_remove('variables/manifest.ocdbt'), r'.*'),
  'item': (_remove('training'), r'.*'),
  'metadata': (_remove('_CHECKPOINT_METADATA'), r'_METADATA is missing'),
  'metrics': (_remove('metrics/metrics'), r'metrics/metrics is missing'),
  'json': (
    _replace('metrics/metrics', '{', '['),
    r'Expecting|delimiter',
  ),
  'control': (
    _replace('_CHECKPOINT_METADATA', '12.5', '13.5'),
    'its metrics or metadata do not match their digest',
  ),
}


def _open(folder):
  return checkpoints.Checkpoints(str(folder), keep_latest=3, keep_best=1)


@pytest.mark.parametrize('kind', DAMAGE)
def test_the_checkpoint_before_a_damaged_one_is_used(kind, copy, caplog):
  damage, reason = DAMAGE[kind]
  damage(copy / '3')
  manager = _open(copy)
  restored = manager.restore(_state(9))
  assert int(restored.step) == 2
  assert manager.latest_step() == 2
  assert manager.latest_metadata() == METADATA
  # Training goes on, and saves the same step again.
  manager.save(_state(3), 3, None, METADATA)
  manager.close()
  names = {path.name for path in copy.iterdir()}
  assert names == {'1', '2', '3', '3.damaged1'}
  (line,) = [x for x in caplog.messages if 'of step 3 is damaged' in x]
  assert line.endswith(f'it is kept as {copy}/3.damaged1, and not used')
  assert re.search(reason, line)


def test_a_damaged_metric_of_an_older_checkpoint_is_set_aside(copy):
  _replace('metrics/metrics', '0.5', '0.9')(copy / '2')
  with pytest.raises(ValueError, match=r'step 2 .* is damaged .*move '):
    checkpoints.load_variables(str(copy), 'best')
  manager = _open(copy)
  assert int(manager.restore(_state(9)).step) == 3
  manager.close()
  assert (copy / '2.damaged1').exists()


def test_nothing_is_renamed_if_nothing_is_whole(copy):
  for step in '123':
    _cut(copy / step)
  manager = _open(copy)
  with pytest.raises(
    ValueError, match=r'3 checkpoints below .*, and none is whole .step 3: '
  ):
    manager.restore(_state(9))
  manager.close()
  assert {path.name for path in copy.iterdir()} == {'1', '2', '3'}


def test_weights_of_a_damaged_checkpoint_are_refused(copy):
  """Without its moving average, a run would be judged by other weights."""
  shutil.rmtree(copy / '3' / 'ema')
  with pytest.raises(
    ValueError, match=rf'step 3 below .* is damaged .*; move {copy}/3 elsewh'
  ):
    checkpoints.load_variables(str(copy), 'latest')
  assert checkpoints.load_variables(str(copy), 'best')[1] == 2


def test_older_checkpoints_have_no_digests(copy):
  path = copy / '3' / '_CHECKPOINT_METADATA'
  content = json.loads(path.read_text())
  assert set(content['custom_metadata']['digests']) == {
    *('ema', 'record', 'training', 'variables')
  }
  content['custom_metadata'] = content['custom_metadata']['metadata']
  path.write_text(json.dumps(content))
  record, _ = checkpoint_files.read_items(str(copy / '3'))
  assert record.metadata == METADATA
  assert checkpoints.load_variables(str(copy), 'latest')[1] == 3


def test_characters_of_patterns_in_a_path(tmp_path):
  folder = tmp_path / 'lr[1] *?{a}' / 'checkpoints'
  manager = _open(folder)
  manager.save(_state(1), 1, 0.25, METADATA)
  assert int(manager.restore(_state(9)).step) == 1
  manager.close()
  assert checkpoints.load_variables(str(folder), 'best')[1:] == (1, 0.25)


def test_the_first_save_is_read_back(tmp_path, monkeypatch):
  monkeypatch.setattr(
    checkpoint_files.LiteralPath, 'glob', lambda self, pattern: iter(())
  )
  manager = _open(tmp_path)
  with pytest.raises(OSError, match=r'could not save .*\.zarray'):
    manager.save(_state(1), 1)
  manager.close()


@pytest.mark.parametrize('name', ['_CHECKPOINT_METADATA', 'metrics/metrics'])
def test_changes_of_the_record_are_noticed(name, copy):
  """Or it is one of a time, of a handler's name: the record is the same."""
  folder = copy / '2'
  record = checkpoint_files.read_record(str(folder))
  content = (folder / name).read_bytes()
  refused = 0
  for place in range(len(content)):
    flipped = bytearray(content)
    flipped[place] ^= 1 << place % 8
    (folder / name).write_bytes(flipped)
    try:
      other = checkpoint_files.read_record(str(folder))
    except checkpoint_files.DamagedError:
      refused += 1
    else:
      # A name that does not exist is a missing item.
      assert other.items >= record.items
      assert dataclasses.replace(other, items=record.items) == record
  assert refused > len(content) // 2


def _flip(path, rng):
  """Flips one bit of a file."""
  content = bytearray(path.read_bytes())
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def _count_outcomes(saved, folder, places, seed):
  """Reads copies of a checkpoint that differ in a bit; counts the outcomes."""
  rng = random.Random(seed)
  names = sorted(
    path.relative_to(saved)
    for path in (saved / '3').rglob('*')
    if path.is_file() and path.stat().st_size
  )
  sizes = [(saved / name).stat().st_size for name in names]
  record, expected = checkpoint_files.read_items(str(saved / '3'))
  outcomes = collections.Counter()
  for place in range(places):
    shutil.copytree(saved / '3', folder / '3', dirs_exist_ok=True)
    # Half of the places by bytes, half by files.
    (name,) = rng.choices(names, sizes if place % 2 else None)
    _flip(folder / name, rng)
    try:
      other, arrays = checkpoint_files.read_items(str(folder / '3'))
    except checkpoint_files.DamagedError:
      outcomes['refused'] += 1
    else:
      same = (other.metadata, repr(other.miou)) == (
        *(record.metadata, repr(record.miou)),
      )
      for item in ('variables', 'ema', 'training'):
        for path, array in expected[item].items():
          same &= array.tobytes() == arrays[item][path].tobytes()
      outcomes['harmless' if same else 'silent'] += 1
    shutil.rmtree(folder / '3')
  print(dict(outcomes))
  return outcomes


def test_flipped_bits_change_nothing_in_silence(saved, tmp_path):
  outcomes = _count_outcomes(saved, tmp_path, 8, seed=1)
  assert outcomes['silent'] == 0
  assert outcomes['refused'] >= 2


@pytest.mark.full
def test_fifty_flipped_bits_change_nothing_in_silence(saved, tmp_path):
  outcomes = _count_outcomes(saved, tmp_path, 50, seed=0)
  assert outcomes['silent'] == 0
  assert outcomes['refused'] >= 15
