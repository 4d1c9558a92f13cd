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


def get_study(form: str = '') -> study.Study:
  """Returns the study; `form` is one of `study.FORMS`."""
  base = study.base(form, 'configs/voc_xception.py')
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
  )
