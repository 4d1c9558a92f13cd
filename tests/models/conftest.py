"""Fixtures for the tests of models."""

import jax
import numpy as np
import pytest

from deeplab.models import layers


def _variables(module, *args, seed=0):
  """Returns random variables; BatchNorm scales and variances are positive.

  Kernels are scaled by their fan-in, so that activations keep their size.
  """
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
  rng = np.random.default_rng(seed)

  def value(path, leaf):
    if path[-1].key in ('scale', 'var'):
      array = rng.uniform(0.5, 1.5, leaf.shape)
    else:
      fan_in = max(np.prod(leaf.shape[:-1]), 1)
      array = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return array.astype(np.float32)

  return jax.tree_util.tree_map_with_path(value, shapes)


@pytest.fixture(scope='session')
def random_variables():
  """The function (module, *arguments of its call, seed=0) -> variables."""
  return _variables


@pytest.fixture
def dropout_calls(monkeypatch):
  """The (rate, keys) of each call of `layers.dropout`, in order."""
  calls = []
  dropout = layers.dropout

  def record(x, rate, keys, drop_channels=False):
    calls.append((rate, keys))
    return dropout(x, rate, keys, drop_channels)

  monkeypatch.setattr(layers, 'dropout', record)
  return calls
