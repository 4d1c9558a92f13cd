"""Small training runs, and a config that records which fields are read."""

import dataclasses

from ml_collections import ConfigDict

from configs import shapes_mnv2
from deeplab import train


class Spy(ConfigDict):
  """A config that records the paths of the fields that are read."""

  def __init__(self, config, seen, prefix=''):
    super().__init__()
    for key, value in config.items():
      path = f'{prefix}{key}'
      nested = isinstance(value, ConfigDict)
      self[key] = Spy(value, seen, f'{path}.') if nested else value
    object.__setattr__(self, '_seen', (seen, prefix))

  def __getitem__(self, key):
    value = super().__getitem__(key)
    recorder = self.__dict__.get('_seen')
    if recorder is not None and not isinstance(value, ConfigDict):
      recorder[0].add(f'{recorder[1]}{key}')
    return value


def leaves(config, prefix=''):
  """Returns the paths of all fields."""
  paths = set()
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      paths |= leaves(value, f'{prefix}{key}.')
    else:
      paths.add(f'{prefix}{key}')
  return paths


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished small run.

  Attributes:
    workdir: its work directory.
    config: its config.
    read: paths of the config's fields that training read.
    metrics: the metrics that `train` returned.
  """

  workdir: str
  config: ConfigDict
  read: frozenset[str]
  metrics: dict[str, float]


def config(data_dir, **fields):
  """Returns the smoke config with `section__field=value` overrides."""
  c = shapes_mnv2.get_config('smoke').unlock()
  c.data.data_dir = data_dir
  for path, value in fields.items():
    *sections, name = path.split('__')
    section = c
    for part in sections:
      section = section[part]
    section[name] = value
  return c.lock()


def smoke(workdir, data_dir, **fields):
  """Trains the smoke config, and records which fields it reads."""
  c = config(data_dir, **fields)
  seen = set()
  spied = Spy(c, seen)
  # Writing config.json reads every field, which does not count.
  write = train.workdir_lib.write_or_check_config
  train.workdir_lib.write_or_check_config = lambda where, _, **fields: write(
    where, c, **fields
  )
  try:
    metrics = train.train(spied, workdir)
  finally:
    train.workdir_lib.write_or_check_config = write
  return Run(workdir, c, frozenset(seen), metrics)
