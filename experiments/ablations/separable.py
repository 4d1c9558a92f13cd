"""Dense or depthwise-separable convolutions in the pyramid and the decoder.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/separable.py
"""

from experiments import study

QUESTION = 'What do separable convolutions in the head save, and cost?'
REFERENCE = """\
| DeepLabV3+, Xception, VOC val, output stride 16 | multiply-adds | mIoU |
|---|---|---|
| dense | 89.76 G | 79.93 |
| separable | 54.17 G | 79.79 |

arXiv:1802.02611, table 5.
"""


VERDICTS = {
  'smoke': (
    'Dense convolutions in both places are worth 3.3 points, a little more '
    'than the deviation of either, for 3.7 times the operations and twice '
    'the parameters; one of the two is worth less than one seed differs '
    'from the other. The paper loses 0.1 points by separable ones.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant, 'configs/voc_xception.py')
  return study.Study(
    'separable',
    QUESTION,
    REFERENCE,
    base,
    {
      'aspp': {
        'separable': {'model.head.separable': True},
        'dense': {'model.head.separable': False},
      },
      'decoder': {
        'separable': {'model.head.decoder_separable': True},
        'dense': {'model.head.decoder_separable': False},
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
