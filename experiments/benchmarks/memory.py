r"""Measures how remat, accumulation and bfloat16 reduce training memory.

    python -m experiments.benchmarks.memory
    python -m experiments.benchmarks.memory --config=configs/voc_mnv2.py \
        --config.batch_size=16 --steps=20
    python -m experiments.benchmarks.memory --write=experiments/README.md

compiles the training step of a config for one device, once per setting. `kept`
is the size of the residuals that automatic differentiation passes from the
forward to the backward pass, computed from shapes; `work` is the memory that
the compiler plans besides state and batch. With --steps the step also runs and
is timed; without it nothing is computed, so any size works. --write puts the
table between its markers in a page.
"""

import dataclasses
import statistics
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab import cli
from deeplab import describe
from deeplab import networks
from deeplab import parallel
from deeplab import system
from deeplab import train
from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.training import train_step
from experiments import readme_table
from experiments import zoo_rows

_TABLE_NAME = 'memory'


@dataclasses.dataclass(frozen=True)
class StepSetting:
  """One setting of the memory-saving fields.

  Attributes:
    dtype: `model.dtype`.
    remat: `model.remat`.
    accumulate: `accumulate_steps`.
  """

  dtype: str = 'float32'
  remat: int = 0
  accumulate: int = 1


SETTINGS = (
  StepSetting(),
  StepSetting(remat=2),
  StepSetting(remat=5),
  StepSetting(accumulate=2),
  StepSetting(accumulate=4),
  StepSetting('bfloat16'),
  StepSetting('bfloat16', remat=2),
  StepSetting('bfloat16', remat=5),
  StepSetting('bfloat16', remat=5, accumulate=4),
)


def count_residual_bytes(model: Any, state: Any, batch: dict[str, Any]) -> int:
  """Returns the bytes of the residuals kept for the backward pass.

  Args:
    model: the network.
    state: shapes of its `TrainState`.
    batch: shapes of the images of one accumulation step.
  """

  def pull(state, batch):
    def forward(params):
      output, _ = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        batch['image'],
        train=True,
        dropout_keys=train_step.dropout_keys(0, batch['index']),
        mutable=['batch_stats'],
      )
      return output.logits, output.auxiliary

    return jax.vjp(forward, state.params)[1]

  leaves = jax.tree.leaves(jax.eval_shape(pull, state, batch))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def measure_memory(
  config: ConfigDict, setting: StepSetting, timed_steps: int
) -> dict[str, float | None]:
  """Compiles one training step, and optionally times it.

  Args:
    config: the experiment; its batch is that of one device.
    setting: fields to change.
    timed_steps: number of timed steps, after two warm-up steps; 0: none.

  Returns:
    `kept`, `arguments` (state and batch) and `work` in bytes, None where the
    backend does not report them; and `seconds` of the median step, None without
    steps.
  """
  config = ConfigDict(config)
  with config.unlocked():
    config.model.dtype = setting.dtype
    config.model.remat = setting.remat
    config.accumulate_steps = setting.accumulate
  size = (
    compose.fixed_output_size(config.data.augment) or config.eval.static_size
  )
  network = networks.Network(config, datasets.Dataset(config.data))
  step, _ = train.build_train_step(network, 1000, None)
  state, batch = describe.abstract_step_inputs(network, tuple(size))
  part = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      (x.shape[0] // setting.accumulate, *x.shape[1:]), x.dtype
    ),
    batch,
  )
  # Code is generated after the memory is planned, and takes the longest.
  options: dict[str, str | bool] = {}
  if parallel.platform() == 'cpu' and not timed_steps:
    options = {'xla_backend_optimization_level': '0'}
  compiled = (
    jax.jit(step, donate_argnums=0).lower(state, batch).compile(options)
  )
  plan = compiled.memory_analysis()
  seconds = []
  if timed_steps:
    live, given = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), (state, batch)
    )
    for _ in range(timed_steps + 2):
      start = time.perf_counter()
      live, _ = jax.block_until_ready(compiled(live, given))
      seconds.append(time.perf_counter() - start)
  return {
    'kept': count_residual_bytes(step.model, state, part),
    'arguments': plan and plan.argument_size_in_bytes,
    'work': plan and plan.temp_size_in_bytes,
    'seconds': statistics.median(seconds[2:]) if timed_steps else None,
  }


def format_table(
  found: list[tuple[StepSetting, dict[str, float | None]]],
) -> str:
  """Returns the measurements as a Markdown table, in MiB and ms."""
  timed = found[0][1]['seconds'] is not None

  def scaled(value: float | None, unit: float) -> str:
    return '' if value is None else f'{value / unit:,.0f}'

  return zoo_rows.markdown_table(
    (
      *('`model.dtype`', '`model.remat`', '`accumulate_steps`'),
      *('kept, MiB', 'work, MiB', *(['ms a step'] if timed else [])),
    ),
    [
      (
        *(s.dtype, str(s.remat), str(s.accumulate)),
        *(scaled(x[name], 2**20) for name in ('kept', 'work')),
        *([scaled(x['seconds'], 1e-3)] if timed else []),
      )
      for s, x in found
    ],
  )


# The training step, without the fields that `SETTINGS` varies.
_READ_FIELDS = cli.ReadFields(
  (
    *('name', 'seed', *cli.DATASET_FIELDS, 'data.mean', 'data.augment'),
    *('model', 'loss', 'optimizer', 'schedule', 'quantization', 'batch_size'),
    *('ema_decay', 'eval.static_size'),
  ),
  but=('model.dtype', 'model.remat'),
)


def define_flags() -> flags.FlagHolder:
  """Defines the command's flags; returns that of the config."""
  flags.DEFINE_integer('steps', 0, 'Steps to time.', lower_bound=0)
  flags.DEFINE_string('write', None, 'Page to put the table into.')
  return config_flags.DEFINE_config_file(
    'config', 'configs/voc_resnet.py:r50', 'Experiment to measure.'
  )


def _run(config_flag: flags.FlagHolder) -> None:
  config = cli.config_from_flag(config_flag, reads=_READ_FIELDS)
  assert config is not None  # it has a default
  found = []
  for setting in SETTINGS:
    found.append((setting, measure_memory(config, setting, flags.FLAGS.steps)))
    logging.info('%s: %s', setting, found[-1][1])
  size = (
    compose.fixed_output_size(config.data.augment) or config.eval.static_size
  )
  arguments = found[0][1]['arguments']
  state = '' if arguments is None else f'{arguments / 2**20:,.0f} MiB'
  text = (
    f'`{config.name}`, {config.batch_size} images of {size[0]}x{size[1]} on '
    f'one device ({jax.local_devices()[0].device_kind}, JAX '
    f'{jax.__version__}), whose state and batch are '
    f'{state}:\n\n{format_table(found)}'
  )
  print(text)
  path = flags.FLAGS.write
  if path:
    with open(path, encoding='utf-8') as f:
      page = f.read()
    system.write_text(
      path, readme_table.replace_between_markers(page, text, _TABLE_NAME)
    )


if __name__ == '__main__':
  flag = define_flags()
  app.run(
    lambda argv: cli.run_command(argv, lambda: _run(flag)),
    flags_parser=cli.parse_flags,
  )
