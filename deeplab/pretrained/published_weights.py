"""Published weights by name: their address, licence and requirements.

An entry holds the image normalization that the network was trained with, and
the fields of config.model that the weights require. Normalizations are of RGB
values in 0..255, as in config.data.
"""

from collections.abc import Mapping
import csv
import dataclasses
import os
from typing import Any

from deeplab.pretrained.systems import mapping

_NETWORKS_CSV = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), 'published_networks.csv'
)


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
  """One published file of weights.

  Attributes:
    url: official address of the file.
    digest: 'sha256:' or 'md5:' and the first digits of the file's hexadecimal
      digest (PyTorch's file names carry eight); '' where none was published.
    licence: licence of the weights.
    encoder: name of our encoder; '' where a page tells.
    normalization: (mean, std) that images were normalized by, RGB in 0..255;
      None where a page tells.
    head: name of our head, '' for an encoder's weights.
    model: required fields of config.model besides those of the system, by
      'encoder.tap'.
    trained: fields of config.model in training, which may be changed.
    page: config page of a whole network, with its variant.
    score: mIoU that the source prints, in percent, single-view first; ''.
  """

  url: str
  digest: str
  licence: str
  encoder: str = ''
  normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  head: str = ''
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  page: str = ''
  score: str = ''

  @property
  def is_network(self) -> bool:
    """True for a whole network, False for an encoder alone."""
    return bool(self.head or self.page)

  @property
  def filename(self) -> str:
    """Name of the file in the cache: that at `url`, or with its folder's."""
    folder, name = os.path.split(self.url)
    if os.path.splitext(name)[0] == 'model':  # many files have this name
      return f'{os.path.basename(folder)}_{name}'
    return name


def _pytorch_weights(
  folder: str, licence: str, file: str, **fields: Any
) -> PublishedWeights:
  """Returns the entry of a file whose name ends with its digest's start."""
  digest = file.removesuffix('.pth').rpartition('-')[2]
  return PublishedWeights(
    url=f'{folder}{file}',
    digest=f'sha256:{digest}',
    licence=licence,
    normalization=mapping.IMAGENET_NORMALIZATION,
    **fields,
  )


def _torchvision_weights(
  file: str, encoder: str, **fields: Any
) -> PublishedWeights:
  folder = 'https://download.pytorch.org/models/'
  return _pytorch_weights(
    folder, 'BSD-3-Clause', file, encoder=encoder, **fields
  )


_STRIDE_8 = {'output_stride': 8}
_FCN_FIELDS = {'head': 'fcn', 'model': {'head.stage': 4}, 'trained': _STRIDE_8}
_DEEPLAB_FIELDS = {
  'head': 'deeplabv3',
  'model': {'head.refine': 'dense'},
  'trained': {**_STRIDE_8, 'head.rates': (12, 24, 36)},
}
_MOBILENET_FIELDS = {
  'encoder.dilation_rule': 'torchvision',
  'encoder.tap': 'first',
}
_REGNET_FIELDS = {'encoder.widths': (32, 64, 160, 400)}


def _keras_weights(
  path: str, digest: str, encoder: str, **fields: Any
) -> PublishedWeights:
  folder = 'https://storage.googleapis.com/tensorflow/keras-applications/'
  return PublishedWeights(
    url=f'{folder}{path}',
    digest=digest,
    licence='Apache-2.0',
    encoder=encoder,
    **({'normalization': mapping.SIGNED_NORMALIZATION} | fields),
  )


def _keras_mobilenet_v2(alpha: float) -> PublishedWeights:
  file = 'mobilenet_v2_weights_tf_dim_ordering_tf_kernels'
  return _keras_weights(
    f'mobilenet_v2/{file}_{alpha}_224_no_top.h5',
    '',
    'mobilenet_v2',
    model={'encoder.alpha': alpha},
  )


def _keras_mobilenet_v3(variant: str, digest: str) -> PublishedWeights:
  size, _, kind = variant.partition('_')
  return _keras_weights(
    f'mobilenet_v3/weights_mobilenet_v3_{variant}_float_no_top_v2.h5',
    f'md5:{digest}',
    f'mobilenet_v3_{size}',
    model={
      'encoder.alpha': float(kind.rpartition('_')[2]),
      'encoder.minimalistic': kind.startswith('minimalistic'),
    },
  )


def _keras_resnet(name: str, digest: str) -> PublishedWeights:
  return _keras_weights(
    f'resnet/{name}_weights_tf_dim_ordering_tf_kernels_notop.h5',
    f'md5:{digest}',
    name.replace('resnet', 'resnet_'),
    normalization=mapping.CAFFE_NORMALIZATION,
  )


def _mmseg_weights(file: str, encoder: str) -> PublishedWeights:
  folder = 'https://download.openmmlab.com/pretrain/third_party/'
  stem = {'encoder.stem': 'v1c'}
  return _pytorch_weights(
    folder, 'Apache-2.0', file, encoder=encoder, model=stem
  )


def _read_networks() -> dict[str, PublishedWeights]:
  """Reads the networks of the sources from published_networks.csv."""
  with open(_NETWORKS_CSV, encoding='utf-8', newline='') as f:
    lines: list[dict[str, Any]] = list(csv.DictReader(f))
  return {line.pop('name'): PublishedWeights(**line) for line in lines}


PUBLISHED_WEIGHTS: dict[str, PublishedWeights] = {
  **_read_networks(),
  # torchvision, ImageNet-1k; '_v2' is the newer training recipe.
  'torchvision:mobilenet_v2': _torchvision_weights(
    'mobilenet_v2-b0353104.pth', 'mobilenet_v2'
  ),
  'torchvision:mobilenet_v2_v2': _torchvision_weights(
    'mobilenet_v2-7ebf99e0.pth', 'mobilenet_v2'
  ),
  'torchvision:mobilenet_v3_large': _torchvision_weights(
    'mobilenet_v3_large-8738ca79.pth', 'mobilenet_v3_large'
  ),
  'torchvision:mobilenet_v3_large_v2': _torchvision_weights(
    'mobilenet_v3_large-5c1a4163.pth', 'mobilenet_v3_large'
  ),
  'torchvision:mobilenet_v3_small': _torchvision_weights(
    'mobilenet_v3_small-047dcff4.pth', 'mobilenet_v3_small'
  ),
  'torchvision:resnet18': _torchvision_weights(
    'resnet18-f37072fd.pth', 'resnet_18'
  ),
  'torchvision:resnet34': _torchvision_weights(
    'resnet34-b627a593.pth', 'resnet_34'
  ),
  'torchvision:resnet50': _torchvision_weights(
    'resnet50-0676ba61.pth', 'resnet_50'
  ),
  'torchvision:resnet50_v2': _torchvision_weights(
    'resnet50-11ad3fa6.pth', 'resnet_50'
  ),
  'torchvision:resnet101': _torchvision_weights(
    'resnet101-63fe2227.pth', 'resnet_101'
  ),
  'torchvision:resnet101_v2': _torchvision_weights(
    'resnet101-cd907fc2.pth', 'resnet_101'
  ),
  'torchvision:regnet_x_400mf': _torchvision_weights(
    'regnet_x_400mf-adf1edd5.pth', 'regnetx_400mf', model=_REGNET_FIELDS
  ),
  'torchvision:regnet_x_400mf_v2': _torchvision_weights(
    'regnet_x_400mf-62229a5f.pth', 'regnetx_400mf', model=_REGNET_FIELDS
  ),
  'torchvision:regnet_x_800mf': _torchvision_weights(
    'regnet_x_800mf-ad17e45c.pth', 'regnetx_800mf'
  ),
  'torchvision:regnet_x_800mf_v2': _torchvision_weights(
    'regnet_x_800mf-94a99ebd.pth', 'regnetx_800mf'
  ),
  'torchvision:regnet_x_1_6gf': _torchvision_weights(
    'regnet_x_1_6gf-e3633e7f.pth', 'regnetx_1_6gf'
  ),
  'torchvision:regnet_x_1_6gf_v2': _torchvision_weights(
    'regnet_x_1_6gf-a12f2b72.pth', 'regnetx_1_6gf'
  ),
  'torchvision:regnet_x_3_2gf': _torchvision_weights(
    'regnet_x_3_2gf-f342aeae.pth', 'regnetx_3_2gf'
  ),
  'torchvision:regnet_x_3_2gf_v2': _torchvision_weights(
    'regnet_x_3_2gf-7071aa85.pth', 'regnetx_3_2gf'
  ),
  'torchvision:shufflenet_v2_x1_0': _torchvision_weights(
    'shufflenetv2_x1-5666bf0f80.pth', 'shufflenet_v2'
  ),
  # torchvision, whole networks, trained on the 21 classes of VOC in COCO.
  'torchvision:fcn_resnet50': _torchvision_weights(
    'fcn_resnet50_coco-1167a1af.pth', 'resnet_50', **_FCN_FIELDS
  ),
  'torchvision:fcn_resnet101': _torchvision_weights(
    'fcn_resnet101_coco-7ecb50ca.pth', 'resnet_101', **_FCN_FIELDS
  ),
  'torchvision:deeplabv3_resnet50': _torchvision_weights(
    'deeplabv3_resnet50_coco-cd0a2569.pth', 'resnet_50', **_DEEPLAB_FIELDS
  ),
  'torchvision:deeplabv3_resnet101': _torchvision_weights(
    'deeplabv3_resnet101_coco-586e9e4e.pth', 'resnet_101', **_DEEPLAB_FIELDS
  ),
  'torchvision:deeplabv3_mobilenet_v3_large': _torchvision_weights(
    'deeplabv3_mobilenet_v3_large-fc3c493d.pth',
    'mobilenet_v3_large',
    head='deeplabv3',
    model={**_MOBILENET_FIELDS, 'head.refine': 'dense'},
    trained={'output_stride': 16, 'head.rates': (12, 24, 36)},
  ),
  'torchvision:lraspp_mobilenet_v3_large': _torchvision_weights(
    'lraspp_mobilenet_v3_large-d234d4ea.pth',
    'mobilenet_v3_large',
    head='lraspp',
    model=_MOBILENET_FIELDS,
    trained={'output_stride': 16},
  ),
  # Keras, ImageNet-1k, without the classifier.
  **{
    f'keras:mobilenet_v2_{alpha}': _keras_mobilenet_v2(alpha)
    for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
  },
  'keras:mobilenet_v3_large': _keras_mobilenet_v3(
    'large_224_1.0', '07fb09a5933dd0c8eaafa16978110389'
  ),
  'keras:mobilenet_v3_large_0.75': _keras_mobilenet_v3(
    'large_224_0.75', '40af19a13ebea4e2ee0c676887f69a2e'
  ),
  'keras:mobilenet_v3_large_minimalistic': _keras_mobilenet_v3(
    'large_minimalistic_224_1.0', 'ec5221f64a2f6d1ef965a614bdae7973'
  ),
  'keras:mobilenet_v3_small': _keras_mobilenet_v3(
    'small_224_1.0', 'd3e8ec802a04aa4fc771ee12a9a9b836'
  ),
  'keras:mobilenet_v3_small_0.75': _keras_mobilenet_v3(
    'small_224_0.75', 'ebdb5cc8e0b497cd13a7c275d475c819'
  ),
  'keras:mobilenet_v3_small_minimalistic': _keras_mobilenet_v3(
    'small_minimalistic_224_1.0', 'cde8136e733e811080d9fcd8a252f7e4'
  ),
  'keras:resnet50': _keras_resnet(
    'resnet50', '4d473c1dd8becc155b73f8504c6f6626'
  ),
  'keras:resnet101': _keras_resnet(
    'resnet101', '88cf7a10940856eca736dc7b7e228a21'
  ),
  'keras:xception': _keras_weights(
    'xception/xception_weights_tf_dim_ordering_tf_kernels_notop.h5',
    'md5:b0042744bf5b25fce3cb969f33bebb97',
    'xception_keras',
  ),
  # OpenMMLab, ImageNet-1k, with the deep stem of mmsegmentation's networks.
  'mmseg:resnet18_v1c': _mmseg_weights(
    'resnet18_v1c-b5776b93.pth', 'resnet_18'
  ),
  'mmseg:resnet50_v1c': _mmseg_weights(
    'resnet50_v1c-2cccc1ad.pth', 'resnet_50'
  ),
  'mmseg:resnet101_v1c': _mmseg_weights(
    'resnet101_v1c-e67eebb6.pth', 'resnet_101'
  ),
  # timm.
  'timm:mobilenetv2_100': _pytorch_weights(
    'https://github.com/rwightman/pytorch-image-models/releases/download/'
    'v0.1-weights/',
    'Apache-2.0',
    'mobilenetv2_100_ra-b33bc2c4.pth',
    encoder='mobilenet_v2',
  ),
}
