"""Every head against its definition, written in NumPy from the publication.

The order of concatenations, the sign of additions, the place of each ReLU and
the grid of each resize are the definition's. Parameters and running statistics
are random, so that none of them can be left out or exchanged.
"""

import jax
import numpy as np
import pytest

from deeplab.models import registry
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.models.heads import erfnet_decoder
from deeplab.models.heads import fcn
from deeplab.models.heads import lite
from deeplab.models.heads import mobileseg
from deeplab.models.heads import st_aspp
from deeplab.models.heads import swiftnet
from deeplab.models.heads import unet
from tests.models import numpy_layers
from tests.models.heads import head_cases

CLASSES = 3
EPSILON = 0.01
CHANNELS = (2, 3, 4, 5, 6)


class Layers(numpy_layers.Layers):
  """With the parts that several heads share."""

  def aspp(self, x, branch, rates):
    """Image pooling, 1x1, one branch a rate; then the projection."""
    pooled = self.conv_bn(x.mean((1, 2), keepdims=True), 'aspp/pool')
    branches = [
      np.broadcast_to(pooled, (*x.shape[:3], pooled.shape[-1])),
      self.conv_bn(x, 'aspp/conv'),
      *(branch(x, f'aspp/atrous{i}', rate) for i, rate in enumerate(rates)),
    ]
    return self.conv_bn(np.concatenate(branches, axis=-1), 'aspp/projection')

  def lite_aspp(self, x):
    branches = [self.conv_bn(x, 'aspp_conv')]
    branches += [self.separable(x, f'aspp_atrous{i}', i + 1) for i in range(3)]
    return self.conv_bn(np.concatenate(branches, axis=-1), 'aspp_projection')

  def lite_logits(self, x):
    return self.conv(self.conv_norm(x, 'smooth'), 'classifier')


def deeplabv3_logits(f, maps):
  x = f.aspp(maps[-1], f.conv_bn, (1, 2))
  return f.conv(f.conv_bn(x, 'aspp/refine'), 'classifier')


def deeplabv3plus_logits(f, maps, aligned=False):
  x = f.aspp(maps[-1], f.separable, (1, 2))
  low = f.conv_bn(maps[1], 'low_level')
  x = np.concatenate(
    [numpy_layers.resize(x, low.shape[1:3], aligned), low], axis=-1
  )
  x = f.separable(f.separable(x, 'decoder0'), 'decoder1')
  return f.conv(x, 'classifier')


def aligned_logits(f, maps):
  return deeplabv3plus_logits(f, maps, aligned=True)


def deeplabv3_lite_logits(f, maps):
  x, low = f.lite_aspp(maps[-1]), f.conv_bn(maps[1], 'low_level')
  x = numpy_layers.resize(x, low.shape[1:3])
  return f.lite_logits(np.concatenate([x, low], axis=-1))


def unet_lite_logits(f, maps):
  x = f.lite_aspp(maps[-1])
  for i in (3, 2, 1, 0):
    x = numpy_layers.resize(x, maps[i].shape[1:3])
    x = f.separable(np.concatenate([x, maps[i]], axis=-1), f'decoder{i}')
  return f.lite_logits(x)


def fpn_lite_logits(f, maps):
  x = f.lite_aspp(maps[-1])
  for i in (3, 2, 1):
    lateral = f.conv_bn(maps[i], f'lateral{i}')
    x = f.separable(
      numpy_layers.resize(x, lateral.shape[1:3]) + lateral, f'decoder{i}'
    )
  return f.lite_logits(x)


def fcn_logits(f, maps):
  return f.conv(f.conv_bn(maps[3], 'conv0'), 'classifier')


def unet_logits(f, maps):
  x = maps[-1]
  for i, skip in enumerate((maps[3], maps[2], maps[1], maps[0], None)):
    if skip is None:
      x = numpy_layers.resize(x, [2 * n for n in x.shape[1:3]])
    else:
      x = np.concatenate(
        [numpy_layers.resize(x, skip.shape[1:3]), skip], axis=-1
      )
    x = f.conv_bn(x, f'decoder{i}_conv0')
    x = f.conv_bn(x, f'decoder{i}_conv1')
  return f.conv(x, 'classifier')


def swiftnet_logits(f, maps):
  def layer(x, path):  # the norm comes first
    return f.conv(numpy_layers.relu(f.norm(x, f'{path}/norm')), f'{path}/conv')

  size = maps[-1].shape[1:3]
  x = layer(maps[-1], 'reduce')
  levels = [x]
  for i, rows in enumerate((2, 1)):
    columns = round(rows * size[1] / size[0])
    cells = layer(numpy_layers.mean_of_cells(x, rows, columns), f'pool{i}')
    levels.append(numpy_layers.resize(cells, size))
  x = layer(np.concatenate(levels, axis=-1), 'fuse')
  for i in (3, 2, 1):
    skip = layer(maps[i], f'skip{i}')
    x = layer(skip + numpy_layers.resize(x, skip.shape[1:3]), f'decoder{i}')
  return f.conv(numpy_layers.relu(f.norm(x, 'classifier_norm')), 'classifier')


def mobileseg_logits(f, maps):
  def layer(x, path):  # linear between its convolutions
    return f.separable(x, path, between=lambda x: x)

  size = maps[4].shape[1:3]
  context = sum(
    numpy_layers.resize(
      f.conv_bn(numpy_layers.mean_of_cells(maps[4], n, n), f'pool{i}'), size
    )
    for i, n in enumerate((1, 2, 4))
  )
  y = layer(context, 'context')
  for i in (2, 1, 0):
    x = layer(maps[2 + i], f'skip{i}')
    y = layer(x + numpy_layers.resize(y, x.shape[1:3]), f'decoder{i}')
  return f.conv(layer(y, 'conv'), 'classifier')


def erfnet_logits(f, maps):
  x = maps[2]
  for i in range(2):
    height, width = maps[1 - i].shape[1:3]
    x = f.transposed(x, f'up{i}', start=1)[:, :height, :width]
    x = numpy_layers.relu(f.norm(x, f'up{i}_norm'))
    for j in range(2):
      name, y = f'decoder{i}_block{j}', x
      y = numpy_layers.relu(f.conv(y, f'{name}/conv_1_rows'))
      y = f.conv_bn(y, f'{name}/conv_1_columns')
      y = numpy_layers.relu(f.conv(y, f'{name}/conv_2_rows'))
      x = numpy_layers.relu(x + f.conv_norm(y, f'{name}/conv_2_columns'))
  return f.transposed(x, 'classifier', start=0)


def st_logits(f, maps):
  return f.conv(f.aspp(maps[-1], f.separable, (2, 4, 6)), 'classifier')


SMALL = {'channels': 4}
LITE = {'channels': 4, 'rates': (1, 2, 3)}
# Sizes of the maps, where the default is too small for a head.
ODD = [(33, 25), (17, 13), (9, 7), (6, 5), (5, 6)]
TALL = [(40, 24), (20, 12), (15, 9), (12, 8), (11, 7)]
CASES = {
  'deeplabv3': (
    deeplabv3.DeepLabV3,
    {**SMALL, 'rates': (1, 2), 'refine': 'dense'},
    deeplabv3_logits,
    ODD,
  ),
  'deeplabv3plus': (
    deeplabv3plus.DeepLabV3Plus,
    {
      **SMALL,
      'rates': (1, 2),
      'low_level_channels': 3,
      'decoder_channels': 5,
    },
    deeplabv3plus_logits,
    ODD,
  ),
  'deeplabv3plus, aligned': (
    deeplabv3plus.DeepLabV3Plus,
    {
      **SMALL,
      'rates': (1, 2),
      'low_level_channels': 3,
      'decoder_channels': 5,
      'align_corners': True,
    },
    aligned_logits,
    ODD,
  ),
  'deeplabv3_lite': (
    lite.DeepLabV3Lite,
    {**LITE, 'low_level_channels': 3},
    deeplabv3_lite_logits,
    ODD,
  ),
  'unet_lite': (lite.UNetLite, LITE, unet_lite_logits, ODD),
  'fpn_lite': (lite.FPNLite, LITE, fpn_lite_logits, ODD),
  'fcn': (fcn.FCN, SMALL, fcn_logits, ODD),
  'unet': (unet.UNet, {'channels': (6, 5, 4, 3, 2)}, unet_logits, ODD),
  'swiftnet': (
    swiftnet.SwiftNet,
    {**SMALL, 'grids': (2, 1)},
    swiftnet_logits,
    ODD,
  ),
  'mobileseg': (
    mobileseg.MobileSeg,
    {
      'context_channels': 6,
      'channels': (3, 4, 5),
      'classifier_channels': 4,
    },
    mobileseg_logits,
    ODD,
  ),
  'erfnet': (
    erfnet_decoder.ERFNet,
    {'channels': (4, 3)},
    erfnet_logits,
    [(13, 10), (7, 5), (4, 3)],
  ),
  'st_aspp': (st_aspp.STASPP, SMALL, st_logits, TALL),
}
# LR-ASPP, whose gate has two forms, is in lraspp_test.py.
ELSEWHERE = {'lraspp'}


def test_every_head_has_a_reference():
  named = {name.partition(',')[0] for name in CASES} | ELSEWHERE
  assert named == {name for name, head in registry.HEADS.items() if head}


@pytest.mark.parametrize('name', CASES)
def test_equals_numpy(name, random_variables):
  cls, fields, reference, sizes = CASES[name]
  head = cls(num_classes=CLASSES, bn_epsilon=EPSILON, **fields)
  maps = head_cases.features(CHANNELS[: len(sizes)], sizes, seed=3)
  variables = random_variables(head, maps, False)
  (found, *_) = jax.jit(head.apply, static_argnums=2)(variables, maps, False)
  expected = reference(
    Layers(variables, EPSILON), [np.float64(x) for x in maps]
  )
  assert found.shape == expected.shape
  assert expected.std() > 0.05
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
