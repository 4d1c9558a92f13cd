import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deeplab.training import checkpoints
from deeplab.training import train_step
from tests import helpers


def _state(value, *, ema=False):
  state = train_step.init_state(
    helpers.TinyNet(), optax.sgd(0.1), channels=3, seed=0, ema=ema
  )
  fill = lambda tree, number: jax.tree.map(
    lambda x: jnp.full_like(x, number), tree
  )
  return state.replace(
    step=jnp.int32(value),
    params=fill(state.params, value),
    ema=fill(state.ema, value + 0.5),
  )


def _first(variables):
  return float(np.ravel(jax.tree.leaves(variables['params'])[0])[0])


def _save(directory, scores, **keep):
  saved = checkpoints.Checkpoints(str(directory), **keep)
  for step, miou in scores.items():
    saved.save(_state(step), step, miou)
    saved.wait()
  saved.close()


def test_the_newest_and_the_best_are_kept(tmp_path):
  scores = {1: 0.2, 2: 0.9, 3: None, 4: 0.4, 5: 0.5, 6: None}
  _save(tmp_path / 'c', scores, keep_latest=2, keep_best=1)
  steps_left = {int(n) for n in os.listdir(tmp_path / 'c') if n.isdigit()}
  assert steps_left == {2, 5, 6}
  best, step, miou = checkpoints.load_variables(str(tmp_path / 'c'), 'best')
  assert (step, miou, _first(best)) == (2, 0.9, 2.0)
  latest, step, miou = checkpoints.load_variables(str(tmp_path / 'c'), 'latest')
  assert (step, _first(latest)) == (6, 6.0)
  assert np.isnan(miou)


def test_a_run_killed_while_it_deletes_leaves_no_half_checkpoint(
  tmp_path, monkeypatch
):
  directory = tmp_path / 'c'
  with monkeypatch.context() as patch:  # as if it were killed before
    patch.setattr(checkpoints.shutil, 'rmtree', lambda *_, **__: None)
    _save(directory, {1: None, 2: 0.5, 3: None}, keep_latest=1, keep_best=1)
  assert sorted(os.listdir(directory)) == ['.deleted', '2', '3']
  # The one to delete was moved as a whole.
  assert sorted(os.listdir(directory / '.deleted')) == ['1']
  names = [sorted(os.listdir(directory / x)) for x in ('.deleted/1', '3')]
  assert names[0] == names[1]
  _save(directory, {4: None}, keep_latest=1, keep_best=1)
  assert sorted(os.listdir(directory)) == ['2', '4']


def test_without_a_score_the_newest_is_the_best(tmp_path):
  _save(tmp_path / 'c', {1: None, 2: None}, keep_latest=2, keep_best=1)
  assert checkpoints.load_variables(str(tmp_path / 'c'), 'best')[1] == 2


def test_moving_averages_are_saved_and_restored(tmp_path):
  saved = checkpoints.Checkpoints(
    str(tmp_path / 'c'), keep_latest=1, keep_best=1
  )
  state = _state(3, ema=True)
  saved.save(state, 3)
  saved.wait()
  restored = saved.restore(_state(0, ema=True))
  saved.close()
  assert int(restored.step) == 3
  jax.tree.map(np.testing.assert_array_equal, restored.ema, state.ema)
  jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
  # Evaluation and export read the average.
  variables, _, _ = checkpoints.load_variables(str(tmp_path / 'c'), 'latest')
  assert _first(variables) == 3.5


def test_another_models_checkpoint_is_refused(tmp_path):
  _save(tmp_path / 'c', {1: None}, keep_latest=1, keep_best=1)
  saved = checkpoints.Checkpoints(
    str(tmp_path / 'c'), keep_latest=1, keep_best=1
  )
  other = _state(0)
  other = other.replace(params={'other': jnp.zeros(3)})
  with pytest.raises(ValueError, match='does not fit the configured model'):
    saved.restore(other)
  saved.close()


def test_metadata_is_that_of_the_newest_state(tmp_path):
  fields = {'keep_latest': 2, 'keep_best': 1}
  saved = checkpoints.Checkpoints(str(tmp_path / 'c'), **fields)
  assert saved.latest_metadata() == {}
  metadata = {'seconds': 12.5, 'plateau': {'best': None, 'stale': 3}}
  saved.save(_state(1), 1, 0.5, {'seconds': 1.0})
  saved.save(_state(2), 2, None, metadata)
  saved.close()
  again = checkpoints.Checkpoints(str(tmp_path / 'c'), **fields)
  assert again.latest_metadata() == metadata
  again.save(_state(3), 3)
  again.wait()
  assert again.latest_metadata() == {}
  again.close()
