"""Rates of the pyramid: none, and three scales of them.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/aspp_rates.py
"""

from experiments import study

QUESTION = 'How far apart should the taps of the pyramid be?'
REFERENCE = """\
| DeepLabV3, ResNet-101, output stride 16, VOC val | mIoU |
|---|---|
| multi-grid (1, 2, 4), rates 6, 12, 18 | 76.58 |
| rates 6, 12, 18, 24 | 76.46 |

arXiv:1706.05587, table 5.
"""


VERDICTS = {
  'smoke': (
    'Rates 6, 12, 18 are best and a pyramid without atrous branches is 6 '
    'points behind, but two of the settings have deviations of 9: of the '
    'order only the loss by rates of 12 and more, 4 points, and by a fourth '
    'branch, 6, is more than two seeds differ. The paper loses 0.1 points '
    'by the fourth branch; the map here is 8 pixels wide, and such rates '
    'read padding.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  return study.Study(
    'aspp_rates',
    QUESTION,
    REFERENCE,
    base,
    {
      'rates': {
        '6_12_18': {'model.head.rates': (6, 12, 18)},
        'none': {'model.head.rates': ()},
        '3_6_9': {'model.head.rates': (3, 6, 9)},
        '12_24_36': {'model.head.rates': (12, 24, 36)},
        '6_12_18_24': {'model.head.rates': (6, 12, 18, 24)},
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
