import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab import parallel


def test_tests_see_two_devices():
  assert jax.local_device_count() == 2


def test_split_keeps_order_and_refuses_a_remainder():
  parts = parallel.split({'x': np.arange(6)})
  np.testing.assert_array_equal(parts['x'], [[0, 1, 2], [3, 4, 5]])
  with pytest.raises(ValueError, match=r'a batch of 5 images .* 2 devices'):
    parallel.split(np.arange(5))


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_map_predict_pads_and_drops(count):
  run = parallel.map_predict(lambda scale, x: x * scale)
  images = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
  np.testing.assert_array_equal(run(jnp.float32(3), images), 3 * images)


def test_copies_that_differ_are_named():
  step = parallel.map_train(
    lambda s, x: (
      {
        'same': s['same'] + jax.lax.psum(x.sum(), parallel.AXIS),
        'not': s['not'] + x.sum(),
      },
      x,
    )
  )
  zero = {'same': jnp.float32(0), 'not': jnp.float32(0)}
  state, _ = step(zero, np.array([[1.0], [2.0]], np.float32))
  assert parallel.copies_differ(state) == ["['not']"]


def test_one_process_needs_no_conversion():
  state = {'x': jnp.ones(3)}
  assert parallel.to_global(state) is state
  assert parallel.to_local(state) is state


def test_replicated_state_is_placed_as_the_step_returns_it():
  # Else the step would be compiled again for its own result.
  step = parallel.map_train(
    lambda s, x: (s + jax.lax.psum(x.sum(), parallel.AXIS), x)
  )
  state = parallel.replicate(jnp.float32(1))
  assert state == 1
  placement = state.sharding
  assert len(placement.device_set) == 2
  state, _ = step(state, np.ones((2, 1), np.float32))
  assert state.sharding == placement
