"""Remarks name the images that were used, and claim no others."""

import pytest

from configs import common
from export import frozen_model
from export import request as request_lib
from export.report import remarks
from export.verify import score
from tests.export import weights

SIZE = (33, 33)
LABELS = '`--config.data.root` names a data set with them'


def make_remarks(source, origin, num_images=3):
  request = request_lib.make_request(
    formats=('int8',), input_size=SIZE, num_classes=6
  )
  model = frozen_model.FrozenModel(
    source,
    request,
    num_calibration_images=num_images,
    images=[None, None],
  )
  scorer = score.Scorer(source, request, False, 0)
  return remarks.general_remarks(model, scorer, origin)


@pytest.fixture(name='config', scope='module')
def fixture_config():
  c = common.default_config()
  c.model.encoder = {'name': 'mobilenet_v2_tiny'}
  c.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  c.eval.static_size = SIZE
  return c.lock()


def test_images_of_a_folder(config, tmp_path):
  for i in range(5):
    weights.write_photograph(tmp_path / f'{i}.jpg', i)
  source = weights.make_source(config, weights='theirs.pth', folder=tmp_path)
  evaluated, calibrated = make_remarks(source, 'calibration')
  assert evaluated == (
    f'The files were not evaluated (there are no labels; {LABELS}); parity was '
    f'measured on 2 images of the folder `{tmp_path}`.'
  )
  assert calibrated.startswith(
    'Activation ranges of int8 are the minimum and maximum over 3 of 5 images '
    f'of the folder `{tmp_path}`. Weights are quantized per channel'
  )


def test_synthetic_images_of_an_untrained_model(config):
  source = weights.make_source(config)
  untrained, calibrated = make_remarks(source, 'synthetic')
  assert untrained.startswith('The weights are untrained')
  assert 'over 3 synthetic images (seed 0)' in calibrated


def test_a_run_that_was_not_evaluated(config):
  source = weights.make_source(config, 7, '/runs/tiny')
  (evaluated,) = make_remarks(source, 'synthetic', 0)
  assert evaluated == (
    'The files were not evaluated (`--noeval`); parity was measured on '
    'synthetic images.'
  )
