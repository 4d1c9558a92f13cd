import glob
import os
import pathlib

import jax
import pytest

from deeplab import describe
from deeplab import evaluate
from deeplab import train
from deeplab.inference import views
from deeplab.models import registry
from experiments import study
from experiments import zoo_rows
from tests import helpers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = sorted(
  os.path.relpath(path, ROOT)
  for path in glob.glob(str(ROOT / 'experiments' / 'ablations' / '*.py'))
  if os.path.basename(path) != '__init__.py'
)
CASES = [f'{page}:{form}' for page in PAGES for form in study.VARIANTS]


@pytest.fixture(autouse=True)
def root(monkeypatch):
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize('name', CASES)
def test_every_study_expands(name):
  ablation = study.load_study(name)
  runs = ablation.make_runs()
  combinations = 1
  for settings in ablation.grid.values():
    combinations *= len(settings)
  seeds = len(ablation.base.seeds)
  assert len({run.id for run in runs}) == combinations * seeds
  assert combinations > 1
  assert ablation.question.endswith('?') and 'arXiv' in ablation.reference
  assert ablation.name in name
  # Settings are of different configs; flags say what the page says.
  seed = ablation.base.seeds[0]
  configs = [study.parse_config(run.flags) for run in runs if run.seed == seed]
  assert len({c.to_json_best_effort(sort_keys=True) for c in configs}) == len(
    configs
  )
  for config in configs:
    train.check_config(config)
    assert config.seed == seed and config.is_locked


def _networks(name):
  """Returns a config of each distinct network of a study."""
  found = {}
  for run in study.load_study(name).make_runs():
    config = study.parse_config(run.flags)
    size = tuple(config.data.augment.random_crop.size)
    key = config.model.to_json_best_effort(sort_keys=True), size
    found.setdefault(key, config)
  return list(found.values())


def _assert_traces(config):
  classes = zoo_rows.num_classes(config)
  network = helpers.network(config, classes)
  step, _ = train.build_train_step(network, 10, None)
  size = tuple(config.data.augment.random_crop.size)
  state, batch = describe.abstract_step_inputs(network, size)
  _, metrics = jax.eval_shape(step, state, batch)
  assert metrics['loss'].shape == ()
  # And evaluates.
  at = registry.with_output_stride(config.model, config.eval.output_stride)
  model = registry.build_model(at, classes)
  image = jax.ShapeDtypeStruct((1, *config.eval.static_size, 3), 'float32')
  logits = jax.eval_shape(model.apply, state.variables, image).logits
  assert logits.shape == (1, *config.eval.static_size, classes)
  assert config.eval.mode in views.MODES
  assert evaluate.single_view_config(config.eval).output_stride == 0


@pytest.mark.parametrize('page', PAGES)
def test_smoke_forms_trace(page):
  _assert_traces(_networks(f'{page}:smoke')[-1])


@pytest.mark.full
@pytest.mark.parametrize('name', CASES)
def test_every_network_traces(name):
  for config in _networks(name):
    _assert_traces(config)


def test_rates_reach_as_far_at_another_output_stride():
  config = study.parse_config(
    [
      '--config=configs/folder_mnv2.py:smoke',
      '--config.model.head.rates=(6, 12, 18)',
    ]
  )
  fine = registry.with_output_stride(config.model, 8)
  assert (fine.output_stride, fine.head.rates) == (8, (12, 24, 36))
  coarse = registry.with_output_stride(config.model, 32)
  assert (coarse.output_stride, coarse.head.rates) == (32, (3, 6, 9))
  assert registry.with_output_stride(config.model, 0) is config.model
  assert config.model.head.rates == (6, 12, 18)


@pytest.mark.parametrize(
  ('form', 'expected'),
  [
    ('', {'16': (6, 12, 18), '8': (12, 24, 36), '32': (3, 6, 9)}),
    ('camvid', {'16': (3, 6, 9), '8': (6, 12, 18), '32': (1, 3, 4)}),
  ],
)
def test_without_a_decoder_only_that_is_gone(form, expected):
  ablation = study.load_study(f'experiments/ablations/output_stride.py:{form}')
  for run in ablation.make_runs():
    head = study.parse_config(run.flags).model.head
    decoder = run.labels['decoder'] == 'on'
    assert head.name == ('deeplabv3plus' if decoder else 'deeplabv3')
    assert head.rates == expected[run.labels['output_stride']]
    assert head.channels == {'': 512, 'camvid': 256}[form]


def test_flags_for_all_runs_replace_what_they_have_in_common():
  ablation = study.load_study('experiments/ablations/image_pooling.py:smoke')
  field = 'data.augment.random_crop.size'
  assert field in ablation.base.fixed
  for run in ablation.make_runs([f'--config.{field}=(64, 64)']):
    config = study.parse_config(run.flags)
    assert config.data.augment.random_crop.size == (64, 64)
  for field in ('seed', 'model.head.image_pooling'):
    with pytest.raises(
      ValueError, match=f'--config.{field} is an axis of the study'
    ):
      ablation.make_runs([f'--config.{field}=1'])
