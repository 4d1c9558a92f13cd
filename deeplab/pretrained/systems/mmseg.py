"""Names of mmsegmentation's networks and of its encoders.

A network's file has its encoder below 'backbone.', the main head below
'decode_head.' and an auxiliary head below 'auxiliary_head.'; an encoder's file
(`resnet50_v1c`) has no prefix. Our ResNet needs `stem='v1c'`, ResNet-18 also
`basic_dilation='first'`, and a network with a multi grid
`multi_grid_mode='replace'`.
"""

import re

from deeplab.models.encoders import resnet
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.models.heads import fcn
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import torchvision


def _resnet(module: str, norm: bool) -> str | None:
  # A deep stem is a sequence of convolution, BatchNorm, ReLU; `_to_mapped_name`
  # renames a stem of one layer to it.
  match = re.fullmatch(r'stem_(\d)', module)
  if match:
    return f'stem.{3 * (int(match[1]) - 1) + int(norm)}'
  return torchvision.resnet_module_name(module, norm)


def _to_mapped_name(name: str) -> str:
  """Drops 'backbone.', and names a plain stem as a deep stem's first layer."""
  name = name.removeprefix('backbone.')
  return re.sub(
    r'^(conv1|bn1)\.', lambda m: f'stem.{int(m[1] == "bn1")}.', name
  )


def _conv_module_layer(prefix: str, norm: bool) -> str:
  return f'{prefix}.{"bn" if norm else "conv"}'


def _separable_layer(prefix: str, inner: str, norm: bool) -> str:
  """Returns the name of a ConvModule, or of half a separable one."""
  return _conv_module_layer(f'{prefix}.{inner}_conv' if inner else prefix, norm)


def _decode_head(module: str, norm: bool) -> str | None:
  if module == 'classifier':
    return 'decode_head.conv_seg'
  plain = {
    'aspp/pool': 'image_pool.1',
    'aspp/conv': 'aspp_modules.0',
    'aspp/projection': 'bottleneck',
    'low_level': 'c1_bottleneck',
  }.get(module)
  if plain:
    return _conv_module_layer(f'decode_head.{plain}', norm)
  match = re.fullmatch(
    r'(aspp/atrous|decoder)(\d)(?:/(depthwise|pointwise))?', module
  )
  if not match:
    return None
  number = int(match[2])
  prefix = f'decode_head.sep_bottleneck.{number}'
  if match[1] == 'aspp/atrous':
    prefix = f'decode_head.aspp_modules.{number + 1}'
  return _separable_layer(prefix, match[3] or '', norm)


def _fcn(prefix: str) -> mapping.ModuleNamer:
  def name(module: str, norm: bool) -> str | None:
    if module == 'classifier':
      return f'{prefix}.conv_seg'
    match = re.fullmatch(r'conv(\d)', module)
    return (
      _conv_module_layer(f'{prefix}.convs.{match[1]}', norm) if match else None
    )

  return name


# The 769-pixel networks have align_corners=True, which their files do not
# contain, so that field is not required.
_HEAD_FIELDS = {'bn_epsilon': 1e-5}

SYSTEM = mapping.WeightSystem(
  encoders={
    **{
      cls: mapping.torch_mapping(
        'encoder',
        _resnet,
        unused=rf'fc\..*|{mapping.BATCH_COUNTERS}',
        fields={
          'padding': 'symmetric',
          'bn_epsilon': 1e-5,
          'stride_unit': 'first',
          'stride_conv': '3x3',
          **fields,
        },
        normalization=mapping.IMAGENET_NORMALIZATION,
        rename=_to_mapped_name,
      )
      # The first class that fits is used.
      for cls, fields in (
        (resnet.ResNet18, {'basic_dilation': 'first'}),
        (resnet.ResNet34, {'basic_dilation': 'first'}),
        (resnet.ResNet, {}),
      )
    }
  },
  heads={
    deeplabv3.DeepLabV3: mapping.torch_mapping(
      'head', _decode_head, fields=_HEAD_FIELDS
    ),
    deeplabv3plus.DeepLabV3Plus: mapping.torch_mapping(
      'head', _decode_head, fields=_HEAD_FIELDS
    ),
    fcn.FCN: mapping.torch_mapping(
      'head', _fcn('decode_head'), fields=_HEAD_FIELDS
    ),
  },
  auxiliaries={
    fcn.FCN: mapping.torch_mapping(
      'auxiliary', _fcn('auxiliary_head'), fields=_HEAD_FIELDS
    )
  },
  unused=r'auxiliary_head\..*',
)
