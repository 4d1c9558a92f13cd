"""A work directory: what one run leaves, and how to read it.

config.json     the full config
run.json        what the finished run was and scored, in short
init.json       what weights it started from, if any
metrics.jsonl   one object a line: step, split, metrics by name
checkpoints/    one folder a step
eval/           the last evaluation: metrics, confusion matrix, pictures
events.*        TensorBoard
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import hashlib
from importlib import metadata
import json
import os
import platform
import subprocess
from typing import Any

from absl import logging
import jax
from ml_collections import ConfigDict

from deeplab import parallel
from deeplab import system
from deeplab.data import datasets
from deeplab.training import checkpoints

PyTree = Any

# Fields that change how a run is carried out, not what it computes, or when it
# ends: a run may be resumed with others.
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

# (section, field) that runs of older versions lack.
_REQUIRED_FIELDS = (
  ('model', 'resize_ratio'),
  ('quantization', 'wide_layers'),
  ('quantization.calibration', 'equalize'),
)


@dataclasses.dataclass(frozen=True)
class TrainedModel:
  """A trained model as it lies in a work directory.

  Attributes:
    config: the run's config, locked.
    dataset: the run's data set.
    variables: {'params', 'batch_stats'} of NumPy arrays, and 'quant_stats'
      where the run simulated int8.
    step: the checkpoint's step.
    miou: its mIoU while training, NaN if it was not evaluated.
  """

  config: ConfigDict
  dataset: datasets.Dataset
  variables: PyTree
  step: int
  miou: float


def config_path(workdir: str) -> str:
  """Returns the path of the run's config."""
  return os.path.join(workdir, 'config.json')


def checkpoint_dir(workdir: str) -> str:
  """Returns the folder of the run's checkpoints."""
  return os.path.join(workdir, 'checkpoints')


def _lists_to_tuples(value: Any) -> Any:
  """JSON has lists; configs have tuples."""
  if isinstance(value, list):
    return tuple(_lists_to_tuples(v) for v in value)
  if isinstance(value, dict):
    return {k: _lists_to_tuples(v) for k, v in value.items()}
  return value


def read_config(workdir: str) -> ConfigDict:
  """Reads the config that the run in `workdir` was started with.

  Raises:
    FileNotFoundError: no run was started there.
    ValueError: the run is older than fields that configs have now.
  """
  path = config_path(workdir)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'{path} does not exist: {workdir!r} is not the work directory of a run; '
      'name one with --workdir (a run prints its own when it starts)'
    )
  with open(path, encoding='utf-8') as f:
    config = ConfigDict(_lists_to_tuples(json.load(f))).lock()
  for section, field in _REQUIRED_FIELDS:
    found = config
    for name in section.split('.'):
      found = found.get(name, {})
    if field not in found:
      raise ValueError(
        f'{path} has no "{section}.{field}": an older version trained this '
        'run; train it again, or use that version'
      )
  return config


def _flatten_config(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
  leaves = {}
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      leaves.update(_flatten_config(value, f'{prefix}{key}.'))
    else:
      leaves[prefix + key] = _lists_to_tuples(json.loads(json.dumps(value)))
  return leaves


def result_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields that change what a run computes, by their paths."""
  leaves = _flatten_config(config)
  return {
    k: v for k, v in leaves.items() if not k.startswith(_NON_RESULT_FIELDS)
  }


def write_or_check_config(
  workdir: str, config: ConfigDict, *, write: bool = True
) -> None:
  """Writes the config to a new work directory, or checks it against the old.

  A run that has saved nothing yet binds nobody: its config is replaced.

  Args:
    workdir: the run's.
    config: the run's.
    write: False only checks; one process of several writes.

  Raises:
    ValueError: another config's run is there.
  """
  if os.path.exists(config_path(workdir)) and checkpoints.has_checkpoint(
    checkpoint_dir(workdir)
  ):
    old, new = result_fields(read_config(workdir)), result_fields(config)
    changed = [
      f'{k}: {old.get(k, "absent")!r} there, {new.get(k, "absent")!r} now'
      for k in sorted(old | new)
      if old.get(k) != new.get(k)
    ]
    if changed:
      raise ValueError(
        f'{workdir} holds a run of another config ({"; ".join(changed)}); '
        'choose another --workdir, or remove that one'
      )
  if not write:
    return
  text = json.dumps(config.to_dict(), indent=2, sort_keys=True)
  system.write_text(config_path(workdir), text + '\n')
  logging.info('All fields of the config: %s', config_path(workdir))


def load_trained_model(workdir: str, which: str = 'best') -> TrainedModel:
  """Reads the model of a run.

  Args:
    workdir: the run's work directory.
    which: 'best' or 'latest' checkpoint.

  Raises:
    FileNotFoundError: no run, or no checkpoint, is there.
  """
  config = read_config(workdir)
  variables, step, miou = checkpoints.load_variables(
    checkpoint_dir(workdir), which
  )
  return TrainedModel(
    config=config,
    dataset=datasets.Dataset(config.data),
    variables=variables,
    step=step,
    miou=miou,
  )


_RECORDED_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'numpy',
  'tensorflow-datasets',
)


def config_hash(config: Any) -> str:
  """Returns 16 hexadecimal digits of a config.

  Fields that change how a run is carried out alone (paths, threads, logging)
  do not count; see `result_fields`.
  """
  text = json.dumps(result_fields(config), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def git_revision() -> str | None:
  """Returns the commit that the code is of; None outside a checkout.

  It ends with '+' where tracked files were changed since.
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
  """Returns the versions of those packages that are installed."""
  found = {}
  for name in packages:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[name] = metadata.version(name)
  return found


def write_run_record(
  workdir: str, *, step: int, seconds: float, metrics: dict[str, float]
) -> None:
  """Writes `run.json`: what was run, on what, how long, and what it scored.

  Args:
    workdir: of a run that is over.
    step: its last step.
    seconds: spent on steps and evaluations up to it, restarts added up.
    metrics: of its last evaluation; NaN becomes null.
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
  text = json.dumps(record, indent=1, allow_nan=False)
  system.write_text(run_record_path(workdir), text + '\n')


def run_record_path(workdir: str) -> str:
  """Returns where a run's record is."""
  return os.path.join(workdir, 'run.json')


def read_run_record(workdir: str) -> dict[str, Any] | None:
  """Returns the record of a finished run; None while there is none."""
  if not os.path.exists(run_record_path(workdir)):
    return None
  with open(run_record_path(workdir), encoding='utf-8') as f:
    return json.load(f)
