"""A study: one question, and the runs that answer it.

A page under `ablations/` has `get_study(form)`, which returns a `Study`: a
config, the axes along which its fields vary, and seeds. Every combination of
one setting of each axis and one seed is a run of `python -m deeplab.main`.

Every page has three forms: '' is the paper's, for accelerators; 'camvid' is
small enough for two CPU cores; 'smoke' ends in minutes, on drawn shapes.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib.util
import itertools
import os
import re
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab import cli
from deeplab.models import registry

Overrides = Mapping[str, Any]

VARIANTS = ('', 'camvid', 'smoke')


@dataclasses.dataclass(frozen=True)
class StudyBase:
  """What all runs of a study start from.

  Attributes:
    variant: one of `VARIANTS`.
    config: a page, perhaps with ':variant', as --config takes it.
    fixed: fields that differ from the page's in every run.
    seeds: one run of each setting a seed.
  """

  variant: str
  config: str
  fixed: Overrides
  seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a study.

  Attributes:
    id: names its work directory.
    labels: its setting on each axis.
    seed: its seed.
    flags: of `deeplab.main`, but for the work directory and the start.
    init_from: id of the run whose weights this one goes on from, or ''.
  """

  id: str
  labels: dict[str, str]
  seed: int
  flags: tuple[str, ...]
  init_from: str = ''


@dataclasses.dataclass(frozen=True)
class Study:
  """One question, and the runs that answer it.

  Attributes:
    name: the page's name.
    question: what is asked.
    reference: what was published about it, as a Markdown table.
    base: what all runs start from.
    grid: the axes; each has settings, fields by label. The first setting of
      each axis is what the others are compared with.
    verdict: what our own runs said; '' before there are any.
    init_from: the labels, an axis each, of the setting whose weights all others
      go on from, seed by seed; () where each run has a start of its own.
  """

  name: str
  question: str
  reference: str
  base: StudyBase
  grid: Mapping[str, Mapping[str, Overrides]]
  verdict: str = ''
  init_from: tuple[str, ...] = ()

  @property
  def title(self) -> str:
    """The name with the form."""
    return '_'.join(filter(None, (self.name, self.base.variant)))

  def make_runs(self, extra: Sequence[str] = ()) -> list[Run]:
    """Returns all runs, seed by seed, so that early results are of each.

    Args:
      extra: further flags of `deeplab.main` for every run; they replace what
        all runs have in common.

    Raises:
      ValueError: a setting has a label that cannot name a folder, or `extra`
        gives a field in which the runs differ.
    """
    given = {flag.partition('=')[0].removeprefix('--config.') for flag in extra}
    varied = {'seed'}.union(
      *(fields for axis in self.grid.values() for fields in axis.values())
    )
    if given & varied:
      raise ValueError(
        f'--config.{min(given & varied)} is what the runs of the study '
        f'{self.name} differ in; it cannot be given for all of them'
      )
    # A tuple that is given twice would be as long as both.
    fixed = {k: v for k, v in self.base.fixed.items() if k not in given}
    runs = []
    for seed in self.base.seeds:
      for labels in itertools.product(*self.grid.values()):
        chosen = dict(zip(self.grid, labels, strict=True))
        for axis, label in chosen.items():
          if not re.fullmatch(r'[\w.+]+', label):
            raise ValueError(
              f'study {self.name}: {axis} has a setting {label!r}; use '
              'letters, digits, "_", "." and "+"'
            )
        fields = {**fixed, 'seed': seed}
        for axis, label in chosen.items():
          fields.update(self.grid[axis][label])
        runs.append(
          Run(
            '-'.join((*labels, f's{seed}')),
            chosen,
            seed,
            (
              f'--config={self.base.config}',
              *(f'--config.{name}={value}' for name, value in fields.items()),
              *extra,
            ),
            '-'.join((*self.init_from, f's{seed}'))
            if self.init_from and labels != self.init_from
            else '',
          )
        )
    return runs


def load_study(name: str) -> Study:
  """Returns the study of 'FILE.py' or 'FILE.py:form'.

  Raises:
    ValueError: there is no such page or form.
  """
  path, _, form = name.partition(':')
  if not os.path.isfile(path):
    raise ValueError(
      f'--study={name}: there is no file {path}; the studies are in '
      'experiments/ablations'
    )
  spec = importlib.util.spec_from_file_location('study_page', path)
  assert spec and spec.loader
  page = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(page)
  return page.get_study(form)


def parse_config(arguments: Sequence[str]) -> ConfigDict:
  """Returns the config that `deeplab.main` makes of these flags.

  Raises:
    ValueError: a flag is wrong.
    SystemExit: a field or a value is, in one sentence.
  """
  values = flags.FlagValues()
  argv = ['main', *arguments]
  flag = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  try:
    values(argv)
  except (AttributeError, KeyError, TypeError, flags.Error) as error:
    raise ValueError(f'{" ".join(arguments)}: {error}') from None
  chosen = cli.config_from_flag(flag, values)
  assert chosen is not None
  return chosen


def select_base(variant: str, paper: str = '') -> StudyBase:
  """Returns what a page's form starts from.

  Args:
    variant: one of `VARIANTS`.
    paper: the config of the paper's form; '' is DeepLabV3+ with ResNet-50 at
      output stride 16, on VOC.

  Raises:
    ValueError: another form.
  """
  if variant == 'camvid':
    return StudyBase(
      variant, 'configs/camvid_mnv2.py:scratch', _CAMVID_OVERRIDES, (0, 1)
    )
  if variant == 'smoke':
    # Two seeds, so that there is something to take a deviation of.
    return StudyBase(
      variant, 'configs/shapes_mnv2.py', _SHAPES_OVERRIDES, (0, 1)
    )
  if variant:
    raise ValueError(
      f'form {variant!r} is unknown; there are {VARIANTS[1:]} and none'
    )
  if paper:
    return StudyBase(variant, paper, {}, (0, 1, 2))
  return StudyBase(
    variant, 'configs/voc_resnet.py:r50', _RESNET_OVERRIDES, (0, 1, 2)
  )


_RESNET_OVERRIDES = {'model.output_stride': 16, 'model.head.rates': (6, 12, 18)}

# About a minute a run on two cores, and yet far from chance.
_SHAPES_OVERRIDES = {
  'epochs': 4.0,
  'data.augment.ops': ('random_crop', 'random_flip'),
  'data.augment.random_crop.size': (128, 128),
}

# Under five minutes a run on two cores.
_CAMVID_OVERRIDES = {
  'model.encoder.alpha': 0.35,
  'data.augment.random_crop.size': (192, 192),
  'epochs': 12.0,
}


def without_decoder(study_base: StudyBase) -> Overrides:
  """Returns what makes a DeepLabV3 of a base that is a DeepLabV3+.

  The pyramid keeps the page's fields; its rates are the caller's to give.
  """
  head = parse_config([f'--config={study_base.config}']).model.head
  own = set(registry.config_fields(registry.HEADS['deeplabv3'])) - {'rates'}
  kept = {f'model.head.{name}': head[name] for name in head if name in own}
  return {'model.head.name': 'deeplabv3', **kept}
