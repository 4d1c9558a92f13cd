import glob
import importlib
import itertools
import json
import os
import re
from unittest import mock

import jax
import pytest

from configs import common
from configs.recipes import mmseg
from deeplab import describe
from deeplab import networks
from deeplab import train
from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.models import registry
from experiments import zoo_rows
from tests import helpers
from tests import runs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = sorted(
  os.path.basename(path)[:-3]
  for path in glob.glob(os.path.join(ROOT, 'configs', '*.py'))
  if os.path.basename(path) not in ('__init__.py', 'common.py')
)


# What no page can be, and says so.
REFUSED = {
  ('cityscapes_resnet', 'r18', 'mg124'),
  ('cityscapes_resnet', 'r18b', 'mg124'),
}


def _choices(module):
  """Returns the choices that a page offers: tokens by name."""
  offered = {}
  read = common.parse_variant

  def choose(c, variant, **choices):
    offered.update({name: tuple(tokens) for name, tokens in choices.items()})
    return read(c, variant, **choices)

  with mock.patch.object(common, 'parse_variant', choose):
    get(module, '')
  return offered


def get(module, variant):
  return importlib.import_module(f'configs.{module}').get_config(variant)


def _variants(module):
  """Returns every combination; views, and smoke and its like, by themselves."""
  choices = _choices(module)
  alone = [t for name in ('views', 'run') for t in choices.pop(name, ('',))[1:]]
  for tokens in itertools.product(*choices.values()):
    # A choice's first token goes without saying.
    said = [
      token
      for token, of in zip(tokens, choices.values(), strict=True)
      if token != of[0]
    ]
    if not any({*refused} <= {module, *said} for refused in REFUSED):
      yield ','.join(said)
  yield from alone


CASES = [(module, v) for module in MODULES for v in _variants(module)]
# One network of each family; `full` has all that differ.
QUICK = [
  ('folder_mnv2', ''),
  ('shapes_mnv2', ''),
  ('voc_mnv2', ''),
  ('person_mnv2', 'smoke'),
  ('cityscapes_erfnet', 'smoke'),
  ('cityscapes_lite', 'smoke'),
  ('cityscapes_mobileseg', 'smoke'),
  ('cityscapes_resnet', 'smoke'),
  ('cityscapes_slim', 'smoke'),
  ('cityscapes_swiftnet', 'smoke'),
  ('cityscapes_torchvision', 'smoke'),
]


def _steps():
  """Returns a case for each step that differs from those before."""
  seen = set()
  for case in [*QUICK, *CASES]:
    config = get(*case)
    step = json.dumps(
      [
        *(config[part].to_dict() for part in ('model', 'loss', 'optimizer')),
        *(config.schedule.name, config.quantization.name, config.batch_size),
        *(
          zoo_rows.num_classes(config),
          compose.fixed_output_size(config.data.augment),
        ),
      ]
    )
    if step not in seen:
      marks = () if case in QUICK else pytest.mark.full
      yield pytest.param(*case, marks=marks)
    seen.add(step)


def test_variants_are_all_that_pages_offer():
  assert {('voc_mnv2', 'mobile,qat'), ('voc_mnv2', 'dm05,os8,qat')} <= {*CASES}
  assert [v for m, v in CASES if m == 'loveda_resnet'] == [
    *('', 'r50', 'r101', 'flip', 'ms', 'smoke')
  ]
  # 6 encoders, 2 crops, lengths and types each, and with multi-grid rates 4
  # encoders; 2 views and smoke.
  assert sum(m == 'cityscapes_resnet' for m, _ in CASES) == (6 + 4) * 8 + 3


def test_every_row_of_the_zoo_is_a_variant():
  names = {get(*case).name for case in CASES}
  assert {
    zoo_rows.load_config(row).name for row in zoo_rows.read_rows()
  } <= names


@pytest.mark.parametrize('refused', sorted(REFUSED))
def test_what_is_refused_says_so(refused):
  module, *tokens = refused
  with pytest.raises(ValueError, match='choose r50 or r101'):
    get(module, ','.join(tokens))


def test_every_variant_has_a_name_of_its_own():
  names = [get(*case).name for case in CASES]
  assert len(set(names)) == len(names)


@pytest.mark.parametrize(('module', 'variant'), CASES)
def test_configs_are_locked_pages(module, variant):
  config = get(module, variant)
  assert config.is_locked
  with pytest.raises((AttributeError, KeyError)):
    config.learning_rat = 1.0
  page = importlib.import_module(f'configs.{module}').__doc__
  for heading in ('What:', 'Command:', 'Cost:', 'Expected:', 'Variants:'):
    assert heading in page
  for word in filter(None, variant.split(',')):
    assert re.search(rf'Variants:[^:]*\b{word}\b', page, re.S)


@pytest.mark.parametrize(('module', 'variant'), _steps())
def test_configs_make_a_step(module, variant):
  """Traced at the sizes that the config trains at."""
  config = get(module, variant)
  network = helpers.network(config, zoo_rows.num_classes(config))
  step, _ = train.build_train_step(network, 10, None)
  size = compose.fixed_output_size(config.data.augment) or (128, 128)
  state, batch = describe.abstract_step_inputs(network, size)
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
    lambda x: x.shape, state
  )
  assert metrics['loss'].shape == ()


def test_steps_are_traced_at_what_the_pipeline_gives(data_dir):
  config = runs.config(data_dir)
  dataset = datasets.Dataset(config.data)
  batches = dataset.train_batches(
    seed=config.seed, batch_size=config.batch_size
  )
  batch = next(batches)
  batches.close()
  size = compose.fixed_output_size(config.data.augment)
  _, traced = describe.abstract_step_inputs(
    networks.Network(config, dataset), size
  )
  assert batch['image'].shape == (4, 65, 65, 3)
  assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
    k: (x.shape, x.dtype) for k, x in traced.items()
  }


@pytest.mark.parametrize(('module', 'variant'), CASES)
def test_configs_name_every_field(module, variant):
  model = get(module, variant).model
  for slot, known in registry.SLOTS.items():
    cls = known[model[slot].name]
    assert set(model[slot]) == {
      'name',
      *(registry.config_fields(cls) if cls else ()),
    }


def test_variants_choose_one_of_each():
  config = common.default_config()
  config.name = 'page'
  choices = {'encoder': ('r50', 'r18'), 'steps': ('', '40k'), 'run': ('', 'x')}
  chosen = common.parse_variant(config, '40k,r18', **choices)
  assert chosen == {'encoder': 'r18', 'steps': '40k', 'run': ''}
  assert config.name == 'page_r18_40k'
  chosen = common.parse_variant(config, 'r50', **choices)
  assert chosen == {'encoder': 'r50', 'steps': '', 'run': ''}
  assert config.name == 'page_r18_40k'


@pytest.mark.parametrize(
  ('module', 'variant', 'message'),
  [
    ('shapes_mnv2', 'smok', "variant 'smok' is unknown; this config has"),
    ('shapes_mnv2', 'smoke,', "variant '' is unknown"),
    ('voc_resnet', 'r50,r101', "'r50,r101' names two of r50, r101: give one"),
    ('cityscapes_lite', 'fpn,qat,smoke', "'smoke' starts from random weights"),
    ('camvid_mnv2_cut', 'qat,smoke', "'qat' from a trained"),
  ],
)
def test_wrong_variants_are_refused(module, variant, message):
  with pytest.raises(ValueError, match=message):
    get(module, variant)


def test_sizes():
  config = common.default_config()
  common.set_sizes(config, (769, 512))
  assert config.data.augment.random_crop.size == (769, 512)
  assert config.eval.window == (769, 512)
  assert config.eval.stride == (513, 341)
  assert config.eval.static_size == (769, 512)
  common.set_sizes(config, (480, 480), export=(520, 520))
  assert config.eval.static_size == (520, 520)


def test_multi_grid_takes_the_place_of_rates():
  config = get('cityscapes_resnet', 'r101,mg124')
  assert config.model.encoder.multi_grid_mode == 'replace'
  assert config.model.multi_grid == (1, 2, 4)
  assert config.model.output_stride == 16
  assert config.model.head.rates == (6, 12, 18)


@pytest.mark.parametrize('encoder', mmseg.ENCODERS)
def test_small_encoders_have_small_heads(encoder):
  config = common.default_config()
  mmseg.set_model(config, encoder)
  head, auxiliary = config.model.head, config.model.auxiliary
  channels = (
    head.channels,
    head.decoder_channels,
    head.low_level_channels,
    auxiliary.channels,
  )
  small = encoder in ('r18', 'r18b')
  assert channels == ((128, 128, 12, 64) if small else (512, 512, 48, 256))


def test_base_is_fresh_every_time():
  a, b = common.default_config(), common.default_config()
  a.optimizer.sgd.momentum = 0.0
  assert b.optimizer.sgd.momentum == 0.9
