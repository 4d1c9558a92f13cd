import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from configs import shapes_mnv2
from deeplab.training import train_step
from experiments.benchmarks import memory


class _Squares:
  """Squares its images, whose backward pass wants them and the weight."""

  def apply(self, variables, images, **_):
    logits = jnp.square(images) * variables['params']['w']
    return types.SimpleNamespace(logits=logits, auxiliary=None), {}


def test_kept_is_what_the_backward_pass_wants():
  state = train_step.TrainState(
    **{
      field.name: None
      for field in dataclasses.fields(train_step.TrainState)
      if field.name not in ('params', 'batch_stats')
    },
    params={'w': jax.ShapeDtypeStruct((), jnp.float32)},
    batch_stats={},
  )
  batch = {
    'image': jax.ShapeDtypeStruct((2, 3, 5, 1), jnp.float32),
    'index': jax.ShapeDtypeStruct((2,), jnp.uint32),
  }
  # The squares alone: the slope in `w` is their product with what comes back.
  assert memory.count_residual_bytes(_Squares(), state, batch) == 4 * 2 * 3 * 5


@pytest.mark.full
def test_settings_of_a_step():
  config = shapes_mnv2.get_config('smoke')
  plain = memory.measure_memory(config, memory.StepSetting(), 1)
  assert plain['seconds'] > 0
  halved = memory.measure_memory(config, memory.StepSetting(accumulate=2), 0)
  assert halved['seconds'] is None
  assert halved['kept'] < 0.7 * plain['kept']
  assert halved['work'] < 0.9 * plain['work']
  assert halved['arguments'] == plain['arguments']
  again = memory.measure_memory(
    config, memory.StepSetting('bfloat16', remat=5), 0
  )
  assert again['kept'] < 0.4 * plain['kept']


def test_table():
  found = {'kept': 3 * 2**20, 'arguments': 1, 'work': None, 'seconds': None}
  rows = [(memory.StepSetting('bfloat16', 5, 2), found)]
  assert memory.format_table(rows).splitlines()[-1].replace(' ', '') == (
    '|bfloat16|5|2|3||'
  )
  rows[0][1]['seconds'] = 0.0123
  assert memory.format_table(rows).splitlines()[-1].replace(' ', '') == (
    '|bfloat16|5|2|3||12|'
  )
