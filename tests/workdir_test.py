"""The config of a work directory, older configs, and the run record."""

import json
import subprocess

import jax
import pytest

from configs import common
from configs import shapes_mnv2
from configs.recipes import folder
from deeplab import workdir as workdir_lib
from tests import runs

FIELDS = (
  workdir_lib._OLDER_RUN_VALUES | workdir_lib._OLDER_RUN_COPIES
)  # by path

# Fields of the first version, which every run has.
FIRST_FIELDS = {
  '': 'accumulate_steps batch_size ema_decay epochs log_every_steps name seed '
  'total_steps',
  'checkpoint.': 'every_steps keep_best keep_latest',
  'data.': 'cache data_dir eval_split mean name prefetch root std threads '
  'train_split',
  'data.augment.': 'ops',
  'eval.': 'batch_size boundary_share every_epochs flip mode pad_multiple '
  'scales static_size stride window',
  'loss.': 'auxiliary_weight class_weights normalizer',
  'model.': 'auxiliary.name depthwise dtype encoder.name head.name multi_grid '
  'output_stride pointwise',
  'optimizer.': 'clip_norm decay_mask encoder_multiplier learning_rate name '
  'weight_decay',
  'schedule.': 'name warmup_steps',
}
# A section of these is read where a config names it, as older runs do not.
NAMED_SECTIONS = ('data.augment', 'loss', 'optimizer', 'schedule')


def _full_config():
  return json.loads(common.default_config().to_json_best_effort())


def _section(config, field):
  """Returns the section that a field stands in, and the field's name."""
  *sections, name = field.split('.')
  for section in sections:
    config = config[section]
  return config, name


def _write(workdir, config):
  (workdir / 'config.json').write_text(json.dumps(config))


def _mark_as_saved(workdir):
  (workdir / 'checkpoints' / '5').mkdir(parents=True)


@pytest.mark.parametrize('field', sorted(FIELDS))
def test_a_field_that_an_older_run_lacks_is_filled_in(tmp_path, field):
  config = _full_config()
  config['optimizer']['head_multiplier'] = 2.0
  section, name = _section(config, field)
  del section[name]
  _write(tmp_path, config)
  filled = workdir_lib.read_config(str(tmp_path))
  section, _ = _section(filled, field)
  expected = workdir_lib._OLDER_RUN_VALUES.get(field, 2.0)
  assert section[name] == expected
  default, _ = _section(common.default_config(), field)
  assert type(section[name]) is type(default[name])
  assert filled.is_locked


def _field_paths(section, prefix=''):
  for name, value in section.items():
    if isinstance(value, dict):
      yield from _field_paths(value, f'{prefix}{name}.')
    else:
      yield prefix + name


def test_every_new_field_says_what_older_runs_did():
  """Otherwise today's default would silently change a resumed run."""
  first = {
    section + name
    for section, names in FIRST_FIELDS.items()
    for name in names.split()
  }
  unknown = [
    field
    for field in _field_paths(_full_config())
    if field not in first | set(FIELDS)
    and field.rpartition('.')[0].rpartition('.')[0] not in NAMED_SECTIONS
  ]
  assert not unknown, (
    'add what runs without the field did to _OLDER_RUN_VALUES of '
    f'deeplab/workdir.py: {unknown}'
  )


def test_an_older_run_is_what_it_was(tmp_path, caplog):
  """Not what today's defaults are: nobody equalized it."""
  config = _full_config()
  del config['quantization']
  del config['model']['resize_ratio']
  config['model']['resize_steps'] = 1
  _write(tmp_path, config)
  with caplog.at_level('INFO'):
    filled = workdir_lib.read_config(str(tmp_path))
    workdir_lib.read_config(str(tmp_path))
  assert not filled.quantization.calibration.equalize
  assert common.default_config().quantization.calibration.equalize
  assert filled.quantization.calibration.rounding == 'nearest'
  assert filled.quantization.name == 'none'
  assert filled.model.resize_ratio == 0
  assert 'resize_steps' not in filled.model
  # One line, though the config is read twice.
  (line,) = [r.message for r in caplog.records if 'older version' in r.message]
  assert 'model.resize_ratio=0' in line
  assert 'quantization.calibration.equalize=False' in line
  assert 'model.encoder' in line  # the defaults of its class
  assert 'optimizer' not in line


def test_a_complete_config_is_read_as_it_is(tmp_path, data_dir, caplog):
  config = runs.config(data_dir)
  workdir_lib.write_or_check_config(str(tmp_path), config)
  with caplog.at_level('INFO'):
    assert workdir_lib.read_config(str(tmp_path)) == config
  assert 'older version' not in caplog.text


def test_a_field_that_is_gone_is_refused(tmp_path):
  config = _full_config()
  config['model']['resize_steps'] = 2
  _write(tmp_path, config)
  with pytest.raises(
    ValueError, match='resize_steps": 2, a field that no long'
  ):
    workdir_lib.read_config(str(tmp_path))


def test_an_older_run_goes_on_as_it_was(tmp_path, data_dir):
  config = runs.config(data_dir)
  workdir = str(tmp_path)
  workdir_lib.write_or_check_config(workdir, config)
  stored = json.loads((tmp_path / 'config.json').read_text())
  del stored['quantization']['calibration']['equalize']
  del stored['eval']['fit']
  del stored['loss']['hardest']  # did not exist, so the run does not use it
  _write(tmp_path, stored)
  # Nothing was saved: the config is that of the command.
  assert workdir_lib.resume_config(workdir, config) is config
  _mark_as_saved(tmp_path)
  resumed = workdir_lib.resume_config(workdir, config)
  assert not resumed.quantization.calibration.equalize
  assert config.quantization.calibration.equalize
  assert resumed.is_locked
  workdir_lib.write_or_check_config(workdir, resumed)
  # From now on the stored config is complete.
  assert workdir_lib.read_config(workdir) == resumed
  # Other fields must be the same, also the names of new losses.
  other = runs.config(data_dir, loss__terms=('hardest',))
  with pytest.raises(
    ValueError, match=r"loss.terms: was .'cross_entropy'.*, is"
  ):
    workdir_lib.write_or_check_config(workdir, other)
  other = runs.config(data_dir, seed=1)
  with pytest.raises(ValueError, match='seed: was 0, is now 1'):
    workdir_lib.write_or_check_config(
      workdir, workdir_lib.resume_config(workdir, other)
    )


def test_a_finished_run_has_a_record(smoke_run):
  record = workdir_lib.read_run_record(smoke_run.workdir)
  assert record['name'] == 'shapes_mnv2_smoke'
  assert (record['step'], record['seed'], record['hosts']) == (6, 0, 1)
  assert record['devices'] == 2
  assert record['seconds'] > 0
  assert record['versions']['jax'] == jax.__version__
  assert record['metrics']['miou'] == smoke_run.metrics['miou']
  assert record['config_hash'] == workdir_lib.config_hash(smoke_run.config)


def test_hashes_depend_on_what_a_run_computes(data_dir):
  hashes = [
    workdir_lib.config_hash(runs.config(data_dir, **fields))
    for fields in (
      {},
      {'data__root': '/x', 'log_every_steps': 7, 'profile_steps': '1:2'},
      {'seed': 1},
    )
  ]
  assert hashes[0] == hashes[1] != hashes[2]
  assert len(hashes[0]) == 16


def test_the_revision_is_that_of_the_checkout():
  head = subprocess.run(
    ['git', 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False
  ).stdout.strip()
  found = workdir_lib.git_revision()
  assert found is None if not head else found.rstrip('+') == head


def test_an_unfinished_run_has_no_record(tmp_path):
  assert workdir_lib.read_run_record(str(tmp_path)) is None


def test_the_error_names_the_config_whose_classes_contradict_each_other():
  c = shapes_mnv2.get_config('smoke').unlock()
  folder.set_data(c)
  c.data.num_classes, c.data.class_names = 4, ('a', 'b')
  with pytest.raises(
    ValueError, match=r'^mine/config\.json is no .*class_names names 2 classes'
  ):
    workdir_lib.make_dataset('mine', c)
