"""What `config.init_from` may name, and what is known of it.

    torchvision:resnet50      published weights, see `origins`
    /path/to/weights.pth      a file; its names say of which system
    torchvision:/path/x.pth   the same, where the system is to be said
    /path/model.ckpt-30000    a TensorFlow checkpoint, or the folder of one
    runs/cityscapes/1         a work directory: its best checkpoint

A file with the name of published weights is taken for them.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
from typing import Any

from deeplab import workdir as workdir_lib
from deeplab.pretrained import fetch
from deeplab.pretrained import merge
from deeplab.pretrained import published
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.systems import detect


@dataclasses.dataclass(frozen=True)
class Place:
  """What `config.init_from` names; what is unknown is ''.

  Attributes:
    system: the system that its names are of.
    path: file or work directory; '' for what is to be fetched.
    origin: the published weights that they are.
  """

  system: str
  path: str
  origin: published.Origin | None


@dataclasses.dataclass(frozen=True)
class Expected:
  """What weights expect of a config.

  Attributes:
    values: `config.data.mean` and `std`; None where they are unknown.
    depth: bits a channel of the images that have these values.
    model: fields of config.model, by 'encoder.padding', that must be so.
    trained: fields that were so in training and may be changed.
  """

  values: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  depth: int = 8
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights that were read.

  Attributes:
    path: the file or work directory.
    tensors: by their names there.
    expected: what they expect.
  """

  path: str
  tensors: merge.Tensors
  expected: Expected


def find(init_from: str) -> Place:
  """Returns what `config.init_from` names.

  Raises:
    ValueError: it is neither published nor a path.
  """
  if init_from in published.ORIGINS:
    system = init_from.partition(':')[0]
    return Place(system, '', published.ORIGINS[init_from])
  system, colon, path = init_from.partition(':')
  if not colon or system not in detect.SYSTEMS:
    system, path = '', init_from
  path = tf_checkpoint.find(path) or path
  if not os.path.exists(path):
    raise ValueError(
      f'config.init_from={init_from!r} is neither a file or work directory nor '
      f'a name of published weights; known are {sorted(published.ORIGINS)}'
    )
  for name, origin in published.ORIGINS.items():
    if os.path.basename(path) == origin.file:
      return Place(name.partition(':')[0], path, origin)
  return Place(system, path, None)


def describe(init_from: str) -> str:
  """Returns a line that says which weights a run would start from.

  Raises:
    ValueError: as `find`.
  """
  place = find(init_from)
  if place.origin is None:
    return f'weights of {place.path}'
  path = place.path or fetch.cache_path(place.origin)
  where = 'at' if os.path.exists(path) else 'to be fetched to'
  return (
    f'weights {init_from} of {place.origin.url} ({place.origin.licence}), '
    f'{where} {path}'
  )


def read(place: Place) -> Weights:
  """Reads the weights, and fetches them before if need be.

  Raises:
    ValueError: the file is damaged, foreign or not the one published.
    OSError: it cannot be read or fetched.
  """
  if os.path.isdir(place.path):
    loaded = workdir_lib.load(place.path)
    # Ranges of simulated int8 are calibrated anew.
    trained = {k: loaded.variables[k] for k in ('params', 'batch_stats')}
    return Weights(
      place.path,
      merge.flatten(trained),
      _of_config(loaded.config.to_dict()),
    )
  if place.origin is None:
    expected = Expected()
    if place.path.endswith('.safetensors'):
      config = safetensors.metadata(place.path).get('config')
      expected = _of_config(json.loads(config)) if config else expected
    return Weights(place.path, dispatch.read(place.path), expected)
  path = place.path
  if path:
    fetch.check(path, place.origin)
  else:
    path = fetch.fetch(place.origin)
  return Weights(path, dispatch.read(path), _of_origin(place.origin))


def _of_origin(origin: published.Origin) -> Expected:
  names = {'encoder.name': origin.encoder}
  if origin.head:
    names['head.name'] = origin.head
  return Expected(
    origin.values, model={**names, **origin.model}, trained=origin.trained
  )


def _of_config(config: dict[str, Any]) -> Expected:
  """Returns what weights expect that a run with a config of ours made."""
  model = {
    f'encoder.{name}': value
    for name, value in config['model']['encoder'].items()
    if name not in ('bn_decay', 'tap', 'freeze_norm')
  }
  for name in ('name', 'bn_epsilon', 'align_corners'):
    model[f'head.{name}'] = config['model']['head'][name]
  return Expected(
    (tuple(config['data']['mean']), tuple(config['data']['std'])),
    config['data'].get('depth', 8),
    model,
    {'output_stride': config['model']['output_stride']},
  )
