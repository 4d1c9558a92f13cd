import glob
import importlib
import os
import re

import jax
import pytest

from configs import common
from deeplab import describe
from deeplab import train
from deeplab.data import catalog
from deeplab.models import registry

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODULES = sorted(
  os.path.basename(path)[:-3]
  for path in glob.glob(os.path.join(ROOT, 'configs', '*.py'))
  if os.path.basename(path) not in ('__init__.py', 'common.py')
)
VARIANTS = {
  'folder_mnv2': ('', 'camvid', 'smoke'),
  'shapes_mnv2': ('', 'smoke'),
  'voc_mnv2': ('', 'smoke'),
  'voc_xception': ('', 'smoke'),
}
CASES = [(m, v) for m in VARIANTS for v in VARIANTS[m]]


def get(module, variant):
  return importlib.import_module(f'configs.{module}').get_config(variant)


def test_every_config_is_in_the_table():
  assert sorted(VARIANTS) == MODULES


@pytest.mark.parametrize(('module', 'variant'), CASES)
def test_configs_are_locked_pages(module, variant):
  config = get(module, variant)
  assert config.is_locked
  with pytest.raises((AttributeError, KeyError)):
    config.learning_rat = 1.0
  page = importlib.import_module(f'configs.{module}').__doc__
  for heading in ('What:', 'Command:', 'Cost:', 'Expected:', 'Variants:'):
    assert heading in page
  for word in filter(None, VARIANTS[module]):
    assert re.search(rf'Variants:[^:]*\b{word}\b', page, re.S)


@pytest.mark.parametrize(('module', 'variant'), CASES)
def test_configs_make_a_step(module, variant):
  """Traced at the sizes that the config trains at."""
  config = get(module, variant)
  classes = catalog.info_for(config.data).num_classes
  _, _, _, step = train.build_step(config, classes, 10, None)
  size = tuple(config.data.augment.random_crop.size)
  state, batch = describe.abstract(config, classes, size)
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
    lambda x: x.shape, state
  )
  assert metrics['loss'].shape == ()


@pytest.mark.parametrize(('module', 'variant'), CASES)
def test_configs_name_every_field(module, variant):
  model = get(module, variant).model
  assert set(model.encoder) == {
    'name',
    *registry.fields(registry.ENCODERS[model.encoder.name]),
  }
  assert set(model.head) == {
    'name',
    *registry.fields(registry.HEADS[model.head.name]),
  }


def test_unknown_variant_is_refused():
  with pytest.raises(ValueError, match=r"variant 'smok' is unknown"):
    get('shapes_mnv2', 'smok')


def test_base_is_fresh_every_time():
  a, b = common.base(), common.base()
  a.optimizer.sgd.momentum = 0.0
  assert b.optimizer.sgd.momentum == 0.9
