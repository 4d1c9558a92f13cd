"""The work directory of a run: its files, its config, its run record.

config.json     the full config
run.json        the run record: versions, devices, time, final metrics
init.json       the weights that it started from, if any
metrics.jsonl   one object a line: step, split, metrics by name
checkpoints/    one folder for each step
eval/           the last evaluation: metrics, confusion matrix, pictures
curves.png      loss, learning rate and scores by step
.lock           the process that trains here, while it does
events.*        TensorBoard
"""

from collections.abc import Iterable
import contextlib
import copy
import dataclasses
import functools
import hashlib
from importlib import metadata
import json
import os
import platform
import subprocess
import time
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from deeplab import parallel
from deeplab import system
from deeplab.data import datasets
from deeplab.files import config_schema
from deeplab.files import json_files
from deeplab.models import registry
from deeplab.training import checkpoints

PyTree = Any

# Files and folders of a run besides config.json.
_RUN_FILES = (
  *('run.json', 'init.json', 'metrics.jsonl', 'curves.png'),
  *('checkpoints', 'eval'),
)

# Fields that change how a run is executed or when it ends, not what it
# computes: a run may be resumed with other values.
_NON_RESULT_FIELDS = (
  'log_every_steps',
  'max_minutes',
  'profile_steps',
  'checkpoint.',
  'data.data_dir',
  'data.root',
  'data.threads',
  'data.prefetch',
  'data.cache',
)

# Fields that configs have gained, by the value that means "as it was before the
# field existed". It is not always today's default: runs older than the field
# for equalization were not equalized. A new field of `configs/common.py` needs
# a line here, unless it belongs to something new that a config selects by its
# name; without it, older runs cannot be resumed or exported.
_OLDER_RUN_VALUES: dict[str, Any] = {
  'data.fallback': '',
  'data.augment.shrink': 'area',
  'data.augment.nearest': 'center',
  'data.augment.fill': (),
  'data.augment.random_crop.padded': True,
  'model.resize_ratio': 0,
  'model.remat': 0,
  'model.frozen_norms': False,
  'model.unbiased_variance': False,
  'model.classifier_stddev': 0.0,
  'init_from': '',
  'init_skip': '',
  'quantization.name': 'none',
  'quantization.float_layers': '',
  'quantization.wide_layers': '',
  'quantization.weights': 'channel',
  'quantization.power_of_two': False,
  'quantization.calibration.images': 64,
  'quantization.calibration.method': 'mse',
  'quantization.calibration.percentile': 99.99,
  'quantization.calibration.equalize': False,
  'quantization.calibration.rounding': 'nearest',
  'quantization.frozen_norms': True,
  'quantization.range_decay': 0.99,
  'quantization.range_steps': 0,
  'loss.terms': ('cross_entropy',),
  'loss.auxiliary_terms': (),
  'loss.cross_entropy.weight': 1.0,
  'loss.balance': 0.0,
  'loss.balance_rule': 'inverse',
  'loss.weighted_steps': 1.0,
  'optimizer.head_multiplier': 1.0,
  'optimizer.bias_multiplier': 1.0,
  'optimizer.sgd.nesterov': False,
  'schedule.warmup_epochs': 0.0,
  'schedule.warmup': 'linear',
  'schedule.warmup_start': 0.0,
  'schedule.warmup_first': False,
  'early_stopping.metric': 'miou',
  'early_stopping.patience': 0,
  'early_stopping.min_delta': 0.0,
  'max_minutes': 0.0,
  'profile_steps': '',
  'eval.output_stride': 0,
  'eval.fit': (),
  'eval.resize_labels': False,
  'eval.loss': False,
  'eval.pad_offset': 0,
  'eval.pad_size': (),
  'eval.max_padding': 0.0,
}

# Fields that were split off another one, whose value they had.
_OLDER_RUN_COPIES = {
  'optimizer.auxiliary_multiplier': 'optimizer.head_multiplier'
}

# Fields that configs have lost, by the only value that today's code computes.
_REMOVED_FIELDS: dict[str, Any] = {'model.resize_steps': 1}


@dataclasses.dataclass(frozen=True)
class TrainedModel:
  """A trained model, of a work directory or a file of weights.

  Attributes:
    config: the run's config, locked.
    dataset: the run's data set.
    variables: {'params', 'batch_stats'} of NumPy arrays, and 'quant_stats'
      where the run simulated int8.
    step: number of steps taken; None for weights from elsewhere.
    miou: mIoU of the checkpoint's evaluation in training, NaN without one.
  """

  config: ConfigDict
  dataset: datasets.Dataset
  variables: PyTree
  step: int | None
  miou: float


def new_workdir(config: ConfigDict) -> str:
  """Returns a new path, runs/<config>/<time>, the same on all processes."""
  return parallel.text_of_first_host(
    os.path.join('runs', config.name, time.strftime('%Y%m%d-%H%M%S'))
  )


def config_path(workdir: str) -> str:
  """Returns the path of the run's config."""
  return os.path.join(workdir, 'config.json')


def checkpoint_dir(workdir: str) -> str:
  """Returns the folder of the run's checkpoints."""
  return os.path.join(workdir, 'checkpoints')


def _lists_to_tuples(value: Any) -> Any:
  """Converts the lists of JSON to the tuples that configs use."""
  if isinstance(value, list):
    return tuple(_lists_to_tuples(v) for v in value)
  if isinstance(value, dict):
    return {k: _lists_to_tuples(v) for k, v in value.items()}
  return value


def read_config(workdir: str) -> ConfigDict:
  """Reads the config that the run in `workdir` was started with.

  The run of an older version lacks fields that configs have now. They are given
  the values that mean "as it was before the field existed":
  `_OLDER_RUN_VALUES`, and, for fields of encoders and heads, the default of the
  class, which must be how the class behaved before it had the field. One line
  of the log lists them.

  Args:
    workdir: the work directory.

  Returns:
    The config, locked.

  Raises:
    FileNotFoundError: no run was started there.
    ValueError: config.json is damaged or of another kind, or the run used a
      field that no longer exists.
  """
  return _read_and_fill_config(workdir)[0]


@functools.cache  # a command reads the config more than once
def _log_older_values(path: str, values: str) -> None:
  """Logs once which fields of an older config were filled in."""
  logging.info(
    '%s is of an older version; fields that it lacks keep the behavior of that '
    'version: %s',
    path,
    values,
  )


def _read_and_fill_config(workdir: str) -> tuple[ConfigDict, dict[str, Any]]:
  """Returns the locked config of a run, and the fields that it lacked."""
  path = config_path(workdir)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'{path} does not exist: {workdir!r} is not the work directory of a run, '
      'which a run prints when it starts'
    )
  remedy = 'restore it, or train in another --workdir'
  content = json_files.read_json(path, remedy)
  try:
    stored = config_schema.flatten(content)
  except ValueError as error:
    raise _config_error(path, error, remedy) from None
  for field, value in _REMOVED_FIELDS.items():
    if field not in stored:
      continue
    if stored[field] != value:
      raise ValueError(
        f'{path} has "{field}": {stored[field]!r}, a field that no longer '
        'exists: an older version trained this run; train it again, or use '
        'that version'
      )
    del stored[field]
  try:
    optional = {*_OLDER_RUN_VALUES, *_OLDER_RUN_COPIES}
    stored = config_schema.check_config(stored, optional)
  except ValueError as error:
    raise _config_error(path, error, remedy) from None
  config = ConfigDict(_lists_to_tuples(config_schema.unflatten(stored)))
  for field, value in _OLDER_RUN_VALUES.items():
    if field not in stored:
      _set_field(config, field, value)
  for field, original in _OLDER_RUN_COPIES.items():
    if field not in stored:
      _set_field(config, field, _flatten_config(config)[original])
  registry.fill_defaults(config.model)
  older_values = {
    field: value
    for field, value in _flatten_config(config).items()
    if field not in stored
  }
  if older_values:
    _log_older_values(
      path, ', '.join(f'{name}={v!r}' for name, v in older_values.items())
    )
  return config.lock(), older_values


def _config_error(path: str, error: Exception, remedy: str) -> ValueError:
  return ValueError(
    f'{path} is no config of a run, or is damaged ({error}): {remedy}'
  )


def _set_field(config: ConfigDict, field: str, value: Any) -> None:
  """Sets a field by its path; creates the sections that it stands in."""
  *sections, name = field.split('.')
  for section in sections:
    if section not in config:
      config[section] = ConfigDict()
    config = config[section]
  config[name] = value


def resume_config(workdir: str, config: ConfigDict) -> ConfigDict:
  """Returns the config with which the run in `workdir` resumes.

  A run of an older version keeps the settings it was trained with: fields that
  its stored config lacks take the values that `read_config` gives them. All
  other fields must be the same, which `write_or_check_config` checks.

  Args:
    workdir: the work directory; it may hold no run yet.
    config: the config that the command was given.

  Raises:
    ValueError: the folder holds files of other names or kinds, which a run
      would replace.
  """
  _check_is_run(workdir)
  if not _has_saved_run(workdir):
    return config
  _, older_values = _read_and_fill_config(workdir)
  if not older_values:
    return config
  given = _flatten_config(config)
  changed = {
    field: value
    for field, value in older_values.items()
    if field in given and given[field] != value
  }
  if not changed:
    return config
  config = copy.deepcopy(config)
  with config.unlocked():
    for field, value in changed.items():
      _set_field(config, field, value)
  return config


def _check_is_run(workdir: str) -> None:
  """Refuses a folder with files that a run would replace and did not write."""
  if os.path.lexists(config_path(workdir)):
    read_config(workdir)
    return
  for name in _RUN_FILES:
    path = os.path.join(workdir, name)
    if os.path.lexists(path):
      raise ValueError(
        f'{path} exists, and a run would replace it, but {workdir} is not the '
        'work directory of a run: choose another --workdir'
      )


def _has_saved_run(workdir: str) -> bool:
  """Returns True if `workdir` holds a config and a complete checkpoint."""
  return os.path.exists(config_path(workdir)) and checkpoints.has_checkpoint(
    checkpoint_dir(workdir)
  )


def _flatten_config(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
  """Returns the values of all fields by their paths, as JSON keeps them."""
  leaves = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      leaves.update(_flatten_config(value, f'{prefix}{key}.'))
    else:
      leaves[prefix + key] = _lists_to_tuples(json.loads(json.dumps(value)))
  return leaves


def result_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that change the result of a run, by their paths."""
  leaves = _flatten_config(config)
  return {
    k: v for k, v in leaves.items() if not k.startswith(_NON_RESULT_FIELDS)
  }


def write_or_check_config(
  workdir: str, config: ConfigDict, *, write: bool = True
) -> None:
  """Writes the config, unless `workdir` holds a run of another config.

  Until a checkpoint exists, the stored config may be overwritten.

  Args:
    workdir: the work directory.
    config: the config of the run.
    write: False only checks; of several processes one writes.

  Raises:
    ValueError: `workdir` holds a run whose config differs in a field that
      changes its result.
  """
  if _has_saved_run(workdir):
    old, new = result_fields(read_config(workdir)), result_fields(config)
    # Fields that only the new config has are of losses, schedules and ops that
    # did not exist yet. A run that uses one differs in the field that names it.
    changed = [
      f'{k}: was {old[k]!r}, is now {new.get(k, "absent")!r}'
      for k in sorted(old)
      if old[k] != new.get(k)
    ]
    if changed:
      raise ValueError(
        f'{workdir} holds a run of another config ({"; ".join(changed)}); '
        'choose another --workdir, or remove that one'
      )
  if not write:
    return
  system.write_text(config_path(workdir), config_text(config))
  logging.info('All fields of the config: %s', config_path(workdir))


def _warn_of_changed_config(workdir: str, config: ConfigDict) -> None:
  """Logs if the config of a finished run is not the one of its run record."""
  record = read_run_record(workdir)
  # Fields that an older run lacked when its record was written change the hash.
  _, older_values = _read_and_fill_config(workdir)
  if (
    record is not None
    and not older_values
    and record['config_hash'] != config_hash(config)
  ):
    logging.warning(
      '%s was changed since the run ended; results may differ from those of '
      'the run',
      config_path(workdir),
    )


def config_text(config: ConfigDict) -> str:
  """Returns the content of config.json."""
  return json.dumps(config.to_dict(), indent=2, sort_keys=True) + '\n'


def make_dataset(folder: str, config: ConfigDict) -> datasets.Dataset:
  """Returns the data set of a stored config.

  Args:
    folder: the work directory, or the folder of a model, that has the config.
    config: the config.

  Raises:
    ValueError: its data set is unknown, or its classes contradict each other;
      the message names the file.
  """
  try:
    return datasets.Dataset(config.data)
  except ValueError as error:
    raise _config_error(config_path(folder), error, 'restore it') from None


def load_trained_model(workdir: str, which: str = 'best') -> TrainedModel:
  """Reads the trained model of a run.

  Args:
    workdir: the work directory.
    which: 'best' or 'latest' checkpoint.

  Raises:
    FileNotFoundError: there is no run, or no checkpoint.
    ValueError: the run used a field that no longer exists, the checkpoint is
      damaged, or this process was forked from one that has used a model.
  """
  parallel.refuse_fork()
  config = read_config(workdir)
  _warn_of_changed_config(workdir, config)
  variables, step, miou = checkpoints.load_variables(
    checkpoint_dir(workdir), which
  )
  return TrainedModel(
    config=config,
    dataset=make_dataset(workdir, config),
    variables=variables,
    step=step,
    miou=miou,
  )


# Packages whose versions the run record lists.
_RECORDED_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'numpy',
  'tensorflow-datasets',
)


def config_hash(config: Any) -> str:
  """Returns a hash of a config, of 16 hexadecimal digits.

  Fields that only change how a run is executed (paths, threads, logging) do not
  count.
  """
  content = json.dumps(result_fields(config), sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()[:16]


def git_revision() -> str | None:
  """Returns the git commit of the code; None outside a checkout.

  It ends with '+' if tracked files differ from the commit.
  """
  folder = os.path.dirname(os.path.abspath(__file__))

  def git(*arguments: str) -> str | None:
    try:
      done = subprocess.run(
        ['git', *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
      )
    except OSError:
      return None
    return None if done.returncode else done.stdout.strip()

  revision = git('rev-parse', 'HEAD')
  changed = git('status', '--porcelain', '--untracked-files=no')
  return f'{revision}+' if revision and changed else revision


def package_versions(packages: Iterable[str]) -> dict[str, str]:
  """Returns the versions of the installed ones among `packages`."""
  versions = {}
  for name in packages:
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[name] = metadata.version(name)
  return versions


def write_run_record(
  workdir: str, *, step: int, seconds: float, metrics: dict[str, float]
) -> None:
  """Writes `run.json`: config, versions, devices, time and metrics of a run.

  Args:
    workdir: the work directory of a finished run.
    step: the last step.
    seconds: time spent on steps and evaluations, restarts added up.
    metrics: metrics of the last evaluation by name; NaN becomes null.
  """
  config = read_config(workdir)
  record = {
    'name': config.name,
    'config_hash': config_hash(config),
    'git_revision': git_revision(),
    'versions': {
      'python': platform.python_version(),
      **package_versions(_RECORDED_PACKAGES),
    },
    'device': jax.devices()[0].device_kind,
    'devices': parallel.device_count(),
    'hosts': jax.process_count(),
    'seed': config.seed,
    'step': step,
    'seconds': round(seconds, 1),
    'metrics': system.to_jsonable(metrics),
  }
  content = json.dumps(record, indent=1, allow_nan=False)
  system.write_text(run_record_path(workdir), content + '\n')


def run_record_path(workdir: str) -> str:
  """Returns the path of the run record."""
  return os.path.join(workdir, 'run.json')


_check_run_record = json_files.compile_schema(
  json_files.record(
    {
      'name': json_files.TEXT,
      'config_hash': json_files.TEXT,
      'device': json_files.TEXT,
      'devices': json_files.COUNT,
      'seed': json_files.COUNT,
      'step': json_files.COUNT,
      'seconds': json_files.NUMBER,
      'metrics': {
        'type': 'object',
        'additionalProperties': json_files.nullable(json_files.NUMBER),
      },
    }
  )
)


def read_run_record(workdir: str) -> dict[str, Any] | None:
  """Reads the record of a finished run; None if there is none.

  Raises:
    ValueError: run.json is damaged or of another kind.
  """
  path = run_record_path(workdir)
  if not os.path.exists(path):
    return None
  return json_files.read_checked_json(
    path, _check_run_record, 'remove it, and the run is finished again'
  )
