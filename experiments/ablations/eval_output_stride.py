"""Output stride in evaluation: weights of 16, evaluated at 8 and 32.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/eval_output_stride.py
"""

from experiments import study

QUESTION = (
  'Do weights of output stride 16 gain from a finer grid in evaluation?'
)
REFERENCE = """\
| DeepLabV3, ResNet-101, VOC val, trained at 16 | mIoU |
|---|---|
| evaluated at 16 | 77.21 |
| evaluated at 8 | 78.51 |

arXiv:1706.05587, table 6.
"""


VERDICTS = {
  'smoke': (
    'The same weights lose 0.4 points at stride 8 and 2.7 at 32: on shapes of '
    'this size a finer grid than the trained one brings nothing, where the '
    'paper gains 1.3 on VOC.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  return study.Study(
    'eval_output_stride',
    QUESTION,
    REFERENCE,
    base,
    {
      'eval_output_stride': {
        '16': {'eval.output_stride': 16},
        '8': {'eval.output_stride': 8},
        '32': {'eval.output_stride': 32},
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
