"""Maps equal PaddleSeg's under a strict mapping of random weights.

At multiples of 32: its Lite-HRNet takes no other size.
"""

import jax
import pytest

from deeplab.models import segmenter
from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import lite_hrnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.heads import mobileseg
from deeplab.pretrained.systems import paddleseg
from tests.models import paddle_cases
from tests.models.encoders import encoder_cases


def layer_of(part):
  """Returns the function from modules of a path to PaddleSeg's layer."""
  return getattr(paddleseg, f'_{part}')


# Our encoder, PaddleSeg's name and fields, and the mapping between them.
ENCODERS = {
  'mobilenet_v2': (
    mobilenet_v2.MobileNetV2(
      32, expand_first=True, padding='symmetric', bn_epsilon=1e-5
    ),
    ('MobileNetV2_x1_0', {}),
    layer_of('mobilenet_v2'),
  ),
  'mobilenet_v3_large': (
    mobilenet_v3.MobileNetV3Large(
      32,
      expand_always=True,
      squeeze='exact',
      gate='hard_sigmoid_paddle',
      bn_epsilon=1e-5,
      top_conv=False,
    ),
    ('MobileNetV3_large_x1_0', {}),
    layer_of('mobilenet_v3'),
  ),
  'shufflenet_v2': (
    shufflenet_v2.ShuffleNetV2(32),
    ('ShuffleNetV2_x1_0', {}),
    layer_of('shufflenet'),
  ),
  'ghostnet': (
    ghostnet.GhostNet(32),
    ('GhostNet_x1_0', {}),
    layer_of('ghostnet'),
  ),
  'lite_hrnet_18': (
    lite_hrnet.LiteHRNet18(32),
    ('Lite_HRNet_18', {'use_head': True}),
    layer_of('lite_hrnet'),
  ),
}


def request_of(name):
  """Returns the request for a MobileSeg, of `paddle_cases`."""
  _, (backbone, fields), _ = ENCODERS[name]
  first = 1 if name == 'lite_hrnet_18' else 2
  return {
    'backbone': backbone,
    'fields': fields,
    'head': {
      'num_classes': 19,
      'backbone_indices': [first - 1, first, first + 1],
      'cm_bin_sizes': [1, 2, 4],
      'cm_out_ch': 128,
      'arm_out_chs': [32, 64, 128],
      'seg_head_inter_chs': [32, 32, 32],
    },
  }


@pytest.mark.parametrize('name', ENCODERS)
def test_encoder(name, tmp_path):
  encoder, (backbone, fields), module_name = ENCODERS[name]
  variables = encoder_cases.variables(encoder)
  x = encoder_cases.images(64, 96, seed=1)
  request = {'backbone': backbone, 'fields': fields}
  theirs = paddle_cases.features(request, variables, module_name, x, tmp_path)
  # PaddleSeg does not return the map at stride 2.
  ours = encoder_cases.features(encoder, variables, x)[1:]
  encoder_cases.assert_equal(ours, theirs, 1e-4)


@pytest.mark.full
@pytest.mark.parametrize('name', ENCODERS)
def test_mobileseg(name, tmp_path):
  """The whole network: logits at the size of the image."""
  encoder, _, module_name = ENCODERS[name]
  first = 1 if name == 'lite_hrnet_18' else 2
  network = segmenter.Segmenter(
    encoder=encoder,
    head=mobileseg.MobileSeg(
      num_classes=19, stages=(first, first + 1, first + 2)
    ),
    auxiliary=None,
    num_classes=19,
  )
  variables = encoder_cases.variables(network, (64, 96))
  x = encoder_cases.images(64, 96, seed=1)

  def names(modules):
    part, *rest = modules
    if part == 'encoder':
      return f'backbone.{module_name(rest)}'
    return layer_of('mobileseg')(rest)

  theirs = paddle_cases.features(
    request_of(name), variables, names, x, tmp_path
  )
  ours = jax.jit(lambda v, x: network.apply(v, x).logits)(variables, x)
  encoder_cases.assert_equal([ours], theirs, 1e-4)
