"""The STM32 model zoo's network for microcontrollers, on CamVid.

What: MobileNetV2 (alpha 0.5, cut at output stride 16) and a pyramid, separable
  (ASPPv2) or dense (ASPPv1), at 256x256: the small network of voc_mnv2_cut.py
  where one can train it on a laptop, in float and, by variant qat, on in
  simulated int8. Crops, loss and averaging are those of camvid_mnv2.py.
Reference: the STM32 model zoo's DeepLabV3, and arXiv:1706.05587.
Data: as configs/camvid_mnv2.py. --config.data.root=ROOT
Command: python -m deeplab.main --config=configs/camvid_mnv2_cut.py
  --config.data.root=ROOT --workdir=runs/cut, and then with :qat,
  --config.init_from=runs/cut and another --workdir
Cost: 0.25 (v2) and 0.66 (v1) GMACs an image.
Expected: at 256x256 val mIoU 0.504 (v2) and 0.477 (v1, 20 epochs) in float,
  0.510 and 0.475 calibrated, 0.508 and 0.483 trained in int8, from the encoder
  of TF DeepLab's converted VOC network.
Variants: v2 or v1; qat (300 steps in simulated int8 that go on from a run);
  smoke (seconds, on `shapes` if no root is given).
"""

from ml_collections import ConfigDict

from configs import common
from configs.recipes import folder
from configs.recipes import stm32


def get_config(variant: str = '') -> ConfigDict:
  """Returns the config; `variant` lists tokens of the page header."""
  c = folder.make_config('camvid_mnv2_cut')
  chosen = common.parse_variant(
    c, variant, pyramid=('v2', 'v1'), stage=('', 'qat'), run=('', 'smoke')
  )

  # Data.
  folder.set_camvid_data(c)

  # Model.
  stm32.set_model(c, 'size256', separable=chosen['pyramid'] == 'v2')
  c.model.encoder.bn_decay = 0.9
  c.model.head.update({'bn_decay': 0.9, 'dropout': 0.1})
  c.optimizer.encoder_multiplier = 0.3

  if chosen['stage'] == 'qat':
    c.init_from = c.init_skip = ''
    c.quantization.name = 'int8'
    c.total_steps = 300
    c.optimizer.learning_rate = 1e-4
    c.optimizer.encoder_multiplier = 1.0
    c.schedule.warmup_steps = 0

  if chosen['run'] == 'smoke':
    common.shrink_to_smoke_test(c, encoder='mobilenet_v2_tiny', channels=16)
  return common.finalize_config(c)
