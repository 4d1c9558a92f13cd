"""The DeepLabV3 head: shapes, fields, dropout sites."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.heads import deeplabv3
from tests.models.heads import head_cases


def features(batch=2, size=(5, 7), dtype=jnp.float32):
  noise = np.random.default_rng(0).normal(size=(batch, *size, 6))
  return np.zeros((batch, 40, 40, 2), dtype), noise.astype(dtype)


def make(**fields):
  return deeplabv3.DeepLabV3(
    **({'num_classes': 3, 'channels': 4, 'rates': (1, 2)} | fields)
  )


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (4, 6)])
def test_logits_have_the_last_stage_size(size):
  stages = features(size=size)
  module = make()
  (out,) = jax.eval_shape(
    lambda: module.init_with_output(jax.random.key(0), stages, False)[0]
  )
  assert out.shape == (2, *size, 3)


TORCHVISION = {'rates': (12, 24, 36), 'refine': 'dense', 'aspp_dropout': 0.5}


@pytest.mark.parametrize(
  ('channels', 'classes', 'fields', 'count'),
  [
    # torchvision's totals, 42,004,074 and 11,029,328, less the encoder's
    # (23,508,032 and 2,971,952) and the auxiliary head's.
    (2048, 21, TORCHVISION, 42_004_074 - 23_508_032 - 2_365_205),
    (960, 21, TORCHVISION, 11_029_328 - 2_971_952 - 3_851),
    # TF DeepLab's mobile models for VOC and Cityscapes.
    (320, 21, {'rates': ()}, 2_113_557 - 1_811_712),
    (320, 19, {'rates': ()}, 301_331),
    # mmsegmentation's ASPPHead in small: 528 + 528 + 3 * 4,624 + 2,896 + 18.
    (64, 2, {'channels': 8, 'projection_kernel': 3}, 17_842),
  ],
)
def test_parameters(channels, classes, fields, count):
  head = deeplabv3.DeepLabV3(num_classes=classes, **fields)
  _, variables = head_cases.trace(head, head_cases.features((1, channels)))
  assert head_cases.count(variables) == count


def test_parameter_paths():
  shapes = jax.eval_shape(
    lambda: make(refine='dense').init(jax.random.key(0), features(), False)
  )
  params = shapes['params']
  assert set(params) == {'aspp', 'classifier'}
  assert set(params['aspp']) == {
    'atrous0', 'atrous1', 'conv', 'pool', 'projection', 'refine',
  }  # fmt: skip
  assert set(params['classifier']) == {'kernel', 'bias'}


def test_norm_fields_reach_every_batch_norm():
  norms = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, layers.BatchNorm):
      norms.append(context.module.norm)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(
      lambda: make(bn_decay=0.7, bn_epsilon=0.01).init(
        jax.random.key(0), features(), False
      )
    )
  assert norms == [layers.BatchNormConfig(decay=0.7, epsilon=0.01)] * 5


def test_two_dropout_sites_draw_from_distinct_keys():
  keys = jax.random.split(jax.random.key(0), 2)
  masks = [
    layers.dropout(jnp.ones((2, 64)), 0.5, layers.fold_keys(keys, site))
    for site in (0, 1)
  ]
  agree = float((masks[0] == masks[1]).mean())
  assert 0.3 < agree < 0.7
  assert layers.fold_keys(None, 0) is None


@pytest.mark.parametrize('train', [False, True])
def test_dropout_in_training_only(train, dropout_calls):
  module = make(aspp_dropout=0.25, dropout=0.5)
  keys = jax.random.split(jax.random.key(0), 2)
  jax.eval_shape(
    lambda: module.init(jax.random.key(0), features(), train, keys)
  )
  assert [rate for rate, _ in dropout_calls] == [0.25, 0.5]
  assert [used is not None for _, used in dropout_calls] == [train, train]


def test_bfloat16_keeps_float32_parameters_and_logits():
  options = layers.Options(dtype='bfloat16')
  stages = features(dtype=jnp.bfloat16)
  (out,), variables = jax.eval_shape(
    lambda: make(options=options).init_with_output(
      jax.random.key(0), stages, False
    )
  )
  assert out.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
