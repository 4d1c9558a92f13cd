"""MACs and parameters: by hand, against other systems, against the jaxpr."""

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab.models import layers
from deeplab.models import profile
from deeplab.models import registry
from deeplab.models import segmenter
from deeplab.models.heads import fcn
from deeplab.models.heads import mobileseg

NORM = layers.BatchNormConfig(0.9, 1e-5)


class Encoder(nn.Module):
  """A strided dense convolution and an atrous depthwise one."""

  @nn.compact
  def __call__(self, images, train):
    x = layers.ConvBN(4, NORM, kernel=3, stride=2, name='stem')(images, train)
    y = layers.ConvBN(4, NORM, kernel=3, rate=2, groups=4, name='last')
    return x, y(x, train)


def small(**fields):
  head = fcn.FCN(num_classes=5, stage=1, channels=6, convs=0)
  return segmenter.Segmenter(
    **(
      {
        'encoder': Encoder(),
        'head': head,
        'auxiliary': None,
        'num_classes': 5,
      }
      | fields
    )
  )


def model(encoder, head, output_stride):
  config = common.default_config().model
  config.encoder = ConfigDict(encoder)
  config.head = ConfigDict(head)
  config.output_stride = output_stride
  return config


def test_rows_by_hand():
  result = profile.count_macs_and_params(small(), 5, (9, 7))
  row = profile.LayerProfile
  assert result.rows == (
    row('encoder/stem/conv', 'conv', 3, 2, 1, (9, 7, 3), (5, 4, 4),
        20 * 108, 108),
    row('encoder/stem/norm/bn', 'BatchNorm', 0, 1, 1, (5, 4, 4), (5, 4, 4),
        0, 8),
    row('encoder/last/conv', 'depthwise', 3, 1, 2, (5, 4, 4), (5, 4, 4),
        20 * 36, 36),
    row('encoder/last/norm/bn', 'BatchNorm', 0, 1, 1, (5, 4, 4), (5, 4, 4),
        0, 8),
    row('head/classifier', 'conv', 1, 1, 1, (5, 4, 4), (5, 4, 5),
        20 * 20, 25),
  )  # fmt: skip
  assert result.macs == 20 * (108 + 36 + 20)
  assert result.params == 108 + 8 + 36 + 8 + 25


def test_image_channels_are_counted():
  result = profile.count_macs_and_params(small(), 5, (9, 7), channels=4)
  assert result.rows[0].in_shape == (9, 7, 4)
  assert result.macs == 20 * (144 + 36 + 20)


def test_auxiliary_head_is_counted_on_request():
  auxiliary = fcn.FCN(num_classes=5, stage=0, channels=6)
  network = small(auxiliary=auxiliary)
  assert profile.count_macs_and_params(
    network, 5, (9, 7)
  ) == profile.count_macs_and_params(small(), 5, (9, 7))
  result = profile.count_macs_and_params(network, 5, (9, 7), auxiliary=True)
  assert result.macs == 20 * (108 + 36 + 20) + 20 * (9 * 4 * 6 + 6 * 5)
  assert result.params == 185 + (9 * 4 * 6 + 12) + (6 * 5 + 5)


def test_auxiliary_outputs_of_the_head_are_counted_on_request():
  head = mobileseg.MobileSeg(
    num_classes=5,
    stages=(0, 1),
    channels=(4, 6),
    context_channels=4,
    classifier_channels=3,
  )
  one, both = (
    profile.count_macs_and_params(
      small(head=head), 5, (9, 7), auxiliary=auxiliary
    )
    for auxiliary in (False, True)
  )
  # A separable convolution 6 -> 3 and a classifier 3 -> 5 on a 5 x 4 map.
  assert both.macs - one.macs == 20 * (9 * 6 + 6 * 3 + 3 * 5)
  assert both.params - one.params == (54 + 12) + (18 + 3 + 6) + 15


def test_format_table():
  text = profile.format_table(profile.count_macs_and_params(small(), 5, (9, 7)))
  lines = text.splitlines()
  assert len(lines) == 1 + 5 + 1
  assert lines[0].split() == [
    'layer', 'op', 'k', 's', 'rate', 'in', 'out', 'MACs', 'params',
  ]  # fmt: skip
  assert lines[3].split() == [
    'encoder/last/conv', 'depthwise', '3', '1', '2', '5x4x4', '5x4x4', '720',
    '36',
  ]  # fmt: skip
  assert lines[-1].split() == ['total', '3,280', '185']
  assert max(map(len, lines)) < 100


# What segmentation_models_pytorch 0.6 computes, counted by hooks on its
# convolutions, the TF DeepLab model zoo's networks, and torchvision's as Texas
# Instruments train them (285.4 and 337.5 GMACs, without the auxiliary head):
# MACs and parameters.
PUBLISHED = {
  'smp': (
    {'name': 'mobilenet_v2', 'top_conv': True},
    {
      'name': 'deeplabv3plus',
      'rates': (12, 24, 36),
      'refine': 'separable',
      'depthwise_norm': False,
      'decoder_convs': 1,
      'aspp_dropout': 0.5,
      'align_corners': True,
    },
    16, 21, (256, 256), 1_502_609_408, 4_383_653,
  ),
  'tf_voc_mnv2_dm05': (
    {'name': 'mobilenet_v2', 'alpha': 0.5, 'rounding': 'slim'},
    {'name': 'deeplabv3', 'rates': ()},
    8, 21, (512, 512), 2_735_284_224, 697_013,
  ),
  'tf_voc_mnv2': (
    {'name': 'mobilenet_v2'},
    {'name': 'deeplabv3', 'rates': ()},
    8, 21, (512, 512), 8_564_916_224, 2_113_557,
  ),
  'tf_voc_xception65': (
    {'name': 'xception_65'},
    {'name': 'deeplabv3plus', 'rates': (12, 24, 36)},
    8, 21, (512, 512), 171_594_088_448, 41_055_413,
  ),
  'torchvision_fcn': (
    {'name': 'resnet_50'},
    {'name': 'fcn', 'stage': 4, 'channels': 512},
    8, 19, (520, 1040), 285_442_892_800, 32_955_987,
  ),
  'torchvision_deeplabv3': (
    {'name': 'resnet_50'},
    {'name': 'deeplabv3', 'rates': (12, 24, 36), 'refine': 'dense'},
    8, 19, (520, 1040), 337_457_561_088, 39_638_355,
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_networks(name):
  encoder, head, stride, classes, size, macs, params = PUBLISHED[name]
  result = profile.count_macs_and_params(
    model(encoder, head, stride), classes, size
  )
  assert (result.macs, result.params) == (macs, params)


def convolutions(jaxpr):
  """Yields every convolution of a jaxpr and of those inside it."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'conv_general_dilated':
      yield equation
    for value in equation.params.values():
      if isinstance(value, jax.extend.core.ClosedJaxpr):
        yield from convolutions(value.jaxpr)


def test_factorized_and_transposed_rows():
  """ERFNet: 3x1 kernels, and transposed ones counted at each input pixel."""
  network = model({'name': 'erfnet_tiny'}, {'name': 'erfnet'}, 8)
  rows = {
    row.path: row
    for row in profile.count_macs_and_params(network, 5, (16, 32)).rows
  }
  row = rows['encoder/stage3_block2/conv_2_rows']
  assert (row.op, row.kernel, row.rate) == ('conv', (3, 1), 4)
  assert (row.macs, row.params) == (2 * 4 * 3 * 12 * 12, 3 * 12 * 12 + 12)
  row = rows['head/up0']
  assert (row.op, row.kernel, row.stride) == ('transposed', 3, 2)
  assert (row.in_shape, row.out_shape) == ((2, 4, 12), (4, 8, 64))
  assert (row.macs, row.params) == (2 * 4 * 9 * 12 * 64, 9 * 12 * 64 + 64)
  table = profile.format_table(
    profile.count_macs_and_params(network, 5, (16, 32))
  )
  lines = {line.split()[0]: line.split()[1:5] for line in table.splitlines()}
  assert lines['encoder/stage3_block2/conv_2_rows'] == ['conv', '3x1', '1', '4']
  assert lines['head/classifier'] == ['transposed', '2', '2', '1']


@pytest.mark.parametrize(
  'encoder', [name for name in registry.ENCODERS if name.endswith('_tiny')]
)
def test_macs_equal_those_of_the_jaxpr(encoder):
  config = model({'name': encoder}, {'name': 'deeplabv3plus'}, 8)
  network = registry.build_model(config, 4, depthwise='conv', pointwise='conv')
  images = jnp.zeros((1, 65, 49, 3))
  variables = jax.eval_shape(
    lambda x: network.init(jax.random.key(0), x), images
  )
  jaxpr = jax.make_jaxpr(lambda v, x: network.apply(v, x))(variables, images)
  macs = 0
  for convolution in convolutions(jaxpr.jaxpr):
    kernel, out = convolution.invars[1].aval, convolution.outvars[0].aval
    macs += kernel.size * out.shape[1] * out.shape[2]
  result = profile.count_macs_and_params(network, 4, (65, 49))
  assert result.macs == macs
  leaves = jax.tree.leaves(variables['params'])
  assert result.params == sum(leaf.size for leaf in leaves)


def test_macs_do_not_depend_on_the_implementation():
  config = model({'name': 'mobilenet_v2_tiny'}, {'name': 'deeplabv3plus'}, 16)
  shifted = registry.build_model(
    config, 4, depthwise='shifted', pointwise='matmul'
  )
  assert profile.count_macs_and_params(
    shifted, 4, (65, 49)
  ) == profile.count_macs_and_params(config, 4, (65, 49))
