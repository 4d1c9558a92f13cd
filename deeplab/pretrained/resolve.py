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
from deeplab.pretrained import published_weights
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.systems import detect


@dataclasses.dataclass(frozen=True)
class WeightsSpec:
  """What `config.init_from` names; what is unknown is ''.

  Attributes:
    system: the system that its names are of.
    path: file or work directory; '' for what is to be fetched.
    published: the published weights that they are.
  """

  system: str
  path: str
  published: published_weights.PublishedWeights | None


@dataclasses.dataclass(frozen=True)
class WeightsRequirements:
  """What weights expect of a config.

  Attributes:
    normalization: `config.data.mean` and `std`; None where they are unknown.
    bit_depth: bits a channel of the images that have these values.
    model: fields of config.model, by 'encoder.padding', that must be so.
    trained: fields that were so in training and may be changed.
  """

  normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
  bit_depth: int = 8
  model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LoadedWeights:
  """Weights that were read.

  Attributes:
    path: the file or work directory.
    tensors: by their names there.
    requirements: what they expect.
  """

  path: str
  tensors: merge.Tensors
  requirements: WeightsRequirements


def resolve_init_from(init_from: str) -> WeightsSpec:
  """Returns what `config.init_from` names.

  Raises:
    ValueError: it is neither published nor a path.
  """
  if init_from in published_weights.PUBLISHED_WEIGHTS:
    system = init_from.partition(':')[0]
    return WeightsSpec(
      system, '', published_weights.PUBLISHED_WEIGHTS[init_from]
    )
  system, colon, path = init_from.partition(':')
  if not colon or system not in detect.SYSTEMS:
    system, path = '', init_from
  path = tf_checkpoint.find_index_file(path) or path
  if not os.path.exists(path):
    raise ValueError(
      f'config.init_from={init_from!r} is neither a file or work directory nor '
      'a name of published weights; known are '
      f'{sorted(published_weights.PUBLISHED_WEIGHTS)}'
    )
  for name, origin in published_weights.PUBLISHED_WEIGHTS.items():
    if os.path.basename(path) == origin.filename:
      return WeightsSpec(name.partition(':')[0], path, origin)
  return WeightsSpec(system, path, None)


def describe_init_from(init_from: str) -> str:
  """Returns a line that says which weights a run would start from.

  Raises:
    ValueError: as `resolve_init_from`.
  """
  place = resolve_init_from(init_from)
  if place.published is None:
    return f'weights of {place.path}'
  path = place.path or fetch.cache_path(place.published)
  where = 'at' if os.path.exists(path) else 'to be fetched to'
  return (
    f'weights {init_from} of {place.published.url} '
    f'({place.published.licence}), '
    f'{where} {path}'
  )


def read_weights(spec: WeightsSpec) -> LoadedWeights:
  """Reads the weights, and fetches them before if need be.

  Raises:
    ValueError: the file is damaged, foreign or not the one published.
    OSError: it cannot be read or fetched.
  """
  if os.path.isdir(spec.path):
    loaded = workdir_lib.load_trained_model(spec.path)
    # Ranges of simulated int8 are calibrated anew.
    trained = {k: loaded.variables[k] for k in ('params', 'batch_stats')}
    return LoadedWeights(
      spec.path,
      merge.flatten_variables(trained),
      _requirements_of_config(loaded.config.to_dict()),
    )
  if spec.published is None:
    expected = WeightsRequirements()
    if spec.path.endswith('.safetensors'):
      config = safetensors.read_metadata(spec.path).get('config')
      expected = (
        _requirements_of_config(json.loads(config)) if config else expected
      )
    return LoadedWeights(spec.path, dispatch.read_tensors(spec.path), expected)
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
  names = {'encoder.name': published.encoder}
  if published.head:
    names['head.name'] = published.head
  return WeightsRequirements(
    published.normalization,
    model={**names, **published.model},
    trained=published.trained,
  )


def _requirements_of_config(config: dict[str, Any]) -> WeightsRequirements:
  """Returns what weights expect that a run with a config of ours made."""
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
