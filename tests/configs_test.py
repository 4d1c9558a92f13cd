import collections
import glob
import importlib
import json
import os
import re

import jax
import pytest

from configs import common
from configs.recipes import mmseg
from deeplab import describe
from deeplab import train
from deeplab.data import augment
from deeplab.models import registry
from experiments import zoo

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = sorted(
  os.path.basename(path)[:-3]
  for path in glob.glob(os.path.join(ROOT, 'configs', '*.py'))
  if os.path.basename(path) not in ('__init__.py', 'common.py')
)


def _variants():
  """Returns the variants of each page: our own, the zoo's, and smoke."""
  variants = collections.defaultdict(list)
  for module, variant in (
    ('folder_mnv2', ''),
    ('folder_mnv2', 'imagenet'),
    ('camvid_mnv2', ''),
    ('camvid_mnv2', 'scratch'),
    ('pet_mnv2', ''),
    ('pet_mnv2', 'scratch'),
    ('shapes_mnv2', ''),
    ('voc_mnv2', ''),
    ('voc_xception', ''),
  ):
    variants[module].append(variant)
  for row in zoo.rows():
    path, _, variant = row.config.partition(':')
    variants[os.path.basename(path)[:-3]].append(variant)
  for module in variants:
    variants[module].append('smoke')
  return dict(variants)


VARIANTS = _variants()
CASES = [(m, v) for m in VARIANTS for v in VARIANTS[m]]
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


def get(module, variant):
  return importlib.import_module(f'configs.{module}').get_config(variant)


def _steps():
  """Returns a case for each step that differs from those before."""
  seen = set()
  for case in [*QUICK, *CASES]:
    config = get(*case)
    step = json.dumps(
      [
        *(config[part].to_dict() for part in ('model', 'loss', 'optimizer')),
        *(config.schedule.name, zoo.num_classes(config), config.batch_size),
      ]
    )
    if step not in seen:
      marks = () if case in QUICK else pytest.mark.full
      yield pytest.param(*case, marks=marks)
    seen.add(step)


def test_every_config_is_in_the_table():
  assert sorted(VARIANTS) == MODULES


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
  classes = zoo.num_classes(config)
  _, _, _, step = train.build_step(config, classes, 10, None)
  size = augment.output_size(config.data.augment) or (128, 128)
  state, batch = describe.abstract(config, classes, size)
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
    lambda x: x.shape, state
  )
  assert metrics['loss'].shape == ()


@pytest.mark.parametrize(('module', 'variant'), CASES)
def test_configs_name_every_field(module, variant):
  model = get(module, variant).model
  for slot, known in registry.SLOTS.items():
    cls = known[model[slot].name]
    assert set(model[slot]) == {'name', *(registry.fields(cls) if cls else ())}


def test_variants_choose_one_of_each():
  config = common.base()
  config.name = 'page'
  choices = {'encoder': ('r50', 'r18'), 'steps': ('', '40k'), 'run': ('', 'x')}
  chosen = common.choose(config, '40k,r18', **choices)
  assert chosen == {'encoder': 'r18', 'steps': '40k', 'run': ''}
  assert config.name == 'page_r18_40k'
  chosen = common.choose(config, 'r50', **choices)
  assert chosen == {'encoder': 'r50', 'steps': '', 'run': ''}
  assert config.name == 'page_r18_40k'


@pytest.mark.parametrize(
  ('module', 'variant', 'message'),
  [
    ('shapes_mnv2', 'smok', "variant 'smok' is unknown; this config has"),
    ('shapes_mnv2', 'smoke,', "variant '' is unknown"),
    ('voc_resnet', 'r50,r101', "'r50,r101' names two of r50, r101: give one"),
    ('cityscapes_resnet', 'r18,mg124', 'last stage of r18 has two'),
  ],
)
def test_wrong_variants_are_refused(module, variant, message):
  with pytest.raises(ValueError, match=message):
    get(module, variant)


def test_sizes():
  config = common.base()
  common.sizes(config, (769, 512))
  assert config.data.augment.random_crop.size == (769, 512)
  assert config.eval.window == (769, 512)
  assert config.eval.stride == (513, 341)
  assert config.eval.static_size == (769, 512)
  common.sizes(config, (480, 480), export=(520, 520))
  assert config.eval.static_size == (520, 520)


def test_multi_grid_takes_the_place_of_rates():
  config = get('cityscapes_resnet', 'r101,mg124')
  assert config.model.encoder.multi_grid_mode == 'replace'
  assert config.model.multi_grid == (1, 2, 4)
  assert config.model.output_stride == 16
  assert config.model.head.rates == (6, 12, 18)


@pytest.mark.parametrize('encoder', mmseg.ENCODERS)
def test_small_encoders_have_small_heads(encoder):
  config = common.base()
  mmseg.network(config, encoder)
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
  a, b = common.base(), common.base()
  a.optimizer.sgd.momentum = 0.0
  assert b.optimizer.sgd.momentum == 0.9
