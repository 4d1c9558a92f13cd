"""The DeepLabV3+ head: sizes, decoder, resize."""

import jax
import numpy as np
import pytest

from deeplab.models import resizing
from deeplab.models.heads import deeplabv3plus
from tests.models.heads import head_cases


def make(**fields):
  small = {
    'num_classes': 3,
    'channels': 4,
    'rates': (2,),
    'decoder_channels': 5,
    'low_level_channels': 2,
  }
  return deeplabv3plus.DeepLabV3Plus(**(small | fields))


def features(low=(17, 13), high=(5, 4), batch=2):
  return (
    np.zeros((batch, 33, 25, 2), np.float32),
    np.zeros((batch, *low, 3), np.float32),
    np.zeros((batch, *high, 6), np.float32),
  )


def shapes(module, stages):
  return jax.eval_shape(
    lambda: module.init_with_output(jax.random.key(0), stages, False)
  )


@pytest.mark.parametrize(
  ('low', 'high'), [((17, 13), (5, 4)), ((16, 12), (4, 3)), ((3, 2), (1, 1))]
)
def test_logits_have_the_low_level_size(low, high):
  (out,), _ = shapes(make(), features(low, high))
  assert out.shape == (2, *low, 3)


def test_names_and_channels():
  _, variables = shapes(make(), features())
  params = variables['params']
  assert set(params) == {
    'aspp', 'classifier', 'decoder0', 'decoder1', 'low_level',
  }  # fmt: skip
  assert params['low_level']['conv']['kernel'].shape == (1, 1, 3, 2)
  depthwise = params['decoder0']['depthwise']['conv']['kernel']
  assert depthwise.shape == (3, 3, 1, 4 + 2)
  assert params['classifier']['kernel'].shape == (1, 1, 5, 3)


@pytest.mark.parametrize(
  ('fields', 'count'),
  [
    # Two separable convolutions 6 -> 5 -> 5 after the concatenation.
    ({}, (54 + 12 + 30 + 10) + (45 + 10 + 25 + 10)),
    ({'depthwise_norm': False}, (54 + 30 + 10) + (45 + 25 + 10)),
    ({'decoder_convs': 1}, 54 + 12 + 30 + 10),
    ({'decoder_separable': False}, 9 * 30 + 10 + 9 * 25 + 10),
    ({'decoder_convs': 0}, 0),
  ],
)
def test_decoder_parameters(fields, count):
  _, variables = shapes(make(**fields), features())
  decoder = {
    name: tree
    for name, tree in variables['params'].items()
    if name.startswith('decoder')
  }
  assert sum(leaf.size for leaf in jax.tree.leaves(decoder)) == count


def mmseg(channels, low):
  return {
    'channels': channels,
    'decoder_channels': channels,
    'low_level_channels': low,
    'projection_kernel': 3,
    'aspp_dropout': 0.0,
    'dropout': 0.1,
    'dropout_channels': True,
  }


@pytest.mark.parametrize(
  ('stages', 'fields', 'count'),
  [
    # mmsegmentation's for Cityscapes: 41.2252 M and 12.3201 M, less
    # 23,527,264 and 11,195,744 in the encoders.
    ((256, 2048), mmseg(512, 48), 17_697_923),
    ((64, 512), mmseg(128, 12), 1_124_399),
    # TF DeepLab's Xception-65: 41.0549 M, less 37,867,312.
    ((256, 2048), {}, 3_187_587),
  ],
)
def test_parameters(stages, fields, count):
  head = deeplabv3plus.DeepLabV3Plus(num_classes=19, **fields)
  _, variables = head_cases.trace(head, head_cases.features((1, *stages)))
  assert head_cases.count(variables) == count


def test_every_3x3_convolution_of_the_defaults_is_separable():
  found = head_cases.calls(make(), features())
  assert {conv.groups for _, conv in found if conv.kernel == 3} == {5, 6}
  assert [conv.rate for _, conv in found if conv.kernel == 3] == [2, 1, 1]


@pytest.mark.parametrize('aligned', [False, True])
def test_align_corners_reaches_every_resize(aligned, monkeypatch):
  calls = []
  resize = resizing.resize

  def record(x, size, align_corners=False):
    calls.append((x.shape[1:3], tuple(size), align_corners))
    return resize(x, size, align_corners)

  monkeypatch.setattr(resizing, 'resize', record)
  shapes(make(align_corners=aligned), features())
  assert calls == [((1, 1), (5, 4), aligned), ((5, 4), (17, 13), aligned)]


@pytest.mark.parametrize('stage', [-1, 2, 3])
def test_low_level_stage_must_be_finer(stage):
  with pytest.raises(ValueError, match=f'low_level_stage={stage}'):
    shapes(make(low_level_stage=stage), features())
