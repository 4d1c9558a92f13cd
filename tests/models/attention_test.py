import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import attention
from deeplab.models import layers


@pytest.mark.parametrize(
  ('gate', 'expected'),
  [
    # At -4, -2.7, -1.5, 0, 0.6, 1.5, 2.7 and 4.
    ('hard_sigmoid', (0, 0.05, 0.25, 0.5, 0.6, 0.75, 0.95, 1)),
    (
      'hard_sigmoid_tf',
      (0, 0.050001, 0.250005, 0.50001, 0.600012, 0.750015, 0.950019, 1.00002),
    ),
    ('hard_sigmoid_paddle', (0, 0, 0.2, 0.5, 0.62, 0.8, 1, 1)),
    ('clip', (0, 0, 0, 0, 0.6, 1, 1, 1)),
  ],
)
def test_gates(gate, expected):
  x = jnp.array([-4, -2.7, -1.5, 0, 0.6, 1.5, 2.7, 4])
  y = attention.GATES[gate](x)
  np.testing.assert_allclose(y, expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize('pointwise', ['conv', 'matmul'])
@pytest.mark.parametrize('train', [False, True])
def test_squeeze_excite_by_hand(train, pointwise):
  module = attention.SqueezeExcite(
    1, gate='clip', options=layers.Options(pointwise=pointwise)
  )
  # Means 2 and -1; 3 * 2 + 2 * -1 - 3 = 1; gates 0.5 and -0.75 + 1.
  x = np.array([[[[1, 0], [3, -2]]]], np.float32)
  params = {
    'reduce': {
      'kernel': np.array([[[[3], [2]]]], np.float32),
      'bias': np.array([-3], np.float32),
    },
    'expand': {
      'kernel': np.array([[[[0.5, -0.75]]]], np.float32),
      'bias': np.array([0, 1], np.float32),
    },
  }
  y = module.apply({'params': params}, x, train)
  np.testing.assert_allclose(y, [[[[0.5, 0], [1.5, -0.5]]]], rtol=1e-6)
  # Below zero nothing passes the ReLU: gates 0 and 1.
  params['reduce']['bias'] -= 5
  y = module.apply({'params': params}, x, train)
  np.testing.assert_allclose(y, [[[[0, 0], [0, -2]]]], rtol=1e-6)


def test_bfloat16():
  module = attention.SqueezeExcite(2, options=layers.Options(dtype='bfloat16'))
  for train in (False, True):
    y, state = jax.eval_shape(
      lambda train=train: module.init_with_output(
        jax.random.key(0), jnp.zeros((1, 3, 3, 8), jnp.bfloat16), train
      )
    )
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype('float32')}
