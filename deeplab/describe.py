"""Texts of `--list` (all choices) and `--dry_run` (the cost of a config)."""

from collections.abc import Mapping
import glob
import os

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from deeplab import networks
from deeplab import parallel
from deeplab import train
from deeplab.data import catalog
from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.models import profile
from deeplab.models import registry
from deeplab.pretrained import published_weights
from deeplab.pretrained import resolve
from deeplab.training import train_step


def _first_line(path: str) -> str:
  """Returns the first line of a page's docstring."""
  with open(path, encoding='utf-8') as f:
    return f.readline().strip().strip('"')


def list_choices() -> str:
  """Lists configs, encoders, heads, augmentations, weights and data sets."""
  lines = ['Configs (--config=FILE or --config=FILE:VARIANT):']
  pages = [
    path
    for path in sorted(glob.glob(os.path.join('configs', '*.py')))
    if os.path.basename(path) not in ('__init__.py', 'common.py')
  ]
  width = max(map(len, pages), default=0)
  lines += [f'  {path:<{width}} {_first_line(path)}' for path in pages]
  for title, names in (
    ('Encoders (--config.model.encoder.name)', registry.ENCODERS),
    ('Heads (--config.model.head.name)', registry.HEADS),
    ('Augmentations (--config.data.augment.ops)', compose.OPS),
  ):
    lines += ['', f'{title}:'] + [f'  {name}' for name in sorted(names)]
  lines += ['', 'Trained weights (--config.init_from, or a file or a run):']
  for name, weights in sorted(published_weights.PUBLISHED_WEIGHTS.items()):
    head = f' with {weights.head}' if weights.head else ''
    network = weights.page or f'{weights.encoder}{head}'
    score = f', mIoU {weights.score}' if weights.score else ''
    lines.append(f'  {name:<60} {network}{score}')
  lines += ['', 'Data sets (--config.data.name):']
  for name in sorted(datasets.BUILDERS):
    description = 'your own images and masks'
    if name in catalog.INFOS:
      description = f'{catalog.INFOS[name].num_classes} classes'
    lines.append(f'  {name:<24} {description}')
  return '\n'.join(lines)


def dry_run(config: ConfigDict) -> str:
  """Builds and compiles the training step, and reports what it would take.

  Nothing is trained and no data is read.

  Args:
    config: the experiment, as `datasets.resolve_config` returns it.

  Returns:
    A text: per-layer shapes, MACs and parameters at the training crop and at
    the export size, the weights that training starts from, and the memory of
    one compiled step on this host's back end.

  Raises:
    ValueError: the config is wrong; the message names the field.
  """
  train.check_config(config)
  network = networks.Network(config, datasets.Dataset(config.data))
  export_size = tuple(config.eval.static_size)
  # Where images keep their own sizes, the export size stands in for the crop.
  crop = compose.fixed_output_size(config.data.augment) or export_size
  out = _describe_layers(network, {'training': crop, 'export': export_size})
  if config.init_from:
    out.append(f'starts from {resolve.describe_init_from(config.init_from)}')
  out += _describe_memory(network, crop)
  return '\n'.join(out)


def _describe_layers(
  network: networks.Network, sizes: Mapping[str, tuple[int, int]]
) -> list[str]:
  """Returns a table of layers, and MACs and parameters at each size."""
  dataset = network.dataset
  lines: list[str] = []
  for name, size in sizes.items():
    counts = profile.count_macs_and_params(
      network.config.model,
      dataset.info.num_classes,
      size,
      channels=dataset.spec.channels,
      # An auxiliary head is trained but not exported.
      auxiliary=name != 'export',
    )
    if not lines:
      lines.append(profile.format_table(counts))
    lines.append(
      f'{name} {size[0]}x{size[1]}: {counts.macs / 1e9:.3f} GMACs an image, '
      f'{counts.params / 1e6:.3f} M parameters'
    )
  return lines


def _describe_memory(
  network: networks.Network, size: tuple[int, int]
) -> list[str]:
  """Returns a line on the memory of one step; [] if JAX does not report it."""
  step, _ = _build_step(network)
  state, batch = abstract_step_inputs(network, size)
  logging.info(
    'Compiling the training step, which may take minutes, for its memory…'
  )
  memory = jax.jit(step).lower(state, batch).compile().memory_analysis()
  if memory is None:
    return []
  mib = 2.0**20
  return [
    f'one step of {network.config.batch_size} images on one '
    f'{parallel.platform()} device: '
    f'{memory.argument_size_in_bytes / mib:.0f} MiB of state and batch, '
    f'{memory.temp_size_in_bytes / mib:.0f} MiB of work memory'
  ]


def _build_step(network: networks.Network):
  # The number of steps only shapes the learning rate: any will do.
  return train.build_train_step(network, 1000, None)


def abstract_step_inputs(network: networks.Network, size: tuple[int, int]):
  """Returns the shapes of state and batch of one device's training step.

  Args:
    network: the network of the experiment.
    size: (height, width) of the images.

  Returns:
    (state, batch): a `TrainState` and a batch of `jax.ShapeDtypeStruct`.
  """
  config, channels = network.config, network.dataset.spec.channels
  step, _ = _build_step(network)
  state = jax.eval_shape(
    lambda: train_step.init_state(
      step.model,
      step.optimizer,
      channels=channels,
      seed=0,
      ema=config.ema_decay > 0,
    )
  )
  b = config.batch_size
  batch = {
    'image': jax.ShapeDtypeStruct((b, *size, channels), jnp.float32),
    'label': jax.ShapeDtypeStruct((b, *size), jnp.uint8),
    'index': jax.ShapeDtypeStruct((b,), jnp.uint32),
  }
  return state, batch
