"""From float weights to int8: ranges, rounding, layers in float, training.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/int8_recipe.py
"""

from experiments import study

QUESTION = 'What does int8 cost, and which part of its recipe wins it back?'
REFERENCE = """\
| DeepLabV3 MobileNetV2, VOC val | float | int8, by training |
|---|---|---|
| alpha 1.0 | 75.32 | 74.26 |
| alpha 0.5 | 70.19 | 69.65 |

TensorFlow DeepLab, g3doc/quantize.md, by the method of arXiv:1806.08342;
calibration alone is not told. Rounding by least squares is arXiv:2210.17323.
"""


VERDICTS = {
  'smoke': (
    'Calibration costs nothing here: of the three ranges none moves the score '
    'of a seed by 0.05 points. What the rest of the recipe is worth has one '
    'sign in both seeds, and is small: 0.2 points for rounding by least '
    'squares in place of the nearest, 0.1 for equalization, and 0.1 for a '
    'head in float. Training in simulated int8 gains 4 and 10 points only '
    'because it trains on: the float network had but 300 steps, of which '
    'these are a quarter and as many again. TensorFlow loses 1.1 and 0.5 '
    'points on VOC by networks trained to the end.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant, 'configs/voc_mnv2.py')
  # The last two: steps of training in simulated int8, and their rate.
  short, long, rate = {
    '': (300, 3000, 3e-5),
    'camvid': (45, 180, 1e-4),
    'smoke': (75, 300, 1e-3),
  }[variant]

  def int8(steps: int, **calibration: str | bool) -> study.Overrides:
    return {
      'quantization.name': 'int8',
      'total_steps': steps,
      'schedule.warmup_steps': 0,
      'schedule.warmup_epochs': 0.0,
      'optimizer.learning_rate': rate,
      **{
        f'quantization.calibration.{name}': value
        for name, value in calibration.items()
      },
    }

  def calibrated(**calibration: str | bool) -> study.Overrides:
    # One step of no length: what calibration alone gives.
    return {
      **int8(1, **calibration),
      'optimizer.learning_rate': 1e-12,
      'quantization.range_decay': 0.999999,
    }

  return study.Study(
    'int8_recipe',
    QUESTION,
    REFERENCE,
    base,
    {
      'recipe': {
        'float': {},
        'mse': calibrated(method='mse'),
        'minmax': calibrated(method='minmax'),
        'percentile': calibrated(method='percentile'),
        'nearest': calibrated(method='mse', rounding='nearest'),
        'unequalized': calibrated(method='mse', equalize=False),
        'float_head': {
          **calibrated(method='mse'),
          'quantization.float_layers': 'head/.*',
        },
        f'trained_{short}': int8(short),
        f'trained_{long}': int8(long),
      }
    },
    init_from=('float',),
    verdict=VERDICTS.get(variant, ''),
  )
