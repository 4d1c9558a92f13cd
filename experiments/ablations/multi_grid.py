"""Rate factors of the last blocks.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/multi_grid.py
"""

from experiments import study

QUESTION = 'Do unequal rates in the last stage help?'
REFERENCE = """\
| DeepLabV3, ResNet-101, output stride 16, VOC val | mIoU |
|---|---|
| (1, 1, 1) | 75.36 |
| (1, 2, 1) | 75.93 |
| (1, 2, 4) | 76.58 |

arXiv:1706.05587, table 5 (rates 6, 12, 18, without image pooling).
"""


VERDICTS = {
  'smoke': (
    'Unequal rates change nothing that two seeds could show: (1, 2, 4) is '
    '0.1 points above (1, 1, 1) and (1, 2, 1) is 1.8 below, with deviations '
    'of up to 3.5. The paper gains 1.2 from (1, 2, 4) on VOC; drawn shapes '
    'of this size ask for no wider view.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  return study.Study(
    'multi_grid',
    QUESTION,
    REFERENCE,
    base,
    {
      'multi_grid': {
        '1_1_1': {'model.multi_grid': (1, 1, 1)},
        '1_2_1': {'model.multi_grid': (1, 2, 1)},
        '1_2_4': {'model.multi_grid': (1, 2, 4)},
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
