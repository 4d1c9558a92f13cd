"""Initializes the variables of a run from pretrained weights."""

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Generator
import contextlib
import dataclasses
import glob
import itertools
import json
import math
import os
import re
from typing import Any

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from deeplab import system
from deeplab.data import image_format
from deeplab.pretrained import fetch
from deeplab.pretrained import merge
from deeplab.pretrained import resolve
from deeplab.pretrained import unfold_batch_norm
from deeplab.pretrained.systems import detect

PyTree = Any

# Minimum number of images that folded BatchNorms are estimated on. The
# BatchNorm behind image pooling sees one value per image and needs that many.
BATCH_NORM_IMAGES = 256


@dataclasses.dataclass(frozen=True)
class InitManifest:
  """The weights that a run started from, as init.json of the work directory.

  Attributes:
    init_from: `config.init_from`.
    init_skip: `config.init_skip`.
    system: the weight system whose names the file has.
    path: the file or work directory that was read.
    sha256: digest of the file, or of all files of a TensorFlow checkpoint
      concatenated in the order of their names; '' for a work directory.
    url: address of the published file, '' if unknown.
    licence: licence of the weights, '' if unknown.
    mean, std: normalization of images for the weights, one value per channel;
      the config's if theirs is unknown.
    bgr: the weights read BGR images, and the first kernel was reversed.
    padding: the encoder's padding; '' if it has no such field.
    variables: number of variables that were loaded.
    measured: number of further variables, of folded BatchNorms, that were
      estimated on training images.
    kept: our paths that kept their random initialization.
    unused: tensors of the file that no variable used, by their new names.
  """

  init_from: str
  init_skip: str
  system: str
  path: str
  sha256: str
  url: str
  licence: str
  mean: tuple[float, ...]
  std: tuple[float, ...]
  bgr: bool
  padding: str
  variables: int
  measured: int
  kept: tuple[str, ...]
  unused: tuple[str, ...]

  def __str__(self) -> str:
    return (
      f'{self.variables} variables are loaded from {self.path} '
      f'({self.system}), {self.measured} estimated on training images and '
      f'{len(self.kept)} initialized at random; {len(self.unused)} tensors of '
      'the file are unused'
    )


def write_manifest(workdir: str, manifest: InitManifest | None) -> None:
  """Writes init.json of a new run, or removes that of an earlier attempt.

  Args:
    workdir: the run's work directory.
    manifest: the manifest; None for random weights.
  """
  path = os.path.join(workdir, 'init.json')
  if manifest is not None:
    text = json.dumps(dataclasses.asdict(manifest), indent=2)
    system.write_text(path, text + '\n')
  elif os.path.exists(path):
    os.remove(path)


def _values_differ(value: Any, required: Any) -> bool:
  if isinstance(required, float):
    return not math.isclose(value, required, rel_tol=1e-6)
  if isinstance(required, list | tuple):
    return tuple(value) != tuple(required)
  return value != required


def _mismatched_fields(config: ConfigDict, fields: dict[str, Any]) -> str:
  """Returns required values that config.model does not have, as one text."""
  mismatched = []
  for name, value in fields.items():
    *sections, field = name.split('.')
    section = config.model
    for part in sections:
      section = section[part]
    if field in section and _values_differ(section[field], value):
      mismatched.append(f'config.model.{name}={value!r}')
  return ', '.join(mismatched)


def _check_config(
  config: ConfigDict,
  requirements: resolve.WeightsRequirements,
  fields: dict[str, Any],
) -> None:
  """Checks that the config meets the requirements of the weights.

  Args:
    config: the experiment.
    requirements: required normalization, and fields of training to log.
    fields: required fields of config.model, of the parts that are loaded.

  Raises:
    ValueError: a field has another value; the message says which to set.
  """
  mismatched = _mismatched_fields(config, fields)
  if mismatched:
    raise ValueError(
      f'config.init_from={config.init_from!r} was trained in another network; '
      f'set {mismatched}, or leave out a whole part by '
      "config.init_skip='(head|auxiliary)/.*'"
    )
  normalization = requirements.normalization
  # For images of another number of channels or bits the right normalization is
  # unknown.
  if (
    normalization is not None
    and image_format.ImageSpec(len(normalization[0]), requirements.bit_depth)
    == image_format.image_spec(config.data)
    and not (
      np.allclose(config.data.mean, normalization[0], rtol=0.01, atol=0)
      and np.allclose(config.data.std, normalization[1], rtol=0.01, atol=0)
    )
  ):
    raise ValueError(
      f'config.init_from={config.init_from!r} was trained with another '
      f'normalization; set config.data.mean={normalization[0]}, '
      f'config.data.std={normalization[1]}'
    )
  changed = _mismatched_fields(config, dict(requirements.trained))
  if changed:
    logging.info('%s was trained with %s', config.init_from, changed)


def _in_float32(model: Any) -> Any:
  """Returns the network with float32 as its compute dtype."""
  options = dataclasses.replace(model.encoder.options, dtype='float32')
  return model.clone(
    encoder=model.encoder.clone(options=options),
    head=model.head.clone(options=options),
  )


def _weights_digest(path: str) -> str:
  if os.path.isdir(path):
    return ''
  shards = glob.glob(f'{glob.escape(path.removesuffix(".index"))}.data-*')
  return fetch.sha256(*sorted([path, *shards]))


def _unfold_batch_norms(
  config: ConfigDict,
  model: Any,
  variables: PyTree,
  batches: Callable[[], Generator[dict[str, np.ndarray]]],
  paths: Collection[str],
) -> PyTree:
  """Returns the variables with folded BatchNorms restored on training images.

  `unfold_batch_norm` describes the method.
  """
  model = _in_float32(model)
  count = -(-BATCH_NORM_IMAGES // config.batch_size)
  with contextlib.closing(batches()) as stream:
    images = (batch['image'] for batch in itertools.islice(stream, count))
    first = next(images)
    variables = unfold_batch_norm.set_identity_batch_norms(
      model, variables, first, paths
    )
    return unfold_batch_norm.restore_batch_norms(
      model, variables, itertools.chain([first], images), paths
    )


def load_initial_variables(
  config: ConfigDict,
  model: Any,
  variables: PyTree,
  batches: Callable[[], Generator[dict[str, np.ndarray]]],
) -> tuple[PyTree, InitManifest]:
  """Loads the weights that `config.init_from` names into the variables.

  Args:
    config: the experiment; `resolve` lists the values of `config.init_from`.
      Our paths and tensors of the file that the regular expression
      `config.init_skip` matches are left out.
    model: the `Segmenter` that the config describes.
    variables: its random variables, {'params', 'batch_stats'}.
    batches: starts an endless stream of training batches of the whole run, the
      same on every host. Only read if the file's BatchNorms are folded.

  Returns:
    The variables, and the manifest of the weights.

  Raises:
    ValueError: the weights do not fit the network, or the config does not meet
      their requirements; the message says which fields to set.
    OSError: the weights cannot be read or downloaded.
  """
  spec = resolve.resolve_init_from(config.init_from)
  if spec.published is not None:  # fails before the download
    _check_config(
      config, resolve.WeightsRequirements(spec.published.normalization), {}
    )
  weights = resolve.read_weights(spec)
  if spec.system:
    system = spec.system
    match = detect.match_system(
      detect.SYSTEMS[system], weights.tensors, model, variables
    )
    if match is None:
      raise ValueError(
        f'config.init_from={config.init_from!r}: the weight system {system} '
        f'has no mapping of the encoder {config.model.encoder.name}'
      )
  else:
    system, match = detect.detect_system(weights.tensors, model, variables)
  leaves = merge.flatten_variables(variables)
  loaded = {
    path: ref.name
    for path, ref in match.tensor_refs.items()
    if not merge.matches_pattern(config.init_skip, path)
  }
  parts = {path.partition('/')[0] for path in loaded}
  fields = {**match.fields, **weights.requirements.model}
  normalization = weights.requirements.normalization or match.normalization
  _check_config(
    config,
    dataclasses.replace(weights.requirements, normalization=normalization),
    {k: v for k, v in fields.items() if k.partition('.')[0] in parts},
  )
  merged = merge.merge_tensors(
    variables,
    match.tensors,
    match.tensor_refs,
    unused=match.unused,
    skip=config.init_skip,
    edits=merge.first_kernel_edits(
      match.bgr, model, image_format.image_spec(config.data).channels
    ),
  )
  estimated: set[str] = set()
  if detect.SYSTEMS[system].batch_norms_folded:
    logging.info(
      '%s has folded BatchNorms: restoring them on %d training images',
      weights.path,
      BATCH_NORM_IMAGES,
    )
    merged = _unfold_batch_norms(config, model, merged, batches, loaded)
    estimated = {
      path
      for path in leaves
      if re.sub(r'/(scale|mean|var)$', '/bias', path) in loaded
    } - set(loaded)
  mean, std = normalization or (config.data.mean, config.data.std)
  manifest = InitManifest(
    init_from=config.init_from,
    init_skip=config.init_skip,
    system=system,
    path=weights.path,
    sha256=_weights_digest(weights.path),
    url=spec.published.url if spec.published else '',
    licence=spec.published.licence if spec.published else '',
    mean=tuple(mean),
    std=tuple(std),
    bgr=match.bgr,
    padding=config.model.encoder.get('padding', ''),
    variables=len(loaded),
    measured=len(estimated),
    kept=tuple(sorted(set(leaves) - set(loaded) - estimated)),
    unused=tuple(sorted(set(match.tensors) - set(loaded.values()))),
  )
  logging.info('%s', manifest)
  return merged, manifest
