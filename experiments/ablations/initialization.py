"""Random weights, or an ImageNet classifier's.

Command: python -m experiments.sweep --workdir=W
  --study=experiments/ablations/initialization.py
"""

from experiments import study

QUESTION = 'What are trained weights worth?'
REFERENCE = """\
| DeepLabV3+, VOC test | mIoU |
|---|---|
| Xception-65, ImageNet | 87.8 |
| and JFT-300M | 89.0 |

arXiv:1802.02611, table 6; the paper has no run from random weights.
"""


VERDICTS = {
  'smoke': (
    'Nothing is loaded here: both start at random, and an encoder that learns '
    'at 0.3 of the rate is 18 points behind. The slow rate is for trained '
    'encoders alone.'
  ),
}


def get_study(variant: str = '') -> study.Study:
  """Returns the study; `variant` is one of `study.VARIANTS`."""
  base = study.select_base(variant)
  # The smoke form fetches nothing: both settings start at random there, and
  # differ in the rate of the encoder, as they do on CamVid.
  slow = {'optimizer.encoder_multiplier': 0.3}
  starts: dict[str, study.Overrides] = {
    '': {},
    'camvid': {
      'init_from': 'keras:mobilenet_v2_0.35',
      'data.mean': (127.5, 127.5, 127.5),
      'data.std': (127.5, 127.5, 127.5),
      'model.encoder.padding': 'keras',
      'model.encoder.bn_epsilon': 1e-3,
      **slow,
    },
    'smoke': slow,
  }

  return study.Study(
    'initialization',
    QUESTION,
    REFERENCE,
    base,
    {
      'weights': {
        'slow_encoder' if variant == 'smoke' else 'imagenet': starts[variant],
        'random': {'init_from': ''},
      },
    },
    verdict=VERDICTS.get(variant, ''),
  )
