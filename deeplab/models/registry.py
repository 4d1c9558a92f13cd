"""The names of encoders and heads, and the model that a config describes.

A new encoder or head is a class, an entry here, and a test that pins its number
of parameters; the README.md of `encoders` and `heads` has the checklist.
"""

from collections.abc import Mapping
import copy
from typing import TYPE_CHECKING
from typing import Any
from typing import Literal

import flax.linen as nn

from deeplab.models import layers
from deeplab.models import segmenter
from deeplab.models.encoders import erfnet
from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import lite_hrnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.encoders import xception
from deeplab.models.encoders import xception_keras
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.models.heads import erfnet_decoder
from deeplab.models.heads import fcn
from deeplab.models.heads import lite
from deeplab.models.heads import lraspp
from deeplab.models.heads import mobileseg
from deeplab.models.heads import st_aspp
from deeplab.models.heads import swiftnet
from deeplab.models.heads import unet

if TYPE_CHECKING:
  # For annotations only: modules can be built without ml_collections.
  import ml_collections

ENCODERS: dict[str, type[nn.Module]] = {
  'erfnet': erfnet.ERFNet,
  'erfnet_tiny': erfnet.ERFNetTiny,
  'ghostnet': ghostnet.GhostNet,
  'ghostnet_tiny': ghostnet.GhostNetTiny,
  'lite_hrnet_18': lite_hrnet.LiteHRNet18,
  'lite_hrnet_tiny': lite_hrnet.LiteHRNetTiny,
  'mobilenet_v2': mobilenet_v2.MobileNetV2,
  'mobilenet_v2_tiny': mobilenet_v2.MobileNetV2Tiny,
  'mobilenet_v3_large': mobilenet_v3.MobileNetV3Large,
  'mobilenet_v3_large_seg': mobilenet_v3.MobileNetV3LargeSeg,
  'mobilenet_v3_small': mobilenet_v3.MobileNetV3Small,
  'mobilenet_v3_small_seg': mobilenet_v3.MobileNetV3SmallSeg,
  'mobilenet_v3_tiny': mobilenet_v3.MobileNetV3Tiny,
  'regnetx_1_6gf': regnet.RegNetX1600MF,
  'regnetx_3_2gf': regnet.RegNetX3200MF,
  'regnetx_400mf': regnet.RegNetX400MF,
  'regnetx_800mf': regnet.RegNetX800MF,
  'regnetx_tiny': regnet.RegNetXTiny,
  'resnet_18': resnet.ResNet18,
  'resnet_34': resnet.ResNet34,
  'resnet_50': resnet.ResNet50,
  'resnet_101': resnet.ResNet101,
  'resnet_tiny': resnet.ResNetTiny,
  'shufflenet_v2': shufflenet_v2.ShuffleNetV2,
  'shufflenet_v2_tiny': shufflenet_v2.ShuffleNetV2Tiny,
  'xception_41': xception.Xception41,
  'xception_65': xception.Xception65,
  'xception_71': xception.Xception71,
  'xception_keras': xception_keras.XceptionKeras,
  'xception_keras_tiny': xception_keras.XceptionKerasTiny,
  'xception_tiny': xception.XceptionTiny,
}

HEADS: dict[str, type[nn.Module]] = {
  'deeplabv3': deeplabv3.DeepLabV3,
  'deeplabv3_lite': lite.DeepLabV3Lite,
  'deeplabv3plus': deeplabv3plus.DeepLabV3Plus,
  'erfnet': erfnet_decoder.ERFNet,
  'fcn': fcn.FCN,
  'fpn_lite': lite.FPNLite,
  'lraspp': lraspp.LRASPP,
  'mobileseg': mobileseg.MobileSeg,
  'st_aspp': st_aspp.STASPP,
  'swiftnet': swiftnet.SwiftNet,
  'unet': unet.UNet,
  'unet_lite': lite.UNetLite,
}

# The classes that each part of `config.model` may name; 'none': no auxiliary
# head.
SLOTS: dict[str, Mapping[str, type[nn.Module] | None]] = {
  'encoder': ENCODERS,
  'head': HEADS,
  'auxiliary': {'none': None, **HEADS},
}

# Fields that `build_model` fills in, and those of Linen itself.
_RESERVED = frozenset(
  {'output_stride', 'multi_grid', 'options', 'num_classes', 'parent', 'name'}
)


def config_fields(cls: type[nn.Module]) -> dict[str, Any]:
  """Returns the fields that a config may set on an encoder or head.

  Args:
    cls: a class of `ENCODERS` or `HEADS`.

  Returns:
    The default of each field by its name.
  """
  return {
    name: field.default
    for name, field in cls.__dataclass_fields__.items()
    if name not in _RESERVED
  }


def _resolve_class(
  kind: str, config: 'ml_collections.ConfigDict'
) -> tuple[type[nn.Module] | None, dict[str, Any]]:
  """Returns the class that `config` names and its fields with their defaults.

  Raises:
    ValueError: the name or a field is unknown.
  """
  classes = SLOTS[kind]
  if 'name' not in config or config.name not in classes:
    name = repr(config.name) if 'name' in config else 'missing'
    raise ValueError(
      f'config.model.{kind}.name is {name}; known are {sorted(classes)}'
    )
  cls = classes[config.name]
  allowed = {} if cls is None else config_fields(cls)
  unknown = sorted(set(config) - set(allowed) - {'name'})
  if unknown:
    raise ValueError(
      f'config.model.{kind} ({config.name}) has no field {unknown}; it has '
      f'{sorted(allowed)}'
    )
  return cls, allowed


def _build_component(
  kind: str, config: 'ml_collections.ConfigDict', **model_fields: Any
) -> Any:
  """Returns the module that `config` (`name` and fields) describes, or None."""
  cls, _ = _resolve_class(kind, config)
  fields = {key: config[key] for key in config if key != 'name'}
  return None if cls is None else cls(**fields, **model_fields)


def fill_defaults(config: 'ml_collections.ConfigDict') -> None:
  """Writes the default of every field that `config.model` does not set.

  Args:
    config: `config.model`, changed in place.

  Raises:
    ValueError: a name or a field is unknown.
  """
  for kind in SLOTS:
    _, allowed = _resolve_class(kind, config[kind])
    for name, default in allowed.items():
      if name not in config[kind]:
        config[kind][name] = default


def with_output_stride(
  config: 'ml_collections.ConfigDict', output_stride: int
) -> 'ml_collections.ConfigDict':
  """Returns `config.model` at another output stride, for the same weights.

  The rates of the heads' pyramids are scaled so that they reach equally far in
  pixels (DeepLabV3, arXiv:1706.05587, section 3.3: they double at 8).

  Args:
    config: `config.model`.
    output_stride: 4, 8, 16 or 32; 0 keeps the config's own.
  """
  if output_stride in (0, config.output_stride):
    return config
  changed = copy.deepcopy(config)
  with changed.unlocked():
    changed.output_stride = output_stride
    for slot in ('head', 'auxiliary'):
      if 'rates' in changed[slot]:
        changed[slot].rates = tuple(
          max(rate * config.output_stride // output_stride, 1)
          for rate in config[slot].rates
        )
  return changed


def build_model(
  config: 'ml_collections.ConfigDict',
  num_classes: int,
  *,
  axis_name: str | None = None,
  depthwise: Literal['conv', 'shifted'] | None = None,
  pointwise: Literal['conv', 'matmul'] | None = None,
  remat: int | None = None,
  frozen_norms: bool = False,
) -> segmenter.Segmenter:
  """Returns the network that `config.model` describes.

  Args:
    config: `config.model`. `encoder`, `head` and `auxiliary` hold a `name` of
      this registry and the fields of its class; 'none' means no auxiliary head.
    num_classes: number of classes.
    axis_name: pmap axis over which BatchNorm averages; None outside pmap.
    depthwise: replaces `config.depthwise` (exporters and accelerators pass
      'conv').
    pointwise: replaces `config.pointwise`.
    remat: replaces `config.remat`.
    frozen_norms: BatchNorm uses its running statistics in training, too, and
      does not update them.

  Raises:
    ValueError: a name or a field is unknown, or a value is out of range.
  """
  options = layers.Options(
    dtype=config.dtype,
    axis_name=axis_name,
    depthwise=config.depthwise if depthwise is None else depthwise,
    pointwise=config.pointwise if pointwise is None else pointwise,
    remat=config.remat if remat is None else remat,
    frozen_norms=frozen_norms,
    resize_ratio=config.resize_ratio,
    unbiased_variance=config.unbiased_variance,
    classifier_stddev=config.classifier_stddev,
  )
  head_fields = {'num_classes': num_classes, 'options': options}
  return segmenter.Segmenter(
    encoder=_build_component(
      'encoder',
      config.encoder,
      output_stride=config.output_stride,
      multi_grid=tuple(config.multi_grid),
      options=options,
    ),
    head=_build_component('head', config.head, **head_fields),
    auxiliary=_build_component('auxiliary', config.auxiliary, **head_fields),
    num_classes=num_classes,
  )
