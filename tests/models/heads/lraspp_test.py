"""Lite R-ASPP: the gate and the sum of two classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models.heads import lraspp
from tests.models.heads import head_cases

TF = {
  'gate': 'hard_sigmoid',
  'gate_bias': True,
  'pool_window': (3, 4),
  'pool_stride': (2, 1),
}


def make(**fields):
  return lraspp.LRASPP(**({'num_classes': 3, 'channels': 4} | fields))


def maps(seed=None, size=(5, 6)):
  sizes = [(20, 24), (20, 24), (10, 12), size]
  return head_cases.features((2, 2, 3, 5), sizes, seed=seed)


@pytest.mark.parametrize(
  ('stage', 'size'), [(2, (10, 12)), (1, (20, 24)), (0, (20, 24))]
)
def test_logits_have_the_low_level_size(stage, size):
  (out,), _ = head_cases.trace(make(low_level_stage=stage), maps())
  assert out.shape == (2, *size, 3)


@pytest.mark.parametrize(
  ('channels', 'low', 'fields', 'count'),
  [
    # torchvision's MobileNetV3-Large: 3,221,538 in all, 2,971,952 before it.
    (960, 40, {'num_classes': 21, 'channels': 128}, 249_586),
    # TF's: 480 x 128 + 256, 480 x 128 + 128, 128 x 19 + 19, 120 x 19 + 19.
    (480, 120, {'num_classes': 19, 'channels': 128, **TF}, 128_014),
  ],
)
def test_parameters(channels, low, fields, count):
  features = head_cases.features((1, 1, low, channels))
  _, variables = head_cases.trace(make(**fields), features)
  assert head_cases.count(variables) == count


@pytest.mark.parametrize('fields', [{}, {'gate': 'hard_sigmoid'}])
def test_equals_numpy(fields, random_variables):
  head, features = make(**fields), maps(seed=1, size=(10, 12))
  variables = random_variables(head, features, False)
  params, stats = variables['params'], variables['batch_stats']['conv']
  high, low = features[-1], features[2]
  gate = high.mean((1, 2), keepdims=True) @ params['gate']['kernel'][0, 0]
  if fields:
    gate = np.clip(gate + 3, 0, 6) / 6
  else:
    gate = 1 / (1 + np.exp(-gate))
  bn = params['conv']['norm']['bn'] | stats['norm']['bn']
  x = high @ params['conv']['conv']['kernel'][0, 0]
  x = (x - bn['mean']) / np.sqrt(bn['var'] + 1e-5) * bn['scale'] + bn['bias']
  expected = sum(
    y @ params[name]['kernel'][0, 0] + params[name]['bias']
    for name, y in (
      ('classifier', np.maximum(x, 0) * gate),
      ('low_level_classifier', low),
    )
  )
  (actual,) = jax.jit(head.apply, static_argnums=2)(variables, features, False)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_windows_make_the_gate_vary_over_the_map(monkeypatch):
  sizes = []
  pool = lraspp.pooling.average_pool

  def record(x, size, stride):
    y = pool(x, size, stride)
    sizes.append((x.shape[1:3], tuple(size), y.shape[1:3]))
    return y

  monkeypatch.setattr(lraspp.pooling, 'average_pool', record)
  head_cases.trace(make(**TF), maps(), train=True)
  head_cases.trace(make(**TF), maps(size=(2, 9)), train=True)
  # (5 - 3) // 2 + 1 by (6 - 4) // 1 + 1; then a window of the two rows.
  assert ((5, 6), (3, 4), (2, 3)) in sizes
  assert ((2, 9), (2, 4), (1, 6)) in sizes


def test_a_window_of_the_whole_map_equals_the_mean(random_variables):
  features = maps(seed=1)
  whole, window = (make(pool_window=window) for window in ((), (9, 9)))
  variables = random_variables(whole, features, False)
  np.testing.assert_array_equal(
    whole.apply(variables, features, False)[0],
    window.apply(variables, features, False)[0],
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'gate': 'tanh'}, "gate='tanh'"),
    ({'pool_window': (3,)}, r'pool_window=\(3,\)'),
    ({'pool_window': (3, 3), 'pool_stride': (1,)}, r'pool_stride=\(1,\)'),
    ({'low_level_stage': 3}, 'low_level_stage=3'),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    head_cases.trace(make(**fields), maps())


@pytest.mark.parametrize('fields', [{}, TF])
def test_trains(fields):
  head_cases.assert_trains(
    make(**fields), jax.tree.map(jnp.asarray, maps(seed=0))
  )
