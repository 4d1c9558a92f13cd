"""The start of a run that begins with trained weights."""

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

# How many images the BatchNorms of a folded file are measured on, at least.
# Means over whole images, behind image pooling, need that many.
BATCH_NORM_IMAGES = 256

# The kernel that reads the image.
_FIRST_KERNEL_PATTERN = (
  r'encoder/(stem|stem_1|stem/conv|block1_conv1|down1)/conv/kernel'
)


@dataclasses.dataclass(frozen=True)
class InitManifest:
  """What a run started from; it stands in the work directory.

  Attributes:
    init_from: as the config has it.
    init_skip: as the config has it.
    system: whose names the file has.
    path: the file or work directory that was read.
    sha256: of the file, of a TensorFlow checkpoint all of it one behind the
      other by name; '' for a work directory.
    url: where it was published, '' if that is unknown.
    licence: of the weights, '' if that is unknown.
    mean, std: how images are normalised for them, a value a channel; the
      config's where nothing is known.
    bgr: they read blue first, and their first kernel was turned round.
    padding: the encoder's, as the config has it; '' where it has no choice.
    variables: how many variables of ours got their values.
    measured: how many more, of folded BatchNorms, follow from training images.
    kept: paths of ours that kept their random start.
    unused: tensors of the file that nothing of ours took, renamed.
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
      f'{self.variables} variables start from {self.path} ({self.system}), '
      f'{self.measured} from training images and {len(self.kept)} at random; '
      f'{len(self.unused)} tensors of the file are unused'
    )


def write_manifest(workdir: str, manifest: InitManifest | None) -> None:
  """Writes init.json of a new run, or removes that of an earlier attempt.

  Args:
    workdir: the run's work directory.
    manifest: what it starts from; None for random weights.
  """
  path = os.path.join(workdir, 'init.json')
  if manifest is not None:
    text = json.dumps(dataclasses.asdict(manifest), indent=2)
    system.write_text(path, text + '\n')
  elif os.path.exists(path):
    os.remove(path)


def _values_differ(ours: Any, theirs: Any) -> bool:
  if isinstance(theirs, float):
    return not math.isclose(ours, theirs, rel_tol=1e-6)
  if isinstance(theirs, list | tuple):
    return tuple(ours) != tuple(theirs)
  return ours != theirs


def _mismatched_fields(config: ConfigDict, fields: dict[str, Any]) -> str:
  """Returns the fields of config.model that have other values, as text."""
  wrong = []
  for name, value in fields.items():
    *sections, field = name.split('.')
    section = config.model
    for part in sections:
      section = section[part]
    if field in section and _values_differ(section[field], value):
      wrong.append(f'config.model.{name}={value!r}')
  return ', '.join(wrong)


def _check_config(
  config: ConfigDict,
  requirements: resolve.WeightsRequirements,
  fields: dict[str, Any],
) -> None:
  """Refuses a config in which the weights would mean something else.

  Args:
    config: the experiment.
    requirements: what the weights expect.
    fields: of config.model, those of the parts that are imported.

  Raises:
    ValueError: which fields to set.
  """
  wrong = _mismatched_fields(config, fields)
  if wrong:
    raise ValueError(
      f'config.init_from={config.init_from!r} was trained in another network; '
      f'set {wrong}, or leave a whole part out, '
      "config.init_skip='(head|auxiliary)/.*'"
    )
  values = requirements.normalization
  # Of other images than those that the weights were trained on nothing is
  # known.
  if (
    values is not None
    and image_format.ImageSpec(len(values[0]), requirements.bit_depth)
    == image_format.image_spec(config.data)
    and not (
      np.allclose(config.data.mean, values[0], rtol=0.01, atol=0)
      and np.allclose(config.data.std, values[1], rtol=0.01, atol=0)
    )
  ):
    raise ValueError(
      f'config.init_from={config.init_from!r} expects images that are '
      f'normalised otherwise; set config.data.mean={values[0]}, '
      f'config.data.std={values[1]}'
    )
  other = _mismatched_fields(config, dict(requirements.trained))
  if other:
    logging.info('%s was trained with %s', config.init_from, other)


def _first_kernel_edits(bgr: bool, leaves: dict[str, Any]) -> dict[str, Any]:
  """Returns what is to be done with the first kernel."""

  def edit(channels):
    def function(kernel):
      if bgr:
        kernel = kernel[:, :, ::-1]
      if kernel.shape[2] != channels:
        kernel = merge.adapt_input_channels(kernel, channels)
      return kernel

    return function

  return {
    path: edit(leaf.shape[2])
    for path, leaf in leaves.items()
    if re.fullmatch(_FIRST_KERNEL_PATTERN, path)
  }


def _in_float32(model: Any) -> Any:
  """Returns the network computing in float32."""
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
  """Returns the variables with the BatchNorms restored; see `folded`."""
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
  """Returns the variables that a run starts from, where it names weights.

  Args:
    config: the experiment; see `places` for `config.init_from`. What the
      regular expression `config.init_skip` matches, paths of ours and tensors
      of the file, is left out.
    model: the `Segmenter` that it describes.
    variables: its random ones, {'params', 'batch_stats'}.
    batches: starts an endless stream of training batches of the whole run, the
      same on every host. Read for weights alone whose file has no BatchNorms.

  Returns:
    The variables, and what is to be known of where they come from.

  Raises:
    ValueError: the weights do not fit the network, or the config contradicts
      what they expect; the message says what to set.
    OSError: they cannot be read or fetched.
  """
  place = resolve.resolve_init_from(config.init_from)
  if place.published is not None:  # before it is fetched
    _check_config(
      config, resolve.WeightsRequirements(place.published.normalization), {}
    )
  weights = resolve.read_weights(place)
  if place.system:
    system = place.system
    match = detect.match_system(
      detect.SYSTEMS[system], weights.tensors, model, variables
    )
    if match is None:
      raise ValueError(
        f'config.init_from={config.init_from!r}: {system} names no encoder '
        f'like {config.model.encoder.name}'
      )
  else:
    system, match = detect.detect_system(weights.tensors, model, variables)
  leaves = merge.flatten_variables(variables)
  taken = {
    path: source.name
    for path, source in match.tensor_refs.items()
    if not merge.matches_pattern(config.init_skip, path)
  }
  parts = {path.partition('/')[0] for path in taken}
  fields = {**match.fields, **weights.requirements.model}
  values = weights.requirements.normalization or match.normalization
  _check_config(
    config,
    dataclasses.replace(weights.requirements, normalization=values),
    {k: v for k, v in fields.items() if k.partition('.')[0] in parts},
  )
  merged = merge.merge_tensors(
    variables,
    match.tensors,
    match.tensor_refs,
    unused=match.unused,
    skip=config.init_skip,
    edits=_first_kernel_edits(match.bgr, leaves),
  )
  measured: set[str] = set()
  if detect.SYSTEMS[system].batch_norms_folded:
    logging.info(
      '%s has its BatchNorms folded: restoring them from %d training images',
      weights.path,
      BATCH_NORM_IMAGES,
    )
    merged = _unfold_batch_norms(config, model, merged, batches, taken)
    measured = {
      path
      for path in leaves
      if re.sub(r'/(scale|mean|var)$', '/bias', path) in taken
    } - set(taken)
  mean, std = values or (config.data.mean, config.data.std)
  manifest = InitManifest(
    init_from=config.init_from,
    init_skip=config.init_skip,
    system=system,
    path=weights.path,
    sha256=_weights_digest(weights.path),
    url=place.published.url if place.published else '',
    licence=place.published.licence if place.published else '',
    mean=tuple(mean),
    std=tuple(std),
    bgr=match.bgr,
    padding=config.model.encoder.get('padding', ''),
    variables=len(taken),
    measured=len(measured),
    kept=tuple(sorted(set(leaves) - set(taken) - measured)),
    unused=tuple(sorted(set(match.tensors) - set(taken.values()))),
  )
  logging.info('%s', manifest)
  return merged, manifest
