"""What a finished run says about itself: `run.json` in its work directory."""

from collections.abc import Iterable
import contextlib
import hashlib
from importlib import metadata
import json
import os
import platform
import subprocess
from typing import Any

import jax

from deeplab import metrics as metrics_lib
from deeplab import parallel
from deeplab import workdir as workdirs

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tensorflow-datasets')


def config_hash(config: Any) -> str:
  """Returns 16 hexadecimal digits of a config.

  Fields that change how a run is carried out alone (paths, threads, logging)
  do not count; see `workdir.results`.
  """
  text = json.dumps(workdirs.results(config), sort_keys=True)
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


def versions(packages: Iterable[str]) -> dict[str, str]:
  """Returns the versions of those packages that are installed."""
  found = {}
  for name in packages:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[name] = metadata.version(name)
  return found


def write(
  workdir: str, *, step: int, seconds: float, metrics: dict[str, float]
) -> None:
  """Writes `run.json`: what was run, on what, how long, and what it scored.

  Args:
    workdir: of a run that is over.
    step: its last step.
    seconds: spent on steps and evaluations up to it, restarts added up.
    metrics: of its last evaluation; NaN becomes null.
  """
  config = workdirs.read_config(workdir)
  record = {
    'name': config.name,
    'config_hash': config_hash(config),
    'git_revision': git_revision(),
    'versions': {'python': platform.python_version(), **versions(_PACKAGES)},
    'device': jax.devices()[0].device_kind,
    'devices': parallel.device_count(),
    'hosts': jax.process_count(),
    'seed': config.seed,
    'step': step,
    'seconds': round(seconds, 1),
    'metrics': metrics_lib.jsonable(metrics),
  }
  text = json.dumps(record, indent=1, allow_nan=False)
  workdirs.write_text(path(workdir), text + '\n')


def path(workdir: str) -> str:
  """Returns where a run's record is."""
  return os.path.join(workdir, 'run.json')


def read(workdir: str) -> dict[str, Any] | None:
  """Returns the record of a finished run; None while there is none."""
  if not os.path.exists(path(workdir)):
    return None
  with open(path(workdir), encoding='utf-8') as f:
    return json.load(f)
