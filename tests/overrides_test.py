"""Every command refuses config fields on its command line that it ignores."""

import pathlib
import sys

from absl import flags
from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab import cli
from deeplab import main
from deeplab import predict
from deeplab.data import datasets
from deeplab.doctor import __main__ as doctor
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import scan
from experiments import device_search
from experiments.benchmarks import doctor as doctor_benchmark
from experiments.benchmarks import input as input_benchmark
from experiments.benchmarks import memory
from export import main as export_main
from export import sensitivity
from export.devices import fit
from export.devices import targets
from tests import configs_test
from tests import runs
from tests.data import conftest as data_conftest

ROOT = pathlib.Path(__file__).resolve().parent.parent


class _Stopped(Exception):
  """Raised in place of the work of a command, with the fields it reads."""


def run_main(values, flag):
  main._run(values, flag)


_READ_IN_EXPORTS = {
  *('data.root', 'data.eval_split', 'data.fallback', 'data.mean'),
  *('model.output_stride', 'model.dtype', 'model.encoder.alpha'),
  *('model.head.rates', 'eval.static_size'),
}
# Module by name; how it runs up to the config, its flags, and one field of each
# section that it reads. All other sections must be refused.
COMMANDS = {
  'deeplab.main': (run_main, main, (), None),
  'deeplab.main --dry_run': (run_main, main, ('--dry_run',), None),
  'deeplab.main --list': (run_main, main, ('--list',), set()),
  'deeplab.main --mode=evaluate': (
    run_main,
    main,
    ('--mode=evaluate',),
    {
      *('data.root', 'data.eval_split', 'data.fallback', 'eval.mode'),
      'eval.static_size',
    },
  ),
  'deeplab.main --mode=evaluate --weights': (
    run_main,
    main,
    ('--mode=evaluate', '--weights=a.pth'),
    {
      *('data.root', 'data.eval_split', 'data.fallback', 'data.mean'),
      *('eval.mode', 'eval.static_size', 'model.output_stride', 'model.dtype'),
      *('model.depthwise', 'model.encoder.alpha', 'model.head.rates'),
    },
  ),
  'deeplab.predict': (
    lambda values, flag: predict._run(values, flag),
    predict,
    ('--weights=a.pth', '--images=b.jpg', '--output=c'),
    {
      *('data.root', 'data.mean', 'eval.mode', 'eval.static_size'),
      *('model.output_stride', 'model.dtype', 'model.depthwise'),
      *('model.encoder.alpha', 'model.head.rates'),
    },
  ),
  'deeplab.doctor': (
    lambda values, flag: doctor._run(flag),
    doctor,
    (),
    {
      *('data.root', 'data.eval_split', 'data.augment.ops', 'data.mean'),
      *('data.augment.random_crop.size', 'batch_size', 'data.fallback'),
      *('loss.balance', 'optimizer.learning_rate', 'checkpoint.every_steps'),
      *('quantization.name', 'epochs', 'eval.every_epochs', 'log_every_steps'),
    },
  ),
  'export.main': (
    lambda values, flag: export_main._run(values, flag),
    export_main,
    ('--output=never',),
    {
      *('name', 'seed', 'data.root', 'data.mean', 'model.output_stride'),
      *('model.encoder.alpha', 'model.head.rates', 'eval.static_size'),
      *('quantization.weights', 'quantization.calibration.method'),
      'model.dtype',
    },
  ),
  'export.main --weights': (
    lambda values, flag: export_main._run(values, flag),
    export_main,
    ('--weights=a.pth', '--output=never'),
    _READ_IN_EXPORTS,
  ),
  'export.sensitivity': (
    lambda values, flag: sensitivity._run(values, flag),
    sensitivity,
    ('--weights=a.pth', '--output=never'),
    _READ_IN_EXPORTS,
  ),
  'experiments.device_search': (
    lambda values, flag: device_search._run(flag),
    device_search,
    (),
    {
      *('name', 'data.root', 'model.output_stride', 'model.encoder.alpha'),
      *('model.head.rates', 'eval.static_size'),
    },
  ),
  'experiments.benchmarks.memory': (
    lambda values, flag: memory._run(flag),
    memory,
    (),
    {
      *('name', 'seed', 'data.root', 'data.mean', 'data.augment.ops'),
      *('data.augment.random_crop.size', 'model.output_stride', 'batch_size'),
      *('model.encoder.alpha', 'model.head.rates', 'eval.static_size'),
      *('loss.balance', 'optimizer.learning_rate', 'schedule.poly.power'),
      *('quantization.name', 'quantization.weights', 'ema_decay'),
      'quantization.calibration.method',
    },
  ),
  'experiments.benchmarks.input': (
    lambda values, flag: input_benchmark._run(flag),
    input_benchmark,
    (),
    {
      *('data.root', 'data.eval_split', 'data.augment.ops', 'data.mean'),
      *('data.augment.random_crop.size', 'batch_size', 'seed', 'data.threads'),
      'data.fallback',
    },
  ),
  'experiments.benchmarks.doctor': (
    lambda values, flag: doctor_benchmark._run(flag),
    doctor_benchmark,
    (),
    {'data.root'},
  ),
}
# At least one field of each section of the config.
FIELDS = (
  *('name', 'seed', 'data.root', 'data.eval_split', 'data.mean'),
  *('data.threads', 'data.fallback', 'data.augment.ops'),
  *('data.augment.random_crop.size', 'model.output_stride', 'model.dtype'),
  *('model.depthwise', 'model.encoder.alpha', 'model.head.rates'),
  *('init_from', 'init_skip', 'quantization.name', 'quantization.weights'),
  *('quantization.calibration.method', 'quantization.range_decay'),
  *('loss.balance', 'loss.auxiliary_weight', 'batch_size', 'epochs'),
  *('optimizer.learning_rate', 'optimizer.adamw.b1', 'schedule.poly.power'),
  *('schedule.warmup_steps', 'ema_decay', 'early_stopping.metric'),
  *('max_minutes', 'eval.mode', 'eval.every_epochs', 'eval.static_size'),
  *('log_every_steps', 'profile_steps', 'checkpoint.every_steps'),
)


def test_the_table_has_every_command_with_a_config():
  defining = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for name in ('deeplab', 'export', 'experiments')
    for path in (ROOT / name).rglob('*.py')
    if 'DEFINE_config_file(' in path.read_text(encoding='utf-8')
  }
  # `study` parses flags of `deeplab.main`.
  assert defining - {'experiments.study'} == {
    name.split(' ')[0].replace('deeplab.doctor', 'deeplab.doctor.__main__')
    for name in COMMANDS
  }


def test_the_fields_cover_every_section():
  config = common.default_config()

  def sections(node, prefix=''):
    for key, value in node.items():
      if isinstance(value, ConfigDict):
        yield f'{prefix}{key}'
        yield from sections(value, f'{prefix}{key}.')

  # Sections of single ops, losses and such are selected by name; see below.
  expected = {
    section
    for section in sections(config)
    if section.count('.') == 0
    or section.split('.')[0] in ('model', 'quantization')
    or section == 'data.augment'
  }
  covered = {field.rpartition('.')[0] for field in FIELDS}
  assert expected - covered == {'model', 'model.auxiliary'} - covered


def reads(command, monkeypatch):
  """Returns the fields that a command says it reads."""
  run, module, arguments, _ = COMMANDS[command]

  def stop(flag, values=None, reads=None):
    raise _Stopped(reads)

  values = flags.FlagValues()
  if 'values' in module.define_flags.__code__.co_varnames:
    flag = module.define_flags(values)
    values(['command', '--config=configs/shapes_mnv2.py', *arguments])
  else:
    flag = None
  monkeypatch.setattr(cli, 'config_from_flag', stop)
  with pytest.raises(_Stopped) as stopped:
    run(values, flag)
  return stopped.value.args[0]


@pytest.mark.parametrize('command', COMMANDS)
def test_every_section_is_read_or_refused(command, monkeypatch):
  declared = reads(command, monkeypatch)
  config = common.finalize_config(common.default_config())
  accepted = set()
  for field in FIELDS:
    try:
      cli.check_overrides([field], config, declared)
    except ValueError as error:
      assert f'--config.{field} has no effect: this command' in str(error)
    else:
      accepted.add(field)
  expected = COMMANDS[command][3]
  if expected is None:
    expected = {*FIELDS}
  elif command == 'experiments.benchmarks.memory':
    expected = expected | {
      *('loss.auxiliary_weight', 'optimizer.adamw.b1', 'model.depthwise'),
      *('schedule.warmup_steps', 'quantization.range_decay'),
    }
  assert accepted == expected


@pytest.mark.parametrize(
  ('overrides', 'message'),
  [
    (
      ['loss.focal.gamma'],
      r'loss\.terms and loss\.auxiliary_terms .* no focal',
    ),
    (['optimizer.sgd.momentum'], r'optimizer\.name .* selects no sgd'),
    (['schedule.cosine.end'], 'selects no cosine'),
    (['data.augment.random_rotate.degrees'], 'selects no random_rotate'),
    (['optimizer.adamw.b1', 'data.augment.random_flip.probability'], ''),
    (['data.augment.random_crop.size'], ''),
  ],
)
def test_alternatives_that_are_not_selected_are_refused(overrides, message):
  config = common.finalize_config(common.default_config())
  if message:
    with pytest.raises(ValueError, match=message):
      cli.check_overrides(overrides, config, None)
  else:
    cli.check_overrides(overrides, config, None)


def test_the_command_line_says_it_in_one_sentence(tmp_path):
  """An export of an untrained model, told to start from a file."""
  values = flags.FlagValues()
  argv = [
    *('export', '--config=configs/shapes_mnv2.py:smoke', '--formats=float32'),
    *(f'--output={tmp_path / "out"}', '--config.init_from=/no/such/file'),
  ]
  flag = export_main.define_flags(values)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'argv', argv)
    values(argv)
    with pytest.raises(
      ValueError,
      match=r'^--config\.init_from names .*: pass --weights=/no/such/file$',
    ):
      export_main._run(values, flag)
  assert not (tmp_path / 'out').exists()


def declared_but_for(seen, declared):
  return sorted(field for field in seen if field not in declared)


def test_the_doctor_reads_what_it_says(tmp_path):
  for split in ('train', 'val'):
    for i in range(4):
      data_conftest.write_pair(tmp_path / 'raw' / split, f'{split}{i}', i)
  config = configs_test.get('folder_mnv2', 'smoke').unlock()
  config.data.root = str(tmp_path / 'raw')
  config.data.num_classes, config.data.ignore_label = 3, 11
  seen = set()
  spied = runs.Spy(config, seen)
  dataset = datasets.Dataset(spied.data)
  splits, issues = {}, []
  for split in (spied.data.train_split, spied.data.eval_split):
    splits[split], more = example_loader.list_examples(dataset, split)
    issues += more
  scans = scan.scan_splits(splits, dataset, 1)
  diagnosis.diagnose(scans, issues, datasets.resolve_config(spied), dataset)
  assert declared_but_for(seen, doctor._READ_FIELDS) == []
  assert {'loss.balance', 'batch_size', 'data.num_classes'} <= seen


def test_the_device_search_reads_what_it_says():
  seen = set()
  spied = runs.Spy(configs_test.get('shapes_mnv2', 'smoke'), seen)
  (candidate,) = device_search.iterate_candidates(spied)
  assert candidate.size == (64, 64)
  assert declared_but_for(seen, device_search._READ_FIELDS) == []


@pytest.mark.full
def test_the_device_search_does_not_depend_on_what_it_ignores():
  config = configs_test.get('shapes_mnv2', 'smoke')
  target = targets.get_target('stm32n6')
  limits = fit.memory_limits(target, None, None)
  (candidate,) = device_search.iterate_candidates(config)
  cost = device_search.estimate_cost(config, candidate, target, limits)
  ignored = ConfigDict(config)
  with ignored.unlocked():
    ignored.model.dtype = 'bfloat16'
    ignored.model.remat = 2
    ignored.model.frozen_norms = True
    ignored.model.depthwise = 'shifted'
    ignored.seed = 5
  again = device_search.estimate_cost(ignored, candidate, target, limits)
  assert again == cost
