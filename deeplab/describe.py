"""What there is to choose from, and what a config would train."""

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
  with open(path, encoding='utf-8') as f:
    return f.readline().strip().strip('"')


def list_choices() -> str:
  """Returns the configs, encoders, heads, weights and data sets there are."""
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
  for name, origin in sorted(published_weights.PUBLISHED_WEIGHTS.items()):
    head = f' with {origin.head}' if origin.head else ''
    lines.append(f'  {name:<42} {origin.encoder}{head}')
  lines += ['', 'Data sets (--config.data.name):']
  for name in sorted(datasets.BUILDERS):
    what = 'your own images and masks'
    if name in catalog.INFOS:
      what = f'{catalog.INFOS[name].num_classes} classes'
    lines.append(f'  {name:<24} {what}')
  return '\n'.join(lines)


def dry_run(config: ConfigDict) -> str:
  """Builds and traces the training step, and says what it would take.

  Nothing is trained and no data is read.

  Args:
    config: the experiment.

  Returns:
    Per-layer shapes, MACs and parameters at the training crop and at the
    export size, the weights that training starts from, and the memory of one
    compiled step on this host's back end.
  """
  train.check_config(config)
  dataset = datasets.Dataset(config.data)
  export = tuple(config.eval.static_size)
  # Images of their own sizes are taken to be of the size that is exported.
  crop = compose.fixed_output_size(config.data.augment) or export
  sizes = {'training': crop, 'export': export}
  out: list[str] = []
  for name, size in sizes.items():
    # An auxiliary head is trained and not exported.
    traced = profile.count_macs_and_params(
      config.model,
      dataset.info.num_classes,
      size,
      channels=dataset.spec.channels,
      auxiliary=name != 'export',
    )
    if not out:
      out.append(profile.format_table(traced))
    out.append(
      f'{name} {size[0]}x{size[1]}: {traced.macs / 1e9:.3f} GMACs an image, '
      f'{traced.params / 1e6:.3f} M parameters'
    )
  if config.init_from:
    out.append(f'starts from {resolve.describe_init_from(config.init_from)}')
  network = networks.Network(config, dataset)
  _, _, _, step = _build_step(network)
  state, batch = abstract_step_inputs(network, crop)
  logging.info(
    'Compiling the training step, which may take minutes, for its memory…'
  )
  memory = jax.jit(step).lower(state, batch).compile().memory_analysis()
  if memory is not None:
    mib = 2.0**20
    out.append(
      f'one step of {config.batch_size} images on one {parallel.platform()} '
      f'device: {memory.argument_size_in_bytes / mib:.0f} MiB of state and '
      f'batch, {memory.temp_size_in_bytes / mib:.0f} MiB of work memory'
    )
  return '\n'.join(out)


def _build_step(network: networks.Network):
  return train.build_train_step(network, 1000, None)


def abstract_step_inputs(network: networks.Network, size: tuple[int, int]):
  """Returns shapes of (state, batch) of one device's training step."""
  config = network.config
  model, optimizer, _, _ = _build_step(network)
  b, channels = config.batch_size, network.dataset.spec.channels
  state = jax.eval_shape(
    lambda: train_step.init_state(
      model, optimizer, channels=channels, seed=0, ema=config.ema_decay > 0
    )
  )
  batch = {
    'image': jax.ShapeDtypeStruct((b, *size, channels), jnp.float32),
    'label': jax.ShapeDtypeStruct((b, *size), jnp.uint8),
    'index': jax.ShapeDtypeStruct((b,), jnp.uint32),
  }
  return state, batch
