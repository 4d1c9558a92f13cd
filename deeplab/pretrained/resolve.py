"""Resolves `config.init_from` to a file or a run, and reads its tensors.

    torchvision:resnet50      published weights (`published_weights`)
    /path/to/weights.pth      a file; its system is detected by its names
    torchvision:/path/x.pth   the same, with the system given
    /path/model.ckpt-30000    a TensorFlow checkpoint, its folder, a SavedModel
    runs/cityscapes/1         a work directory: its best checkpoint
    models/mine               a folder of `model_folder`

A file with the file name of published weights is treated as these weights.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import json
import os
from typing import Any

import numpy as np

from deeplab import workdir as workdir_lib
from deeplab.files import config_pages
from deeplab.pretrained import fetch
from deeplab.pretrained import merge
from deeplab.pretrained import model_folder
from deeplab.pretrained import published_weights
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.systems import detect


@dataclasses.dataclass(frozen=True)
class WeightsSpec:
  """The weights that `config.init_from` names.

  Attributes:
    system: the weight system given, one of `detect.SYSTEMS`; '' if unknown.
    path: file or work directory; '' if the file is to be downloaded.
    published: the entry of published weights; None if it is another file.
  """

  system: str
  path: str
  published: published_weights.PublishedWeights | None


@dataclasses.dataclass(frozen=True)
class WeightsRequirements:
  """The values of config fields that weights require.

  Attributes:
    normalization: `config.data.mean` and `std`; None where they are unknown.
    bit_depth: bits per channel of the images with this normalization.
    model: required fields of config.model, by 'encoder.padding'.
    trained: fields of config.model in training, which may be changed.
  """

  normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  bit_depth: int = 8
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
  """The tensors of a file or run, and what they require.

  Attributes:
    path: the file or work directory.
    tensors: tensors by their names in the file.
    requirements: required config fields.
  """

  path: str
  tensors: merge.Tensors
  requirements: WeightsRequirements


def resolve_init_from(
  init_from: str, option: str = 'config.init_from'
) -> WeightsSpec:
  """Resolves the value of `config.init_from`, or of --weights.

  Args:
    init_from: the value.
    option: its name in error messages.

  Raises:
    ValueError: it is neither a name of published weights nor a path.
  """
  if init_from in published_weights.PUBLISHED_WEIGHTS:
    system = init_from.partition(':')[0]
    return WeightsSpec(
      system, '', published_weights.PUBLISHED_WEIGHTS[init_from]
    )
  system, colon, path = init_from.partition(':')
  if not colon or system not in detect.SYSTEMS:
    system, path = '', init_from
  path = model_folder.folder_of(tf_checkpoint.find_index_file(path) or path)
  if not os.path.exists(path):
    similar = difflib.get_close_matches(
      init_from, published_weights.PUBLISHED_WEIGHTS, 3
    )
    raise ValueError(
      f'{option}={init_from!r} is neither a file or folder nor a name of '
      'published weights'
      + (f': did you mean {" or ".join(similar)}?' if similar else '')
      + ' (python -m deeplab.main --list shows all names)'
    )
  for name, published in published_weights.PUBLISHED_WEIGHTS.items():
    if os.path.basename(path) == published.filename:
      return WeightsSpec(name.partition(':')[0], path, published)
  return WeightsSpec(system, path, None)


def describe_init_from(init_from: str) -> str:
  """Returns a line that describes the weights a run would start from.

  Raises:
    ValueError: it is neither a name of published weights nor a path.
  """
  spec = resolve_init_from(init_from)
  if spec.published is None:
    return f'weights of {spec.path}'
  path = spec.path or fetch.cache_path(spec.published)
  location = 'at' if os.path.exists(path) else 'to be downloaded to'
  return (
    f'weights {init_from} of {spec.published.url} '
    f'({spec.published.licence}), {location} {path}'
  )


def read_weights(spec: WeightsSpec) -> LoadedWeights:
  """Reads the weights, after a download if they are published and not cached.

  Raises:
    ValueError: the file is damaged, of an unknown format, or its digest is not
      the published one.
    OSError: the file cannot be read or downloaded.
  """
  if os.path.isdir(spec.path):
    loaded = (
      model_folder.read_model_folder(spec.path)
      if model_folder.is_model_folder(spec.path)
      else workdir_lib.load_trained_model(spec.path)
    )
    # Activation ranges of simulated int8 are left out: they are calibrated
    # again.
    trained = {k: loaded.variables[k] for k in ('params', 'batch_stats')}
    return LoadedWeights(
      spec.path,
      merge.flatten_variables(trained),
      _requirements_of_config(loaded.config.to_dict()),
    )
  if spec.published is None:
    tensors = dispatch.read_tensors(spec.path)  # refuses what is no such file
    requirements = WeightsRequirements()
    if dispatch.find_format(spec.path) == 'safetensors':
      config = safetensors.read_metadata(spec.path).get('config')
      if config:
        requirements = _requirements_of_metadata(spec.path, config)
    return LoadedWeights(spec.path, tensors, requirements)
  path = spec.path
  if path:
    fetch.check_digest(path, spec.published)
  else:
    path = fetch.fetch_weights(spec.published)
  return LoadedWeights(
    path,
    dispatch.read_tensors(path),
    _requirements_of_published(spec.published),
  )


def _requirements_of_published(
  published: published_weights.PublishedWeights,
) -> WeightsRequirements:
  """Returns the requirements of published weights."""
  if published.page:
    return _requirements_of_config(
      config_pages.load_page(published.page).to_dict()
    )
  names = {'encoder.name': published.encoder}
  if published.head:
    names['head.name'] = published.head
  return WeightsRequirements(
    published.normalization,
    model={**names, **published.model},
    trained=published.trained,
  )


def _requirements_of_metadata(path: str, config: str) -> WeightsRequirements:
  """Returns the requirements of the config that a file of weights holds.

  Raises:
    ValueError: it is not the config of a run.
  """
  try:
    requirements = _requirements_of_config(json.loads(config))
    mean, std = requirements.normalization or ((), ())
    numbers = np.asarray([mean, std], np.float64)
    if not (np.isfinite(numbers).all() and (numbers[1] > 0).all()):
      raise ValueError(f'data.mean {mean}, data.std {std}')
  except (
    *(AttributeError, KeyError, OverflowError),
    *(RecursionError, TypeError, ValueError),
  ) as e:
    raise ValueError(
      f'{path}: its metadata holds a damaged config of the run that it comes '
      f'from ({e!r}); write it again with python -m deeplab.pretrained.save'
    ) from e
  return requirements


def _requirements_of_config(config: dict[str, Any]) -> WeightsRequirements:
  """Returns the requirements of the weights of a run with this config."""
  model = {
    f'encoder.{name}': value
    for name, value in config['model']['encoder'].items()
    if name not in ('bn_decay', 'tap', 'freeze_norm')
  }
  for name in ('name', 'bn_epsilon', 'align_corners'):
    model[f'head.{name}'] = config['model']['head'][name]
  return WeightsRequirements(
    (tuple(config['data']['mean']), tuple(config['data']['std'])),
    config['data'].get('depth', 8),
    model,
    {'output_stride': config['model']['output_stride']},
  )
