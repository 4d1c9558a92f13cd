"""Finds the network that weights belong to, and loads it with them.

A run's checkpoint comes with its config. A file of another framework holds
tensors alone: the names tell the weight system, and names and shapes tell the
network. Each system lists the candidates (`WeightSystem.candidates`): config
pages whose network, data set and evaluation protocol are those of the source.
The candidate that the tensors fit without one left over is the network; what no
tensor tells, such as atrous rates, comes from its page.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from absl import logging
import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from deeplab import parallel
from deeplab import workdir as workdir_lib
from deeplab.data import catalog
from deeplab.data import datasets
from deeplab.files import config_pages
from deeplab.files import config_schema
from deeplab.inference import load
from deeplab.models import registry
from deeplab.pretrained import merge
from deeplab.pretrained import model_folder
from deeplab.pretrained import resolve
from deeplab.pretrained import unfold_batch_norm
from deeplab.pretrained.readers import dispatch
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.readers import tflite_weights
from deeplab.pretrained.systems import detect
from deeplab.pretrained.systems import mapping

PyTree = Any

# Before the path of a .tflite file that LiteRT runs; `predict` reads it.
LITERT_PREFIX = 'litert:'
_FOLDER_PAGE = 'configs/folder_mnv2.py'  # a data set of any classes
# Data sets whose classes are assumed where only their number is known.
_LIKELY_DATASETS = {19: 'cityscapes', 21: 'voc', 150: 'ade20k'}


# Fields of config.model without effect on a trained network.
_OF_TRAINING = frozenset(
  [
    *('depthwise', 'pointwise', 'remat', 'frozen_norms', 'unbiased_variance'),
    *('classifier_stddev', 'head.dropout', 'head.aspp_dropout'),
    *('head.dropout_channels', 'encoder.bn_decay', 'head.bn_decay'),
  ]
)


class DoesNotFit(ValueError):
  """The weights are of another network than a candidate."""


@dataclasses.dataclass(frozen=True)
class _File:
  """A weight file.

  Attributes:
    name: how the user named it.
    path: its path.
    tensors: its tensors by name.
    requirements: what is known of it.
    sizes: sizes of its maps, for a file with a graph.
    system: weight system that the user or the published table names; ''.
  """

  name: str
  path: str
  tensors: merge.Tensors
  requirements: resolve.WeightsRequirements
  sizes: mapping.LayerSizes
  system: str


def load_model(
  weights: str, checkpoint: str = 'best', config: ConfigDict | None = None
) -> workdir_lib.TrainedModel:
  """Loads a trained model, wherever it comes from.

  Args:
    weights: a published name ('torchvision:deeplabv3_resnet50'), a file of
      weights, the work directory of a run, the folder of a saved model, or
      'hf:USER/MODEL' for one of the Hugging Face Hub.
    checkpoint: 'best' or 'latest', of a run.
    config: the experiment that a file of weights belongs to, where its tensors
      do not tell.

  Raises:
    ValueError: there is no such model, or it is damaged, or the weights are no
      segmentation network's, or fit several; or this process was forked from
      one that has used a model.
    OSError: the weights cannot be read or downloaded.
  """
  parallel.refuse_fork()
  if weights.startswith(LITERT_PREFIX):
    raise ValueError(
      f'{weights} runs a file as it is, for prediction only: where weights are '
      f'needed, name {weights.removeprefix(LITERT_PREFIX)}'
    )
  if load.is_exported_file(weights):
    raise ValueError(
      f'{weights} is an exported file: where weights are needed, name those '
      'that it was exported from'
    )
  if weights.startswith('hf:'):
    weights = model_folder.download_model_folder(weights.removeprefix('hf:'))
  weights = model_folder.folder_of(weights)
  if is_file_of_weights(weights):
    return load_weights(weights, config)
  if config is not None:
    raise ValueError(f'{weights} has a config of its own: leave --config out')
  if model_folder.is_model_folder(weights):
    return model_folder.read_model_folder(weights)
  return workdir_lib.load_trained_model(weights, checkpoint)


def load_model_for_data(
  weights: str, checkpoint: str, config: ConfigDict | None
) -> workdir_lib.TrainedModel:
  """Loads a model that is evaluated on the data set of a config.

  Weights that tell their network run in it: a config of the user's data has
  rates and strides of its own, which no tensor contradicts. The config's
  network is used where the weights do not tell, or fit several.

  Args:
    weights: as for `load_model`.
    checkpoint: as for `load_model`.
    config: gives the data set; None for the model's own.

  Raises:
    ValueError: as `load_model` does.
    OSError: the weights cannot be read or downloaded.
  """
  weights = model_folder.folder_of(weights)
  if config is None or not is_file_of_weights(weights):
    return load_model(weights, checkpoint)
  file, page = _read_file(weights)
  try:
    model = _find_model(file, page)
  except ValueError as error:
    try:
      return _load(file, config)
    except DoesNotFit:
      raise error from None
  other = sorted(
    f'model.{path}'
    for path, value in _flat_model(config).items()
    if _flat_model(model.config).get(path, value) != value
    and path not in _OF_TRAINING
  )
  if other:
    logging.warning(
      '%s runs in the network that it tells; only data and evaluation are '
      'those of %s, whose %s differ%s',
      *(weights, config.name, ', '.join(other)),
      's' if len(other) == 1 else '',
    )
  return model


def _flat_model(config: ConfigDict) -> dict[str, Any]:
  """Returns the fields of config.model by 'head.rates'."""
  return config_schema.flatten(config.model.to_dict())


def is_file_of_weights(weights: str) -> bool:
  """Returns True for a published name or a file, which have no config."""
  return not weights.startswith(('hf:', LITERT_PREFIX)) and not (
    model_folder.is_model_folder(weights)
    or (os.path.isdir(weights) and not tf_checkpoint.find_index_file(weights))
  )


def is_run(weights: str) -> bool:
  """Returns True for the work directory of a run."""
  return not (
    weights.startswith(('hf:', LITERT_PREFIX))
    or is_file_of_weights(weights)
    or model_folder.is_model_folder(weights)
  )


def load_weights(
  weights: str, config: ConfigDict | None = None
) -> workdir_lib.TrainedModel:
  """Loads a network with weights of a published name or a file.

  Args:
    weights: a published name or a file, as in `config.init_from`.
    config: the experiment that the weights belong to; None to find it.

  Returns:
    The model; its step is None, and its data set gives the classes.

  Raises:
    ValueError: the weights are no segmentation network's, of several that fit
      none is certain, or they do not fit `config`.
    OSError: the weights cannot be read or downloaded.
  """
  file, page = _read_file(weights)
  return _find_model(file, page) if config is None else _load(file, config)


def _read_file(weights: str) -> tuple[_File, str]:
  """Reads a published name or a file; returns it and its page, '' if unknown.

  Raises:
    ValueError: it is an encoder alone, damaged, or unknown.
    OSError: the weights cannot be read or downloaded.
  """
  spec = resolve.resolve_init_from(weights, '--weights')
  published = spec.published
  if published is not None and not published.is_network:
    raise ValueError(
      f'{weights} holds the encoder {published.encoder} alone, without a '
      'segmentation head: it cannot predict, but a training run can start from '
      f'it (--config.init_from={weights})'
    )
  read = resolve.read_weights(spec)
  sizes: mapping.LayerSizes = {}
  if dispatch.find_format(read.path) == 'tflite':
    sizes = tflite_weights.read_layer_sizes(read.path)
  file = _File(
    weights, read.path, read.tensors, read.requirements, sizes, spec.system
  )
  return file, published.page if published is not None else ''


def _find_model(file: _File, page: str) -> workdir_lib.TrainedModel:
  """Loads a file into the network of its page, or the one that it fits.

  Raises:
    ValueError: none fits, or of several that fit none is certain.
  """
  if page:
    return _load(file, config_pages.load_page(page))
  models = list(_fitting_models(file))
  basename = os.path.basename(file.path)
  named = [
    fit for fit in models if fit[0].tag and fit[0].tag in basename
  ] or models
  default = [fit for fit in named if fit[0].is_default]
  if len(named) == 1:
    candidate, model = named[0]
    logging.info('%s: the network of %s', file.name, candidate.page)
    return model
  if len(default) == 1:
    candidate, model = default[0]
    others = [_choice(*fit) for fit in named if fit is not default[0]]
    logging.warning(
      '%s: assumed to be the network of %s, the default of the program that '
      'trained it, since the file does not tell; otherwise give %s',
      *(file.name, candidate.page, ' or '.join(others)),
    )
    return model
  pages = [_choice(*fit) for fit in named]
  raise ValueError(
    f'{file.name} fits several networks, which differ in what a file does not '
    f'tell (atrous rates, aligned corners): choose {" or ".join(pages)}'
  )


def _choice(
  candidate: mapping.Candidate, model: workdir_lib.TrainedModel
) -> str:
  """Returns the flags that choose a candidate."""
  choice = f'--config={candidate.page}'
  if 'num_classes' in config_pages.load_page(candidate.page).data:
    choice += f' --config.data.num_classes={model.dataset.info.num_classes}'
  return choice


def _fitting_models(
  file: _File,
) -> Iterator[tuple[mapping.Candidate, workdir_lib.TrainedModel]]:
  """Yields each candidate that the file fits, and its model.

  Raises:
    ValueError: there is none.
  """
  candidates = [
    (name, candidate)
    for name, system in detect.SYSTEMS.items()
    if file.system in ('', name)
    for candidate in system.candidates(file.tensors, file.sizes)
  ]
  if not candidates:
    names = ', '.join(list(file.tensors)[:3])
    raise ValueError(
      f'{file.name} holds {len(file.tensors)} tensors ({names}, ...) of no '
      'segmentation network that is recognized: if it is one, name its config '
      '(--config=PAGE); weights of an encoder or a classifier cannot predict, '
      f'but a training run can start from them (--config.init_from={file.name})'
    )
  problem: DoesNotFit | None = None
  fitting = 0
  for name, candidate in candidates:
    config = _candidate_config(file, name, candidate)
    try:
      model = _load(dataclasses.replace(file, system=name), config)
    except DoesNotFit as error:
      problem = error
      continue
    fitting += 1
    yield candidate, model
  if not fitting:
    assert problem is not None
    raise ValueError(
      f'{file.name} is almost the network of {candidates[-1][1].page}, but not '
      f'quite: {problem}'
    )


def _count_classes(file: _File, system: mapping.WeightSystem) -> int:
  """Returns the number of classes, which the last layer tells."""
  (classifier,) = (
    tensor
    for name, tensor in file.tensors.items()
    if merge.matches_pattern(system.classifier, name)
  )
  return classifier.shape[system.classifier_axis]


def _candidate_config(
  file: _File, name: str, candidate: mapping.Candidate
) -> ConfigDict:
  """Returns the config of a candidate for a file.

  Args:
    file: the file.
    name: its weight system.
    candidate: the page, and the fields that differ.
  """
  config = config_pages.load_page(candidate.page)
  config.init_from = ''
  with config.unlocked():
    _set_model_fields(config.model, candidate.model)
    _set_classes(config, _count_classes(file, detect.SYSTEMS[name]))
    if file.sizes:  # the file computes at one size, and so does its network
      config.eval.static_size = next(iter(file.sizes.values()))
      config.eval.mode = 'static'
    registry.fill_defaults(config.model)
  return config


def _set_model_fields(model: ConfigDict, fields: Mapping[str, Any]) -> None:
  """Sets fields of config.model by 'encoder.alpha', where they exist."""
  for slot, classes in registry.SLOTS.items():
    new = fields.get(f'{slot}.name')
    if new is not None and new != model[slot].name:
      model[slot] = ConfigDict(
        {'name': new, **_changed_fields(model[slot], classes, new)}
      )
  for path, value in fields.items():
    *sections, field = path.split('.')
    section = model
    for part in sections:
      section = section[part]
    if field in section or not sections:
      section[field] = value


def _changed_fields(
  section: ConfigDict, classes: Mapping[str, type[nn.Module] | None], new: str
) -> dict[str, Any]:
  """Returns the fields that a page changed, as far as another class has them.

  Args:
    section: the page's encoder or head.
    classes: classes of its slot by name.
    new: name of the other class.
  """
  old, cls = classes[section.name], classes[new]
  if cls is None or old is None:
    return {}
  defaults, known = registry.config_fields(old), registry.config_fields(cls)
  return {
    name: value
    for name, value in section.items()
    if name in known and value != defaults.get(name)
  }


def _set_classes(config: ConfigDict, count: int) -> None:
  """Makes the data set of a config one of `count` classes."""
  if catalog.info_for(config.data).num_classes == count:
    return
  likely = _LIKELY_DATASETS.get(count)
  if likely is not None:
    config.data.name = likely
    logging.info('%d classes: the names are those of %s', count, likely)
    return
  config.data = config_pages.load_page(_FOLDER_PAGE).unlock().data
  config.data.num_classes = count
  logging.info(
    '%d classes without names: --config=PAGE.py names a data set with them',
    count,
  )


def _abstract_variables(model: Any, channels: int) -> PyTree:
  """Returns zeros for all variables of a network, without computing it."""
  image = jax.ShapeDtypeStruct((1, 65, 65, channels), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _load(file: _File, config: ConfigDict) -> workdir_lib.TrainedModel:
  """Loads a file into the network of a config.

  Fields that the weight system requires, such as padding, are set.

  Raises:
    DoesNotFit: a tensor is missing, left over, or of another shape.
  """
  config = ConfigDict(config)
  dataset = datasets.Dataset(config.data)
  spec = dataset.spec
  num_classes = dataset.info.num_classes
  model = registry.build_model(config.model, num_classes)
  variables = _abstract_variables(model, spec.channels)
  name, match = _match(file, model, variables)
  built = config.model.to_dict()
  with config.unlocked():
    _set_model_fields(
      config.model,
      {
        **dict(file.requirements.trained),
        **match.fields,
        **dict(file.requirements.model),
      },
    )
    normalization = file.requirements.normalization or match.normalization
    if normalization is not None:
      config.data.mean, config.data.std = normalization
  if config.model.to_dict() != built:
    model = registry.build_model(config.model, num_classes)
    variables = _abstract_variables(model, spec.channels)
    _, match = _match(dataclasses.replace(file, system=name), model, variables)
  try:
    merged = merge.merge_tensors(
      variables,
      match.tensors,
      match.tensor_refs,
      unused=match.unused,
      edits=merge.first_kernel_edits(match.bgr, model, spec.channels),
    )
  except ValueError as error:
    raise DoesNotFit(str(error)) from None
  if detect.SYSTEMS[name].batch_norms_folded:
    merged = unfold_batch_norm.set_identity_batch_norms(
      model,
      merged,
      np.zeros((1, 65, 65, spec.channels), np.float32),
      [*match.tensor_refs],
    )
  return workdir_lib.TrainedModel(
    config.lock(), datasets.Dataset(config.data), merged, None, float('nan')
  )


def _match(
  file: _File, model: Any, variables: PyTree
) -> tuple[str, detect.SystemMatch]:
  """Returns the weight system of a file and its match with a network.

  Raises:
    DoesNotFit: the file is of another network.
  """
  name, match = file.system, None
  try:
    if not name:
      name, match = detect.detect_system(file.tensors, model, variables)
    else:
      match = detect.match_system(
        detect.SYSTEMS[name], file.tensors, model, variables
      )
  except ValueError as error:
    raise DoesNotFit(str(error)) from None
  whole = match is not None and any(
    path.startswith('head/') for path in match.tensor_refs
  )
  if match is None or not whole:
    raise DoesNotFit(
      f'{file.name} has no segmentation head for '
      f'{type(model.head).__name__}, or no {type(model.encoder).__name__}'
    )
  return name, match
