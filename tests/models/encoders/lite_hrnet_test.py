"""Lite-HRNet: its layout, its upsampling, and where it is frozen.

That its features are PaddleSeg's is tested in `tests/models/paddleseg_test.py`.
"""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.encoders import lite_hrnet
from tests.models.encoders import encoder_cases

Tiny = lite_hrnet.LiteHRNetTiny


def test_counts():
  # PaddleSeg's 1,233,656 of MobileSeg has 103,584 in its head.
  assert encoder_cases.count(lite_hrnet.LiteHRNet18(32))[0] == 1_130_072


def test_maps():
  """Channels of PaddleSeg's maps, after the stem's."""
  assert encoder_cases.shapes(lite_hrnet.LiteHRNet18(32), 64, 96) == [
    (32, 48, 32),
    (16, 24, 40),
    (8, 12, 40),
    (4, 6, 80),
    (2, 3, 160),
  ]


@pytest.mark.full
def test_output_stride_drops_maps_and_changes_none():
  weights, x = encoder_cases.variables(Tiny(32)), encoder_cases.images(61, 40)
  whole = encoder_cases.features(Tiny(32), weights, x)
  maps = encoder_cases.features(Tiny(8), weights, x)
  assert len(maps) == 3
  for a, b in zip(maps, whole, strict=False):
    np.testing.assert_array_equal(a, b)


def test_module_names():
  flat = flax.traverse_util.flatten_dict(
    encoder_cases.variables(Tiny())['params'], sep='/'
  )
  assert flat['stem/depthwise/conv/kernel'].shape == (3, 3, 1, 8)
  assert flat['transition0_branch1/pointwise/conv/kernel'].shape[2:] == (8, 24)
  block = 'stage2_module0/block0'
  assert flat[f'{block}/reduce/conv/kernel'].shape == (1, 1, 56, 7)
  assert flat[f'{block}/squeeze_excite3/reduce/kernel'].shape == (1, 1, 20, 5)
  fuse = 'stage2_module0/fuse3_from1'
  assert flat[f'{fuse}_1/pointwise/conv/kernel'].shape[2:] == (24, 24)
  assert flat[f'{fuse}_2/pointwise/conv/kernel'].shape[2:] == (24, 40)
  assert flat['stage2_module0/fuse1_from3/conv/kernel'].shape[2:] == (40, 24)
  assert flat['head3/pointwise/conv/kernel'].shape[2:] == (40, 32)
  transitions = {n.split('/')[0] for n in flat if n.startswith('transition')}
  assert transitions == {
    'transition0_branch0',
    'transition0_branch1',
    'transition1_branch2',
    'transition2_branch3',
  }


@pytest.mark.parametrize('size', [(6, 12), (5, 10)])
def test_upsample_nearest_equals_the_definition(size):
  x = np.random.default_rng(0).normal(size=(2, 2, 4, 3)).astype(np.float32)
  expected = x.repeat(3, axis=1).repeat(3, axis=2)[:, : size[0], : size[1]]
  np.testing.assert_array_equal(
    lite_hrnet.upsample_nearest(x, 3, size), expected
  )


def test_finest_branch_counts_twice():
  """With the other branches zeroed, the result is computed by hand."""
  norm = layers.BatchNormConfig(0.9, 0.0)
  options = layers.Options()
  module = lite_hrnet.LiteHRModule(0, 8, norm, norm, 'symmetric', options)
  branches = [
    np.full((1, 4, 4, 8), 1.0, np.float32),
    np.full((1, 2, 2, 8), 5.0, np.float32),
  ]
  variables = module.init(jax.random.key(0), branches, False)
  flat = flax.traverse_util.flatten_dict(variables)
  for path, leaf in flat.items():
    if path[-1] == 'kernel':
      flat[path] = jnp.zeros_like(leaf)
  down = ('params', 'fuse1_from0_1')
  # The center of each window, and then the channel itself.
  flat[(*down, 'depthwise', 'conv', 'kernel')] = (
    jnp.zeros((3, 3, 1, 8)).at[1, 1].set(1.0)
  )
  flat[(*down, 'pointwise', 'conv', 'kernel')] = jnp.eye(8)[None, None]
  variables = flax.traverse_util.unflatten_dict(flat)
  fine, coarse = module.apply(variables, branches, False)
  # 1 + 1 + 0; then that twice, and 5.
  assert np.unique(fine).tolist() == [2.0]
  assert np.unique(coarse).tolist() == [9.0]


@pytest.mark.parametrize('freeze_norm', [False, True])
def test_freeze_norm(freeze_norm):
  """Only the layers that PaddleSeg freezes: in the blocks and the head."""
  encoder, frozen = Tiny(freeze_norm=freeze_norm), {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, layers.BatchNorm):
      frozen['/'.join(context.module.path)] = context.module.norm.frozen
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    encoder_cases.shapes(encoder, 32, 32)
  chosen = {path for path, value in frozen.items() if value}
  expected = {path for path in frozen if 'block' in path or 'head' in path}
  assert 0 < len(expected) < len(frozen)
  assert chosen == (expected if freeze_norm else set())


@pytest.mark.full
def test_trains():
  # The map at stride 4 holds all the others.
  encoder_cases.assert_trains(Tiny(4))


def test_bfloat16():
  encoder_cases.assert_bfloat16(Tiny(options=layers.Options(dtype='bfloat16')))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'output_stride': 2}, 'output_stride=2'),
    ({'multi_grid': (1, 2)}, r'multi_grid=\(1, 2\) must be ones'),
    ({'channels': (8, 16, 24)}, 'channels='),
    ({'channels': (8, 16, 24, 36)}, 'must be positive multiples of 8'),
    ({'modules': (1, 1)}, 'modules='),
    ({'stem': 7}, 'stem=7 must be even'),
    ({'padding': 'valid'}, "padding='valid'"),
  ],
)
def test_invalid_fields_fail(fields, message):
  with pytest.raises(ValueError, match=message):
    encoder_cases.shapes(Tiny(**fields), 33, 33)
