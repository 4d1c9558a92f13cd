"""Image-level features in the pyramid.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/image_pooling.py
"""

from experiments import study

QUESTION = 'What is the branch of the mean over the image worth?'
REFERENCE = """\
| DeepLabV3, ResNet-101, output stride 16, VOC val | mIoU |
|---|---|
| without image pooling | 76.58 |
| with | 77.21 |

arXiv:1706.05587, table 5 (multi-grid 1, 2, 4).
"""


VERDICTS = {
  'smoke': (
    'The branch is worth 5 points in the mean, as much as one seed differs '
    'from the other: two seeds do not decide it.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  return study.Study(
    'image_pooling',
    QUESTION,
    REFERENCE,
    base,
    {
      'image_pooling': {
        'on': {'model.head.image_pooling': True},
        'off': {'model.head.image_pooling': False},
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
