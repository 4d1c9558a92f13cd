"""The base class of heads, and the interface that every head has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models import registry
from deeplab.models import resizing
from deeplab.models.heads import base
from tests.models.heads import head_cases

CHANNELS = (4, 4, 6, 6, 8)
# Sizes of the maps of an 80 x 70 image at output stride 16.
SIZES = ((40, 35), (20, 18), (10, 9), (5, 5), (5, 5))


def make(name, **fields):
  return registry.HEADS[name](num_classes=3, **fields)


def test_classifier_has_glorot_init_and_a_bias():
  module = base.make_classifier(50, layers.Options(dtype='bfloat16'))
  variables = jax.jit(module.init)(jax.random.key(0), jnp.ones((1, 1, 1, 400)))
  kernel = variables['params']['kernel']
  assert kernel.dtype == jnp.float32
  # Glorot: sqrt(2 / (400 + 50)).
  assert abs(float(kernel.std()) - 0.0667) < 2e-3
  assert variables['params']['bias'].tolist() == [0.0] * 50
  out = module.apply(variables, jnp.ones((1, 1, 1, 400), jnp.bfloat16))
  assert out.dtype == jnp.float32


def test_the_classifier_may_begin_small():
  options = layers.Options(classifier_stddev=0.01)
  x = jnp.ones((1, 2, 2, 256))
  variables = base.make_classifier(64, options).init(jax.random.key(0), x)
  kernel = np.asarray(variables['params']['kernel'])
  # Of 16,384 draws; three standard deviations are 1.7 % and 2.3e-4.
  assert kernel.std() == pytest.approx(0.01, rel=0.017)
  assert abs(kernel.mean()) < 2.4e-4
  with pytest.raises(ValueError, match=r'classifier_stddev=-1 must be from 0'):
    layers.Options(classifier_stddev=-1)


def test_classifier_fields():
  module = base.make_classifier(
    3, layers.Options(), kernel=3, use_bias=False, name='other'
  )
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.ones((1, 5, 5, 4)))
  )
  assert shapes['params']['kernel'].shape == (3, 3, 4, 3)
  assert set(shapes['params']) == {'kernel'}
  assert module.name == 'other'


@pytest.mark.parametrize('stage', [-1, 2, 3])
def test_select_low_level_features(stage):
  maps = head_cases.features((2, 3, 4))
  assert base.select_low_level_features(maps, 1) is maps[1]
  with pytest.raises(ValueError, match=f'low_level_stage={stage} .* 3 stages'):
    base.select_low_level_features(maps, stage)


# The interface of `heads/base.py`, over all heads.


@pytest.mark.parametrize('name', registry.HEADS)
def test_returns_a_tuple_of_logits(name):
  maps = head_cases.features(CHANNELS, SIZES)
  trained, variables = head_cases.trace(make(name), maps, train=True)
  evaluated, _ = head_cases.trace(make(name), maps)
  assert isinstance(evaluated, tuple) and len(evaluated) == 1
  assert evaluated[0] == trained[0]
  for logits in trained:
    assert logits.shape[0] == 2 and logits.shape[-1] == 3
    assert logits.dtype == jnp.float32
  # Modules that only training runs have this prefix.
  training_only = {k for k in variables['params'] if k.startswith('auxiliary')}
  assert bool(training_only) == (len(trained) > 1)


@pytest.mark.parametrize('name', registry.HEADS)
def test_align_corners_reaches_every_resize(name, monkeypatch):
  aligned = []
  resize = resizing.resize

  def record(x, size, align_corners=False):
    aligned.append(align_corners)
    return resize(x, size, align_corners)

  monkeypatch.setattr(resizing, 'resize', record)
  maps = head_cases.features(CHANNELS, SIZES)
  for value in (False, True):
    aligned.clear()
    head_cases.trace(make(name, align_corners=value), maps)
    assert set(aligned) <= {value}
    assert bool(aligned) == (name not in head_cases.WITHOUT_RESIZE)


@pytest.mark.parametrize('name', registry.HEADS)
def test_no_resize_exceeds_the_limit(name, monkeypatch):
  ratios = []
  resize = resizing.resize

  def record(x, size, align_corners=False):
    # A single pixel becomes a constant map.
    pairs = zip(x.shape[1:3], size, strict=True)
    ratios.extend(b / a for a, b in pairs if a > 1)
    return resize(x, size, align_corners)

  monkeypatch.setattr(resizing, 'resize', record)
  sizes = [(80, 48), (20, 12), (20, 12), (5, 3), (5, 3)]
  maps = head_cases.features(CHANNELS, sizes)
  options = layers.Options(resize_ratio=2)
  head_cases.trace(make(name, options=options), maps)
  assert max(ratios, default=1) <= 2
  ratios.clear()
  head_cases.trace(make(name), maps)
  assert max(ratios, default=4) >= 4


@pytest.mark.parametrize('name', registry.HEADS)
def test_norm_fields_reach_every_batch_norm(name):
  maps = head_cases.features(CHANNELS, SIZES)
  head = make(name, bn_decay=0.7, bn_epsilon=0.01)
  norms = [m.norm for _, m in head_cases.calls(head, maps, layers.BatchNorm)]
  assert norms
  assert set(norms) == {layers.BatchNormConfig(decay=0.7, epsilon=0.01)}


@pytest.mark.parametrize('name', registry.HEADS)
def test_bfloat16(name):
  head_cases.assert_bfloat16(make(name), CHANNELS)
