"""Ablation studies: a question and the training runs that answer it.

Each page under `ablations/` has `get_study(variant)`, which returns a `Study`:
a base config, axes along which fields vary, and seeds. Every combination of one
setting per axis and one seed is a run of `python -m deeplab.main`.

Every page has three variants: '' is the paper's setting, for accelerators;
'camvid' runs on two CPU cores; 'smoke' takes minutes on drawn shapes.
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
  """The config that all runs of a study share.

  Attributes:
    variant: one of `VARIANTS`.
    config: a config page, optionally with ':variant', as --config takes it.
    fixed: fields that every run sets to other values than the page.
    seeds: one run per setting and seed.
  """

  variant: str
  config: str
  fixed: Overrides
  seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a study.

  Attributes:
    id: name of its work directory.
    labels: its setting on each axis.
    seed: random seed.
    flags: flags of `deeplab.main` except --workdir and --config.init_from.
    init_from: id of the run whose weights this run starts from, or ''.
  """

  id: str
  labels: dict[str, str]
  seed: int
  flags: tuple[str, ...]
  init_from: str = ''


@dataclasses.dataclass(frozen=True)
class Study:
  """One question and the grid of runs that answers it.

  Attributes:
    name: the page's name.
    question: the question, one sentence.
    reference: published results as a Markdown table.
    base: the config that all runs share.
    grid: axis -> label of a setting -> fields. The first setting of each axis
      is the baseline.
    verdict: the conclusion from our runs; '' before there are any.
    init_from: labels (one per axis) of the setting whose weights all other
      settings start from, seed by seed; () if every run starts on its own.
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
    """Name and variant, joined by an underscore."""
    return '_'.join(filter(None, (self.name, self.base.variant)))

  def make_runs(self, extra: Sequence[str] = ()) -> list[Run]:
    """Returns all runs, ordered by seed, so that each setting is run early.

    Args:
      extra: further flags of `deeplab.main` for every run; they override
        the flags that all runs share.

    Raises:
      ValueError: a label cannot be a folder name, or an extra flag sets a field
        in which the runs differ.
    """
    given = {flag.partition('=')[0].removeprefix('--config.') for flag in extra}
    varied = {'seed'}.union(
      *(fields for axis in self.grid.values() for fields in axis.values())
    )
    if given & varied:
      raise ValueError(
        f'--config.{min(given & varied)} is an axis of the study {self.name} '
        'and cannot be set for all runs'
      )
    # absl concatenates a tuple flag that is given twice.
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
  """Loads the study 'FILE.py' or 'FILE.py:variant'.

  Raises:
    ValueError: there is no such page or variant.
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
  """Returns the config that `deeplab.main` builds from flags.

  Raises:
    ValueError: a flag is unknown.
    SystemExit: a config field or value is invalid; the message says which.
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
  """Returns the base of a variant of a study page.

  Args:
    variant: one of `VARIANTS`.
    paper: config of the paper's variant; '' is DeepLabV3+ with ResNet-50 at
      output stride 16 on VOC.

  Raises:
    ValueError: `variant` is unknown.
  """
  if variant == 'camvid':
    return StudyBase(
      variant, 'configs/camvid_mnv2.py:scratch', _CAMVID_OVERRIDES, (0, 1)
    )
  if variant == 'smoke':
    # Two seeds: the smallest number that has a standard deviation.
    return StudyBase(
      variant, 'configs/shapes_mnv2.py', _SHAPES_OVERRIDES, (0, 1)
    )
  if variant:
    raise ValueError(
      f'variant {variant!r} is unknown; known are {VARIANTS[1:]} and none'
    )
  if paper:
    return StudyBase(variant, paper, {}, (0, 1, 2))
  return StudyBase(
    variant, 'configs/voc_resnet.py:r50', _RESNET_OVERRIDES, (0, 1, 2)
  )


_RESNET_OVERRIDES = {'model.output_stride': 16, 'model.head.rates': (6, 12, 18)}

# About a minute per run on two cores, and far above chance.
_SHAPES_OVERRIDES = {
  'epochs': 4.0,
  'data.augment.ops': ('random_crop', 'random_flip'),
  'data.augment.random_crop.size': (128, 128),
}

# Under five minutes per run on two cores.
_CAMVID_OVERRIDES = {
  'model.encoder.alpha': 0.35,
  'data.augment.random_crop.size': (192, 192),
  'epochs': 12.0,
}


def without_decoder(study_base: StudyBase) -> Overrides:
  """Returns the overrides that turn a DeepLabV3+ base into a DeepLabV3.

  ASPP keeps the fields of the page, except for its rates, which the caller
  sets.
  """
  head = parse_config([f'--config={study_base.config}']).model.head
  own = set(registry.config_fields(registry.HEADS['deeplabv3'])) - {'rates'}
  kept = {f'model.head.{name}': head[name] for name in head if name in own}
  return {'model.head.name': 'deeplabv3', **kept}
