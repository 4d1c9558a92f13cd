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
from deeplab.pretrained import merge
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

# Pages by the number of classes, and the encoders that they have.
_PAGES = {
  6: ('potsdam_resnet.py:{}', ('r18', 'r50', 'r101')),
  7: ('loveda_resnet.py:{}', ('r18', 'r50', 'r101')),
  16: ('isaid_resnet.py:{}', ('r18', 'r50')),
  21: ('voc_resnet.py:{}', ('r50', 'r101')),
  59: ('pascal_context_resnet.py:c59', ('r101',)),
  60: ('pascal_context_resnet.py:c60', ('r101',)),
  150: ('ade20k_resnet.py:{}', ('r50', 'r101')),
}
# By the number of residual units in the third stage.
_ENCODERS = {2: 'r18', 6: 'r50', 23: 'r101'}


def _candidates(
  tensors: merge.Tensors, sizes: mapping.LayerSizes
) -> list[mapping.Candidate]:
  """Returns the DeepLabV3+ networks with ResNets that fit a file.

  Those of Cityscapes exist with and without a multi grid and aligned corners,
  which a file does not tell.
  """
  units = mapping.count_numbered(tensors, r'backbone\.layer3\.(\d+)\.')
  bias = tensors.get('decode_head.conv_seg.bias')
  if (
    bias is None
    or 'decode_head.c1_bottleneck.conv.weight' not in tensors
    or units not in _ENCODERS
  ):
    return []
  encoder = _ENCODERS[units]
  if 'backbone.conv1.weight' in tensors:  # torchvision's stem
    encoder += 'b'
  page, encoders = _PAGES.get(len(bias), ('', ()))
  if encoder in encoders:
    pages = [page.format(encoder)]
  else:
    variants = ['os8,crop512', 'os8,crop769', 'mg124,crop512']
    if encoder.startswith('r18'):
      variants.pop()
    pages = [f'cityscapes_resnet.py:{encoder},{v}' for v in variants]
  fields = {}
  if 'auxiliary_head.conv_seg.weight' not in tensors:
    fields['auxiliary.name'] = 'none'
  return [mapping.Candidate(f'configs/{page}', fields) for page in pages]


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
  candidates=_candidates,
  classifier=r'decode_head\.conv_seg\.bias',
)
