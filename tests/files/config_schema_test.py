"""Stored configs: every field has a schema, every damage a sentence."""

import json
import re

import pytest

from configs import common
from deeplab import workdir as workdir_lib
from deeplab.files import config_schema
from tests import configs_test
from tests import damaged_json
from tests import runs


@pytest.mark.parametrize(('module', 'variant'), configs_test.CASES)
def test_configs_of_all_pages_are_valid(module, variant):
  config = configs_test.get(module, variant)
  fields = config_schema.flatten(json.loads(json.dumps(config.to_dict())))
  checked = config_schema.check_config(fields)
  assert checked == fields
  for path, value in checked.items():
    assert type(value) is type(fields[path]), path
  known = {p for p in fields if not p.startswith('model.')}
  assert known - set(config_schema.FIELDS) == set()
  assert config_schema.unflatten(fields) == json.loads(
    json.dumps(config.to_dict())
  )


def test_every_field_of_the_schema_exists():
  config = common.default_config()
  needless = set(config_schema.FIELDS) - runs.leaves(config)
  assert needless == set(config_schema._OF_DATA_SETS)


def _is_harmless(name, config):
  """Returns True for a change to a value that the field may have.

  Sections that the config does not select may be absent.
  """
  place = name.split(' ')[0]
  unselected = {
    config_schema.alternative_section(path) for path in config_schema.FIELDS
  } - config_schema.selected_sections(config_schema.flatten(config))
  if any(f'{place}.'.startswith(f'{x}.') for x in unselected if x):
    return True
  in_list = place.split('.')[-1].isdigit()
  return name.endswith(('= 12.5', '= "text"', '= true', '= []')) or (
    in_list and name.endswith('deleted')
  )


def _check_damages(tmp_path, caplog, step):
  """Reads damaged configs; returns how many were refused."""
  config = configs_test.get('shapes_mnv2', 'smoke').to_dict()
  config = json.loads(json.dumps(config))
  path = tmp_path / 'config.json'
  refused = 0
  for name, content in list(damaged_json.damages(config))[::step]:
    path.write_bytes(content)
    workdir_lib._log_older_values.cache_clear()
    caplog.clear()
    with caplog.at_level('INFO'):
      try:
        found = workdir_lib.read_config(str(tmp_path)).to_dict()
      except ValueError as error:
        assert str(path) in str(error), f'{name}: {error}'
        assert '\n' not in str(error), f'{name}: {error}'
        refused += 1
        continue
    same = json.loads(json.dumps(found)) == config
    # Fields that older runs lack are filled in, and a line says so.
    said = str(path) in caplog.text
    assert same or said or _is_harmless(name, config), name
  return refused


def test_a_damaged_config_is_named_or_changes_nothing(tmp_path, caplog):
  assert _check_damages(tmp_path, caplog, 11) > 200


@pytest.mark.full
def test_every_damage_of_a_config(tmp_path, caplog):
  assert _check_damages(tmp_path, caplog, 1) > 3000


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('', 'is damaged, it is not valid JSON (it is empty)'),
    ('{"name": "a", ', 'is damaged, it is not valid JSON (Expecting property'),
    ('[]', 'is no config of a run, or is damaged (it must be an object)'),
    ('{"model_type": "bert"}', 'is damaged (it lacks name, seed, data.name'),
    ('{"a": {"b.c": 1}}', "is damaged ('b.c' is no name of a field)"),
  ],
)
def test_other_files_are_named(tmp_path, content, message):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(ValueError, match=re.escape(message)) as raised:
    workdir_lib.read_config(str(tmp_path))
  assert str(tmp_path / 'config.json') in str(raised.value)


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('eval.pad_multiple', 10**9, 'eval.pad_multiple must be smaller than or'),
    ('eval.fit', (512,), 'eval.fit must NOT match'),
    ('eval.scales', (), 'eval.scales must contain at least 1'),
    ('data.std', (1.0,) * 4, 'data.mean and data.std have different lengths'),
    ('model.encoder.alpha', '1', 'model.encoder.alpha must be like 1.0'),
    ('model.head.name', 'x', "model.head.name is 'x', of"),
    ('name', '../../x', 'name must match pattern'),
    ('early_stopping', None, 'early_stopping must be a section'),
    ('seed', {'x': 1}, 'seed must be a field, not a section'),
  ],
)
def test_values_are_checked(tmp_path, path, value, message):
  config = configs_test.get('shapes_mnv2', '').to_dict()
  *sections, name = path.split('.')
  section = config
  for part in sections:
    section = section[part]
  section[name] = value
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=re.escape(message)):
    workdir_lib.read_config(str(tmp_path))


@pytest.mark.parametrize(
  'field', ['num_classes', 'ignore_label', 'class_names', 'color_map']
)
def test_a_folder_has_its_classes(tmp_path, field):
  config = configs_test.get('folder_mnv2', '').to_dict()
  del config['data'][field]
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match=rf'config.json .*it lacks data.{field}'):
    workdir_lib.read_config(str(tmp_path))


def test_classes_that_contradict_each_other_are_named(tmp_path, monkeypatch):
  config = configs_test.get('folder_mnv2', '').to_dict()
  config['data'] |= {'num_classes': 2, 'class_names': ['a', 'b', 'c', 'd']}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  monkeypatch.setattr(
    workdir_lib.checkpoints, 'load_variables', lambda *_: ({}, 1, 0.5)
  )
  with pytest.raises(ValueError, match=r'config.json .*class_names names 4'):
    workdir_lib.load_trained_model(str(tmp_path))


def test_whole_floats_are_whole_numbers(tmp_path):
  config = configs_test.get('shapes_mnv2', '').to_dict()
  config['eval']['window'] = [96.0, 64.0]
  config['epochs'] = 3
  (tmp_path / 'config.json').write_text(json.dumps(config))
  found = workdir_lib.read_config(str(tmp_path))
  assert repr(found.eval.window) == '(96, 64)'
  assert repr(found.epochs) == '3.0'
