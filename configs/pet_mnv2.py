"""DeepLabV3+ MobileNetV2 on Oxford-IIIT Pet, which downloads by itself.

What: a cat or a dog, and the background: DeepLabV3+ with MobileNetV2 (alpha
  1.0), output stride 16, at 256x256 crops, from ImageNet weights.
Reference: arXiv:1802.02611 and arXiv:1801.04381.
Data: Oxford-IIIT Pet, fetched once (0.8 GB): 3,680 images to train on, and
  3,669 to evaluate. Behind a wall: --config.data.root=ROOT, which holds images/
  and annotations/.
Command: python -m deeplab.main --config=configs/pet_mnv2.py
Cost: 3 epochs are as many steps as configs/camvid_mnv2.py takes.
Expected: no number of ours yet.
Variants: scratch (from random weights), smoke (seconds, on `shapes` if no root
  is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import folder


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` is '', 'scratch' or 'smoke'."""
  c = common.default_config()
  c.name = 'pet_mnv2'
  run = common.parse_variant(c, variant, run=('', 'scratch', 'smoke'))['run']

  # Data.
  c.data.name = 'oxford_iiit_pet'
  c.data.eval_split = 'test'

  # Model and training.
  folder.set_model(c)
  folder.set_training(c)
  if run != 'scratch':
    folder.init_from_imagenet(c)
  c.epochs = 3.0

  if run == 'smoke':
    folder.shrink_to_smoke_test(c)
  return common.finalize_config(c)
