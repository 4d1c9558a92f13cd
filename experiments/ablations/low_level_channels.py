"""Channels of the low-level map in the decoder.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/low_level_channels.py
"""

from experiments import study

QUESTION = 'How many channels should the decoder keep of the low-level map?'
REFERENCE = """\
| channels | 8 | 16 | 32 | 48 | 64 |
|---|---|---|---|---|---|
| mIoU | 77.61 | 77.92 | 78.16 | 78.21 | 77.94 |

arXiv:1802.02611, table 1 (ResNet-101, VOC val, output stride 16).
"""


VERDICTS = {
  'smoke': (
    'In 300 steps more low-level channels are better, all the way from 8 to '
    '64, by 18 points in all; only the last step, from 48 to 64, is within '
    'the deviation. The paper has its best at 48 and spans 0.6 points: a '
    'short run on shapes whose edges are all that is hard leans on the fine '
    'map far more.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  return study.Study(
    'low_level_channels',
    QUESTION,
    REFERENCE,
    base,
    {
      'channels': {
        str(n): {'model.head.low_level_channels': n}
        for n in (48, 8, 16, 32, 64)
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
