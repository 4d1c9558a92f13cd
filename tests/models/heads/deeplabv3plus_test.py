"""The DeepLabV3+ head: sizes, decoder, resize."""

import jax
import numpy as np
import pytest

from deeplab.models import layers
from deeplab.models.heads import deeplabv3plus


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
  out, _ = shapes(make(), features(low, high))
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


@pytest.mark.parametrize('aligned', [False, True])
def test_align_corners_reaches_every_resize(aligned, monkeypatch):
  calls = []
  resize = layers.resize

  def record(x, size, align_corners=False):
    calls.append((x.shape[1:3], tuple(size), align_corners))
    return resize(x, size, align_corners)

  monkeypatch.setattr(layers, 'resize', record)
  shapes(make(align_corners=aligned), features())
  assert calls == [((1, 1), (5, 4), aligned), ((5, 4), (17, 13), aligned)]


@pytest.mark.parametrize('stage', [-1, 2, 3])
def test_low_level_stage_must_be_finer(stage):
  with pytest.raises(ValueError, match=f'low_level_stage={stage}'):
    shapes(make(low_level_stage=stage), features())
