"""DeepLab as PyTorch repositories build it, on a folder of your own images.

What: DeepLabV3+ or DeepLabV3 with MobileNetV2 or a ResNet, tensor for tensor
  the networks of segmentation_models.pytorch, of VainF/DeepLabV3Plus-Pytorch
  and of jfzhang95/pytorch-deeplab-xception: to go on with weights that were
  trained there. The recipe of training is that of configs/folder_mnv2.py.
Reference: arXiv:1802.02611 and arXiv:1706.05587; the three repositories.
Data: ROOT/{train,val}/{images,labels}/STEM.*, or ROOT/{train,val}.txt with
  `image label` lines.
Command: python -m deeplab.main --config=configs/folder_torch.py:vainf,r50
  --config.data.root=ROOT --config.data.num_classes=11 --config.init_from=FILE
Cost: 1.5 (smp) to 22 (jfzhang,r101) GMACs an image of 256x256, and up to 63
  with os8.
Expected: no number of ours yet; none is published for your data.
Variants: smp, vainf or jfzhang; v3plus or v3; mnv2, r34, r50 or r101; os16 or
  os8, which a file of weights does not tell; smoke (seconds, on `shapes` if no
  root is given).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from configs.recipes import folder

ENCODERS = {
  'mnv2': 'mobilenet_v2',
  'r34': 'resnet_34',
  'r50': 'resnet_50',
  'r101': 'resnet_101',
}

# Fields of `config.model`, by the repository: of MobileNetV2, of ResNet, of
# both heads, and of DeepLabV3+.
_SMP: dict[str, Any] = {
  'mnv2': {'dilation_rule': 'torchvision', 'top_conv': True},
  'resnet': {'dilation_rule': 'torchvision'},
  'head': {'rates': (12, 24, 36), 'aspp_dropout': 0.5, 'align_corners': True},
  'v3plus': {
    'refine': 'separable',
    'depthwise_norm': False,
    'decoder_convs': 1,
  },
}
_VAINF: dict[str, Any] = {
  'mnv2': {'pad_input': True},
  'resnet': {},
  'head': {},
  'v3plus': {
    'separable': False,
    'decoder_separable': False,
    'decoder_convs': 1,
  },
}
_JFZHANG: dict[str, Any] = {
  'mnv2': {'dilation_rule': 'stage', 'pad_input': True},
  'resnet': {'dilation_rule': 'torchvision'},
  'head': {'aspp_dropout': 0.5, 'align_corners': True},
  'v3plus': {'separable': False, 'decoder_separable': False},
}
NETWORKS = {'smp': _SMP, 'vainf': _VAINF, 'jfzhang': _JFZHANG}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'folder_torch'
  chosen = common.parse_variant(
    c,
    variant,
    network=NETWORKS,
    head=('v3plus', 'v3'),
    encoder=ENCODERS,
    output_stride=('os16', 'os8'),
    run=('', 'smoke'),
  )

  # Data.
  folder.set_data(c)
  folder.set_training(c)

  # Model.
  fields = NETWORKS[chosen['network']]
  mobile = chosen['encoder'] == 'mnv2'
  c.model.output_stride = int(chosen['output_stride'].removeprefix('os'))
  c.model.encoder = ConfigDict(
    {
      'name': ENCODERS[chosen['encoder']],
      'bn_decay': 0.9,
      'bn_epsilon': 1e-5,
      **fields['mnv2' if mobile else 'resnet'],
    }
  )
  if chosen['network'] == 'jfzhang' and not mobile:
    c.model.multi_grid = (1, 2, 4)
  rates = (6, 12, 18) if c.model.output_stride == 16 else (12, 24, 36)
  plus = chosen['head'] == 'v3plus'
  c.model.head = ConfigDict(
    {
      'name': 'deeplabv3plus' if plus else 'deeplabv3',
      'rates': rates,
      'bn_decay': 0.9,
      **fields['head'],
      **(fields['v3plus'] if plus else {'refine': 'dense'}),
    }
  )

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='mobilenet_v2_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
