"""DeepLabV3+ with ResNets on Cityscapes.

What: DeepLabV3+ with ResNet-18, 50 or 101, output stride 8 (or 16 with rates 1,
  2, 4 in the last stage), as in mmsegmentation: crops of 512x1024, or of
  769x769 with aligned corners and evaluation by windows; 40k or 80k steps of 8
  images.
Reference: arXiv:1802.02611; mmsegmentation's DeepLabV3+ configs.
Data: leftImg8bit and gtFine, official layout. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/cityscapes_resnet.py:r18,80k
Cost: 108 (ResNet-18), 352 (50) and 507 (101) GMACs an image of 512x1024; not
  for a CPU.
Expected: no number of ours yet; published mIoU 76.89 (r18,80k), 80.09 (r50,80k)
  and 80.97 (r101,80k) (single scale; experiments/zoo.csv has them all).
Variants: r50, r101 or r18, with torchvision's stem r50b, r101b or r18b; os8 or
  mg124 (output stride 16 and multi-grid); crop512 or crop769; 40k or 80k steps;
  bf16 (the published "FP16" row); flip or ms (views of evaluation); smoke
  (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import mmseg

CROPS = {'crop512': (512, 1024), 'crop769': (769, 769)}
# (Long, short) that images are fitted into: the images' own size, and where
# corners are aligned a pixel more.
FIT_SIZES = {'crop512': (2048, 1024), 'crop769': (2049, 1025)}
STEPS = {'40k': 40_000, '80k': 80_000}


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = common.default_config()
  c.name = 'cityscapes_resnet'
  chosen = common.parse_variant(
    c,
    variant,
    encoder=('r50', 'r101', 'r18', 'r50b', 'r101b', 'r18b'),
    grid=('os8', 'mg124'),
    crop=CROPS,
    steps=STEPS,
    dtype=('', 'bf16'),
    views=common.TTA_VARIANTS,
    run=('', 'smoke'),
  )

  # Data.
  c.data.name = 'cityscapes'

  # Model.
  mmseg.set_model(
    c,
    chosen['encoder'],
    multi_grid=chosen['grid'] == 'mg124',
    align_corners=chosen['crop'] == 'crop769',
  )
  if chosen['dtype'] == 'bf16':
    c.model.dtype = 'bfloat16'

  # Optimizer, schedule and evaluation.
  mmseg.set_training(
    c,
    crop=CROPS[chosen['crop']],
    batch_size=8,
    steps=STEPS[chosen['steps']],
    fit_size=FIT_SIZES[chosen['crop']],
  )
  if chosen['crop'] == 'crop769':
    c.eval.mode = 'slide'
    if chosen['encoder'] == 'r101' and chosen['steps'] == '80k':
      c.seed = 1111  # published as sensitive to it
  common.set_test_time_augmentation(c, chosen['views'])

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(
      c, encoder='resnet_tiny', channels=16, decoder_channels=16
    )
  return common.finalize_config(c)
