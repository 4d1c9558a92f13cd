"""Helpers for the tests of all encoders."""

import flax
import jax
import jax.numpy as jnp
import numpy as np


def images(height, width, seed=0, batch=1):
  generator = np.random.default_rng(seed)
  shape = (batch, height, width, 3)
  return generator.standard_normal(shape).astype(np.float32)


def variables(encoder, size=(33, 33), seed=0):
  """Returns random variables, BatchNorm's scales and statistics included."""
  shapes = jax.eval_shape(
    lambda: encoder.init(jax.random.key(0), jnp.zeros((1, *size, 3)), False)
  )
  generator = np.random.default_rng(seed)
  flat = {}
  for path, leaf in flax.traverse_util.flatten_dict(shapes).items():
    if path[-1] == 'kernel':
      std = np.prod(leaf.shape[:3]) ** -0.5
      value = std * generator.standard_normal(leaf.shape)
    elif path[-1] in ('scale', 'var'):
      value = generator.uniform(0.5, 1.5, leaf.shape)
    else:
      value = 0.2 * generator.standard_normal(leaf.shape)
    flat[path] = value.astype(np.float32)
  return flax.traverse_util.unflatten_dict(flat)


def constant_gates(weights):
  """Returns variables whose squeeze-and-excitation gates ignore the map."""
  flat = flax.traverse_util.flatten_dict(weights)
  return flax.traverse_util.unflatten_dict(
    {
      path: np.zeros_like(leaf)
      if path[-3:] == ('squeeze_excite', 'expand', 'kernel')
      else leaf
      for path, leaf in flat.items()
    }
  )


def features(encoder, weights, x, entries=slice(None)):
  """Returns entries of the maps, compiled without optimization, for speed."""
  apply = jax.jit(
    lambda v, x: encoder.apply(v, x, False)[entries],
    compiler_options={'xla_backend_optimization_level': 0},
  )
  return [np.asarray(f) for f in apply(weights, x)]


def subset(own, every):
  """Returns the variables of `every` whose paths `own` has, too."""
  own = flax.traverse_util.flatten_dict(own)
  every = flax.traverse_util.flatten_dict(every)
  return flax.traverse_util.unflatten_dict({path: every[path] for path in own})


def _plan(encoder, chosen):
  """Returns the (stride, rate) of the convolutions that `chosen` takes."""
  jaxpr = jax.make_jaxpr(
    lambda x: encoder.init_with_output(jax.random.key(0), x, False)
  )(jnp.zeros((1, 33, 33, 3)))
  return [
    (eqn.params['window_strides'][0], eqn.params['rhs_dilation'][0])
    for eqn in jaxpr.eqns
    if eqn.primitive.name == 'conv_general_dilated' and chosen(eqn)
  ]


def depthwise_plan(encoder):
  """Returns the (stride, rate) of every depthwise convolution, in order."""
  return _plan(encoder, lambda eqn: eqn.params['feature_group_count'] > 1)


def kernel_plan(encoder, kernel):
  """Returns the (stride, rate) of every convolution of one kernel size."""
  return _plan(encoder, lambda eqn: eqn.invars[1].aval.shape[0] == kernel)


def assert_equal(ours, theirs, rtol=2e-5):
  """Asserts that maps equal those of another system, and are not constant.

  Args:
    ours: maps.
    theirs: the other system's.
    rtol: largest difference, as a share of the map's largest value.
  """
  assert len(ours) == len(theirs)
  for a, b in zip(ours, theirs, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())
    assert b.std() > 1e-2


def assert_subsampled(fine, coarse, output_stride, atol=2e-5, offset=0):
  """Asserts that the rows and columns shared by two grids are equal.

  Args:
    fine: features at `output_stride`.
    coarse: features at output stride 32.
    output_stride: that of `fine`.
    atol: largest difference, as a share of the coarse map's deviation.
    offset: first row taken is `offset` times (ratio of the strides - 1).
  """
  assert len(fine) == len(coarse) == 5
  for i, (a, b) in enumerate(zip(fine, coarse, strict=True)):
    step = max(1, 2 ** (i + 1) // output_stride)
    first = offset * (step - 1)
    np.testing.assert_allclose(
      a[:, first::step, first::step], b, rtol=0, atol=atol * b.std()
    )


def assert_trains(encoder):
  """Asserts that every parameter has a gradient and every statistic moves."""
  weights, x = variables(encoder), images(33, 33, batch=2)

  def loss(params):
    outputs, state = encoder.apply(
      {**weights, 'params': params}, x, True, mutable=['batch_stats']
    )
    return jnp.mean(jnp.square(outputs[-1])), state

  gradients, state = jax.jit(
    jax.grad(loss, has_aux=True),
    compiler_options={'xla_backend_optimization_level': 0},
  )(weights['params'])
  for path, leaf in flax.traverse_util.flatten_dict(gradients).items():
    assert np.all(np.isfinite(leaf)) and np.any(leaf != 0), path
  old = jax.tree.leaves(weights['batch_stats'])
  new = jax.tree.leaves(state['batch_stats'])
  assert all(np.any(a != b) for a, b in zip(old, new, strict=True))


def assert_bfloat16(encoder):
  """Asserts bfloat16 maps, float32 parameters and statistics."""
  for train in (False, True):
    outputs, state = jax.eval_shape(
      lambda train=train: encoder.init_with_output(
        jax.random.key(0), jnp.zeros((2, 33, 33, 3)), train
      )
    )
    assert {f.dtype for f in outputs} == {jnp.dtype('bfloat16')}
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert dtypes == {jnp.dtype('float32')}


def count(encoder):
  """Returns the number of parameters and of running statistics."""
  shapes = jax.eval_shape(
    lambda: encoder.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)), False)
  )
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(tree))
    for name, tree in shapes.items()
  }
  return sizes['params'], sizes['batch_stats']


def shapes(encoder, height, width):
  """Returns the (H, W, C) of each entry."""
  outputs, _ = jax.eval_shape(
    lambda: encoder.init_with_output(
      jax.random.key(0), jnp.zeros((1, height, width, 3)), False
    )
  )
  return [f.shape[1:] for f in outputs]
