"""The segmenter: sizes, modes, staged resizes, dtypes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models import segmenter
from deeplab.models.heads import deeplabv3plus
from deeplab.models.heads import fcn
from deeplab.models.heads import mobileseg

NORM = layers.BatchNormConfig(0.9, 1e-3)


class Encoder(nn.Module):
  """Strides 2, 4, 8 by depthwise and 1x1 convolutions."""

  channels: tuple[int, ...] = (4, 4, 8)
  options: layers.Options = layers.Options()

  @nn.compact
  def __call__(self, images, train):
    x, features = images, []
    for i, channels in enumerate(self.channels):
      x = layers.SeparableConvBN(
        channels, NORM, stride=2, options=self.options, name=f'stage{i}'
      )(x, train)
      features.append(x)
    return tuple(features)


def make(auxiliary=False, options=None, **fields):
  options = options or layers.Options()
  return segmenter.Segmenter(
    encoder=Encoder(options=options),
    head=deeplabv3plus.DeepLabV3Plus(
      num_classes=3,
      channels=4,
      rates=(2,),
      decoder_convs=1,
      decoder_channels=4,
      low_level_channels=2,
      align_corners=fields.pop('align_corners', False),
      options=options,
    ),
    auxiliary=fcn.FCN(num_classes=3, stage=2, channels=4, options=options)
    if auxiliary
    else None,
    num_classes=3,
    **fields,
  )


def images(height=33, width=33, batch=2):
  shape = (batch, height, width, 3)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def shapes(network, x, *args, **kwargs):
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), x))
  return jax.eval_shape(
    lambda v: network.apply(v, x, *args, mutable=['batch_stats'], **kwargs)[0],
    variables,
  )


@pytest.mark.parametrize(
  'size', [(1, 1), (2, 3), (16, 16), (33, 33), (32, 47), (50, 21)]
)
@pytest.mark.parametrize('ratio', [0, 2, 4])
def test_logits_have_the_input_size(size, ratio):
  options = layers.Options(resize_ratio=ratio)
  out = shapes(make(options=options), images(*size))
  assert out.logits.shape == (2, *size, 3)
  assert out.logits.dtype == jnp.float32
  assert out.auxiliary == ()


def test_coarse_logits():
  out = shapes(make(auxiliary=True), images(), True, full_resolution=False)
  assert out.logits.shape == (2, 9, 9, 3)
  assert [x.shape for x in out.auxiliary] == [(2, 5, 5, 3)]


def test_auxiliary_head_runs_in_training_only():
  network, x = make(auxiliary=True), images()
  trained = shapes(network, x, True)
  assert [y.shape for y in trained.auxiliary] == [(2, 33, 33, 3)]
  assert trained.auxiliary[0].dtype == jnp.float32
  assert shapes(network, x).auxiliary == ()
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), x))
  assert set(variables) == {'params', 'batch_stats'}
  for tree in variables.values():
    assert set(tree) == {'auxiliary', 'encoder', 'head'}


def test_auxiliary_outputs_of_the_head_come_first():
  network = make(auxiliary=True)
  head = mobileseg.MobileSeg(
    num_classes=3, stages=(0, 1, 2), channels=(4, 4, 4), context_channels=4
  )
  network, x = network.clone(head=head), images()
  trained = shapes(network, x, True)
  assert trained.logits.shape == (2, 33, 33, 3)
  assert [y.shape for y in trained.auxiliary] == [(2, 33, 33, 3)] * 3
  assert {y.dtype for y in trained.auxiliary} == {jnp.dtype('float32')}
  coarse = shapes(network, x, True, full_resolution=False)
  assert [y.shape[1:3] for y in (coarse.logits, *coarse.auxiliary)] == [
    (17, 17),
    (9, 9),
    (5, 5),
    (5, 5),
  ]
  assert shapes(network, x).auxiliary == ()
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), x))
  names = set(variables['params']['head'])
  assert {'auxiliary1_conv', 'auxiliary2_conv'} < names
  assert 'auxiliary3_conv' not in names


@pytest.mark.parametrize('aligned', [False, True])
def test_staged_resize_differs_unless_corners_align(aligned, random_variables):
  x = images()  # coarse logits are 9x9: steps 17 and 33 with aligned corners
  outputs = []
  for ratio in (0, 2):
    options = layers.Options(resize_ratio=ratio)
    network = make(align_corners=aligned, options=options)
    variables = random_variables(network, x)
    outputs.append(jax.jit(network.apply)(variables, x).logits)
  difference = float(jnp.abs(outputs[0] - outputs[1]).max())
  scale = float(jnp.abs(outputs[0]).max())
  if aligned:
    assert difference < 1e-5 * scale
  else:
    assert difference > 1e-2 * scale


def test_implementations_of_convolution_agree(random_variables):
  x = images(16, 11)
  results = []
  for options in (
    layers.Options(),
    layers.Options(depthwise='shifted', pointwise='matmul'),
  ):
    network = segmenter.Segmenter(
      encoder=Encoder(channels=(4, 6), options=options),
      head=fcn.FCN(num_classes=3, stage=1, convs=0, options=options),
      auxiliary=None,
      num_classes=3,
    )
    variables = random_variables(network, x)

    def loss(params, network=network, variables=variables):
      logits = network.apply(variables | {'params': params}, x).logits
      return (logits**2).mean(), logits

    results.append(jax.jit(jax.grad(loss, has_aux=True))(variables['params']))
  (gradients, logits), (fast_gradients, fast_logits) = results
  np.testing.assert_allclose(fast_logits, logits, rtol=1e-4, atol=1e-4)
  for (path, slow), fast in zip(
    jax.tree_util.tree_leaves_with_path(gradients),
    jax.tree.leaves(fast_gradients),
    strict=True,
  ):
    atol = 1e-4 * float(jnp.abs(slow).max())
    assert atol > 0, path
    np.testing.assert_allclose(
      fast, slow, rtol=1e-3, atol=atol, err_msg=str(path)
    )


def test_bfloat16_keeps_float32_parameters_and_logits(random_variables):
  x = images(32, 32)
  half = make(auxiliary=True, options=layers.Options(dtype='bfloat16'))
  variables = random_variables(half, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    np.dtype('float32')
  }
  out, updates = jax.eval_shape(
    lambda v: half.apply(v, x, True, mutable=['batch_stats']), variables
  )
  assert out.logits.dtype == out.auxiliary[0].dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {
    jnp.dtype('float32')
  }
  full = jax.jit(make(auxiliary=True).apply)(variables, x).logits
  close = jax.jit(half.apply)(variables, x).logits
  scale = float(jnp.abs(full).max())
  assert 0 < float(jnp.abs(full - close).max()) < 0.1 * scale


def test_heads_draw_from_distinct_keys(dropout_calls):
  network, x = make(auxiliary=True), images(16, 16)
  network = network.clone(head=network.head.clone(dropout=0.3))
  keys = jax.random.split(jax.random.key(0), 2)
  variables = jax.eval_shape(lambda: network.init(jax.random.key(0), x))
  dropout_calls.clear()

  def used(v, keys):
    network.apply(v, x, True, keys, mutable=['batch_stats'])
    return [jax.random.key_data(keys) for _, keys in dropout_calls]

  zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), variables)
  rows = np.concatenate(jax.jit(used)(zeros, keys))
  assert [rate for rate, _ in dropout_calls] == [0.1, 0.3, 0.1]
  assert len(np.unique(rows, axis=0)) == 3 * 2


def test_no_dropout_in_evaluation(dropout_calls):
  keys = jax.random.split(jax.random.key(0), 2)
  x = images(16, 16)
  jax.eval_shape(lambda: make().init(jax.random.key(0), x, False, keys))
  assert [keys for _, keys in dropout_calls] == [None, None]


def test_images_of_wrong_rank_fail():
  with pytest.raises(ValueError, match=r'shape \(9, 9, 3\)'):
    shapes(make(), jnp.zeros((9, 9, 3)))


def test_batch_of_one_fails_in_training():
  x = images(batch=1)
  with pytest.raises(ValueError, match='raise batch_size'):
    shapes(make(), x, True)
  assert shapes(make(), x).logits.shape == (1, 33, 33, 3)
