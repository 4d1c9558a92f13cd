"""Crop size, and the batch that BatchNorm sees, for as many steps.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/crop_and_norm.py
"""

from experiments import study

QUESTION = 'How much do crops as wide as the rates, and large batches, matter?'
REFERENCE = """\
| DeepLabV3, ResNet-101, VOC val | mIoU |
|---|---|
| crops of 513, batch of 16 | 77.21 |
| crops of 321 | 67.22 |
| batch of 12 | 76.49 |
| batch of 8 | 75.76 |
| batch of 4 | 64.43 |

arXiv:1706.05587, section 4.1 and appendix A.
"""


VERDICTS = {
  'smoke': (
    'For as many steps, half the batch costs 21 points, crops of half the '
    'side 23 and both 32, many times the deviation. In 300 steps from random '
    'weights a run that sees a half to an eighth of the pixels is less far in '
    'training, so that this is not about the statistics of BatchNorm alone. '
    'The paper, which trains to the end, loses 10 points by small crops and '
    '1.5 by half the batch.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  sizes, batches = {
    '': ((512, 320), (16, 8)),
    'camvid': ((192, 128), (8, 4)),
    'smoke': ((128, 64), (8, 4)),
  }[variant]

  epochs = study.parse_config([f'--config={base.config}']).epochs
  epochs = base.fixed.get('epochs', epochs)

  def crop(size: int) -> study.Overrides:
    return {'data.augment.random_crop.size': (size, size)}

  return study.Study(
    'crop_and_norm',
    QUESTION,
    REFERENCE,
    base,
    {
      'crop': {
        'full': crop(sizes[0]),
        'small': crop(sizes[1]),
      },
      'batch': {
        'full': {'batch_size': batches[0]},
        # The same number of steps, as in the paper.
        'half': {
          'batch_size': batches[1],
          'epochs': epochs * batches[1] / batches[0],
        },
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
