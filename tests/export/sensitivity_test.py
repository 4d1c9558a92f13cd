import json
import math
import re

import numpy as np
import pytest

from configs import common
from deeplab.data import datasets
from deeplab.inference import predictors
from deeplab.quantization import rules as rules_lib
from export import sensitivity
from export import source as source_lib
from tests.export import weights


class Analysis:
  """A `SensitivityAnalysis` of known losses, which add up."""

  modules = ('encoder/a', 'encoder/b', 'head')

  def measure_loss(self, quantized):
    noise = {'encoder/a': 1.0, 'encoder/b': 10.0, 'head': 0.1}
    total = sum(noise[name] for name in quantized)
    return {
      'sqnr_db': -10 * math.log10(total) if total else math.inf,
      'loss_points': total,
      'miou': 0.9 - total / 100,
    }


@pytest.mark.parametrize('mode', ['one', 'all_but_one'])
def test_the_most_sensitive_module_is_first(mode):
  names = [row['module'] for row in sensitivity.rank_modules(Analysis(), mode)]
  assert names == ['encoder/b', 'encoder/a', 'head']


@pytest.mark.parametrize(
  ('points', 'kept'),
  [(12.0, 0), (2.0, 1), (0.5, 2), (0.0, 3)],
)
def test_fewest_float_modules_for_a_loss(points, kept):
  ranked = sensitivity.rank_modules(Analysis(), 'one')
  found = sensitivity.find_float_modules(Analysis(), ranked, points)
  assert found['modules'] == ['encoder/b', 'encoder/a', 'head'][:kept]
  assert found['loss_points'] <= points


def test_a_loss_that_cannot_be_reached():
  ranked = sensitivity.rank_modules(Analysis(), 'one')
  found = sensitivity.find_float_modules(Analysis(), ranked, -1.0)
  assert (found['modules'], found['loss_points']) == (
    ['encoder/b', 'encoder/a', 'head'],
    0.0,
  )


def test_sqnr_by_hand():
  signal = [np.array([3.0, 4.0]), np.array([5.0])]  # energy 50
  found = [np.array([3.0, 4.5]), np.array([5.5])]  # error's 0.5
  assert sensitivity.sqnr(signal, found) == pytest.approx(20.0)
  assert sensitivity.sqnr(signal, signal) == math.inf


def test_switches_of_modules():
  found = sensitivity.build_switches(['', 'encoder/a'], ['encoder/a'])
  assert found == {'on': 0.0, 'encoder': {'a': {'on': 1.0}}}


def test_the_regex_matches_whole_paths():
  rules = rules_lib.Rules(
    float_layers=sensitivity.match_any_regex(['encoder/a', 'head'])
  )
  matches = lambda path: bool(re.fullmatch(rules.float_pattern, path))
  assert [matches(p) for p in ('encoder/a', 'head', 'head/b', 'xhead')] == [
    True,
    True,
    False,
    False,
  ]


@pytest.mark.full
def test_a_network(tmp_path, monkeypatch):
  """The tiny network, on images whose labels are its own predictions."""
  pytest.importorskip('qwix')
  c = common.default_config()
  c.name = 'tiny'
  c.model.encoder = {'name': 'mobilenet_v2_tiny'}
  c.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  c.model.depthwise = c.model.pointwise = 'conv'
  c.eval.static_size = (33, 33)
  source = weights.make_source(c.lock(), 7, '/runs/tiny')
  predictor = predictors.FlaxPredictor(
    source.network.export_model(),
    source.variables,
    c.data.mean,
    c.data.std,
    'argmax',
  )
  examples = [
    {'image': x, 'label': predictor(x[None])[0], 'name': str(i)}
    for i, x in enumerate(source_lib.draw_synthetic_images(3, (33, 33), 5))
  ]
  monkeypatch.setattr(datasets.Dataset, 'examples', lambda *_, **__: examples)
  monkeypatch.setattr(
    datasets.Dataset, 'num_examples', lambda *_: len(examples)
  )
  monkeypatch.setattr(
    datasets.Dataset,
    'calibration_images',
    lambda _, n, seed: iter(source_lib.draw_synthetic_images(n, (40, 50), 1)),
  )
  report = sensitivity.analyze_sensitivity(
    source, str(tmp_path), 4, 3, 'one', 6.0
  )
  # The labels are predictions of the trained network, before its channels are
  # equalized on these few images.
  assert report['miou'] > 0.999
  assert report['none']['loss_points'] == 100 * (
    report['miou'] - report['none']['miou']
  )
  assert report['all']['sqnr_db'] > 10
  modules = [row['module'] for row in report['modules']]
  assert {'encoder/stem/conv', 'head/classifier'} <= set(modules)
  ratios = [row['sqnr_db'] for row in report['modules']]
  assert ratios == sorted(ratios) and ratios[0] > report['all']['sqnr_db']
  assert report['keep_float']['loss_points'] <= 6
  assert (
    report['keep_float']['modules']
    == modules[: len(report['keep_float']['modules'])]
  )
  assert (tmp_path / 'sensitivity.png').stat().st_size > 10_000
  text = (tmp_path / 'sensitivity.md').read_text()
  assert all(f'| {name} |' in text for name in modules if name)
  json.loads((tmp_path / 'sensitivity.json').read_text())
