"""Helpers for the tests of all heads."""

import flax.linen as nn
import jax
import numpy as np

from deeplab.models import layers

# Parameters with default fields, three classes and MobileNetV2's channels (16,
# 24, 32, 96, 320). Every registered head needs a row here.
HEAD_PARAMETERS = {
  'deeplabv3': 2_707_203,
  'deeplabv3_lite': 608_448,
  'deeplabv3plus': 903_475,
  'erfnet': 299_699,
  'fcn': 222_467,
  'fpn_lite': 853_568,
  'lraspp': 82_662,
  'mobileseg': 244_416,
  'st_aspp': 754_179,
  'swiftnet': 555_827,
  'unet': 2_193_523,
  'unet_lite': 651_416,
}
# Heads that never resize: a single map, or transposed convolutions.
WITHOUT_RESIZE = ('fcn', 'erfnet')


def features(channels, sizes=None, batch=2, seed=None):
  """Returns feature maps: noise from `seed`, or zeros without one.

  Args:
    channels: of each map, fine to coarse.
    sizes: (h, w) of each; by default those of a 65 x 49 image at strides 2, 4,
      8, 16, 32.
    batch: images.
    seed: of the noise.
  """
  sizes = sizes or [(33, 25), (17, 13), (9, 7), (5, 4), (3, 2)][: len(channels)]
  generator = np.random.default_rng(seed)
  return tuple(
    np.zeros((batch, *size, c), np.float32)
    if seed is None
    else generator.standard_normal((batch, *size, c)).astype(np.float32)
    for size, c in zip(sizes, channels, strict=True)
  )


def trace(head, maps, train=False):
  """Returns shapes of the outputs in one mode, and of the variables."""
  variables = jax.eval_shape(lambda: head.init(jax.random.key(0), maps, False))
  outputs = jax.eval_shape(
    lambda v: head.apply(v, maps, train, mutable=['batch_stats'])[0], variables
  )
  return outputs, variables


def count(variables):
  """Returns the number of parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables['params']))


def calls(head, maps, module=layers.Conv):
  """Returns (name, module) of each call of a class of layers, in order."""
  found = []

  def record(call, args, kwargs, context):
    if type(context.module) is module and context.method_name == '__call__':
      found.append(('/'.join(context.module.path), context.module))
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(lambda: head.init(jax.random.key(0), maps, False))
  return found


def assert_trains(head, maps):
  """Asserts that every parameter has a gradient and every statistic moves."""
  variables = jax.jit(lambda: head.init(jax.random.key(0), maps, False))()

  def loss(params):
    outputs, state = head.apply(
      variables | {'params': params}, maps, True, mutable=['batch_stats']
    )
    return sum((x**2).mean() for x in outputs), state

  gradients, state = jax.jit(jax.grad(loss, has_aux=True))(variables['params'])
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.all(np.isfinite(leaf)), path
    # A bias before BatchNorm has no effect; its gradient is rounding error.
    if not (path[-1].key == 'bias' and path[-2].key == 'conv'):
      assert np.any(leaf != 0), path
  old = jax.tree.leaves(variables['batch_stats'])
  new = jax.tree.leaves(state['batch_stats'])
  assert all(np.any(a != b) for a, b in zip(old, new, strict=True))


def assert_bfloat16(head, channels):
  """Asserts float32 logits, parameters and statistics at bfloat16."""
  head = head.clone(options=layers.Options(dtype='bfloat16'))
  maps = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, 'bfloat16'), features(channels)
  )
  outputs, variables = jax.eval_shape(
    lambda maps: head.init_with_output(jax.random.key(0), maps, False), maps
  )
  dtypes = {x.dtype for x in jax.tree.leaves((outputs, variables))}
  assert dtypes == {np.dtype('float32')}
