r"""Measures images per second and memory of the forward pass of zoo models.

    python -m experiments.benchmarks.inference --rows='mmseg_cityscapes_*'
    python -m experiments.benchmarks.inference --rows='mobileseg_*' \
        --dtype=float32 --json=speed.json

runs each row of `python -m experiments.zoo` at its size on JAX's default
device: one image, random weights, full-resolution logits that stay on the
device. Each row runs in its own process, so that memory is measured separately;
rows that fail are reported and left out.

Needs jax, flax and ml_collections, no TensorFlow.
"""

from concurrent import futures
import multiprocessing
import statistics
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import jax.numpy as jnp

from deeplab import cli
from deeplab import parallel
from deeplab.models import registry
from experiments import zoo_rows


def _memory_bytes(compiled: Any) -> tuple[int, str]:
  """Returns (bytes, 'peak' of the device or plan of the 'compiler')."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'peak_bytes_in_use' in stats:
    return stats['peak_bytes_in_use'], 'peak'
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
  ), 'compiled'


def measure_speed(
  row: zoo_rows.Row, dtype: str, runs: int, warm_up: int
) -> dict[str, Any]:
  """Measures the speed and memory of a row's network.

  Args:
    row: the row.
    dtype: 'bfloat16' or 'float32'; logits are always float32.
    runs: number of timed images.
    warm_up: number of images before those.

  Returns:
    `id`, `height`, `width`, `dtype`, `device`, `seconds` (per image),
    `images_per_second` (from the median), `memory` (bytes, with weights) and
    `memory_kind`: 'peak' as the device reports it, or 'compiled' as the
    compiler plans it where the device reports none.
  """
  config = zoo_rows.load_config(row)
  with config.unlocked():
    config.model.dtype = dtype
  model: Any = registry.build_model(
    config.model, zoo_rows.num_classes(config), **parallel.kernels()
  )
  # The parameters do not depend on the size, and a small image needs no memory.
  variables = jax.jit(model.init)(
    jax.random.key(0), jnp.zeros((1, 65, 65, 3), jnp.float32)
  )
  image = jnp.zeros((1, *row.size, 3), jnp.float32)

  def logits(variables, image):
    return model.apply(variables, image).logits

  forward = jax.jit(logits).lower(variables, image).compile()
  seconds = []
  for _ in range(warm_up + runs):
    start = time.perf_counter()
    jax.block_until_ready(forward(variables, image))
    seconds.append(time.perf_counter() - start)
  seconds = seconds[warm_up:]
  memory, kind = _memory_bytes(forward)
  return {
    'id': row.id,
    'height': row.height,
    'width': row.width,
    'dtype': dtype,
    'device': jax.local_devices()[0].device_kind,
    'seconds': seconds,
    'images_per_second': 1 / statistics.median(seconds),
    'memory': memory,
    'memory_kind': kind,
  }


def format_table(results: list[dict[str, Any]]) -> str:
  """Returns the results as a Markdown table."""
  header = ('id', 'input', 'dtype', 'device', 'images/s', 'memory (MiB)')
  return zoo_rows.markdown_table(
    header,
    [
      (
        result['id'],
        f'{result["height"]}x{result["width"]}',
        result['dtype'],
        result['device'],
        f'{result["images_per_second"]:.2f}',
        f'{result["memory"] / 2**20:.0f} {result["memory_kind"]}',
      )
      for result in results
    ],
  )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  zoo_rows.define_rows_flag(values)
  flags.DEFINE_enum(
    'dtype',
    'bfloat16',
    ['bfloat16', 'float32'],
    'Compute dtype of the network.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'runs',
    20,
    'Number of timed images; the median counts.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'warm_up', 5, 'Images run before timing.', lower_bound=0, flag_values=values
  )
  flags.DEFINE_string(
    'json', '', 'Also write the results to this JSON file.', flag_values=values
  )
  cli.define_overwrite_flag(values)


def _run() -> None:
  output = zoo_rows.open_json_file(flags.FLAGS)
  results = []
  for row in zoo_rows.read_rows(flags.FLAGS.rows):
    with futures.ProcessPoolExecutor(
      1, mp_context=multiprocessing.get_context('spawn')
    ) as pool:
      job = pool.submit(
        measure_speed,
        row,
        flags.FLAGS.dtype,
        flags.FLAGS.runs,
        flags.FLAGS.warm_up,
      )
      try:
        results.append(job.result())
      except RuntimeError as error:  # out of memory, or killed for it
        logging.error('%s: %s', row.id, str(error).split('\n')[0])
        continue
    speed = results[-1]['images_per_second']
    logging.info('%s: %.2f images/s', row.id, speed)
  if not results:
    raise ValueError(
      'no row could be measured; the errors are above, and --rows=GLOB chooses '
      'smaller ones'
    )
  if output:
    output[0].write_json(output[1], results)
  print(format_table(results))


def main(argv: list[str]) -> None:
  """Prints the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  app.run(main)
