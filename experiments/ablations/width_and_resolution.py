"""Width multiplier by resolution.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/width_and_resolution.py
"""

from experiments import study

QUESTION = 'Is a wider network or a larger image the better use of operations?'
REFERENCE = """\
| MobileNetV2 DeepLabV3, VOC val | parameters | multiply-adds | mIoU |
|---|---|---|---|
| output stride 16, no ASPP | 2.11 M | 2.75 G | 75.32 |
| output stride 16, ASPP | 4.52 M | 5.8 G | 75.70 |

arXiv:1801.04381, table 7 (COCO pre-training); it varies neither width nor
resolution. Its table 4 does, for classification.
"""


VERDICTS = {
  'smoke': (
    'For about as many operations the narrower network on the larger image is '
    '12 points better, more than its deviation of 7: resolution is the better '
    'use of them where the edges of small drawings are what is hard. At 96 '
    'pixels the wider network brings nothing (29.0 and 29.9).'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant, 'configs/voc_mnv2.py')
  alphas, sizes = {
    '': ((1.0, 0.5, 0.35), (513, 385, 257)),
    'camvid': ((0.35, 0.5), (192, 128)),
    'smoke': ((0.5, 0.25), (128, 96)),
  }[variant]

  def resolution(size: int) -> study.Overrides:
    return {
      'data.augment.random_crop.size': (size, size),
      'eval.mode': 'static',
      'eval.static_size': (size, size),
    }

  return study.Study(
    'width_and_resolution',
    QUESTION,
    REFERENCE,
    base,
    {
      'alpha': {
        f'{alpha:g}': {'model.encoder.alpha': alpha} for alpha in alphas
      },
      'size': {str(size): resolution(size) for size in sizes},
    },
    verdict=VERDICTS.get(variant, ''),
  )
