r"""What the published models become as files for devices.

    python -m experiments.zoo_export
    python -m experiments.zoo_export --rows='ti_*' --results=

exports each distinct network of the zoo with untrained weights at a small
input, once in float32 and once in int8, and prints per row: how far the float32
file is from JAX, the operators of the int8 file (builtin integer ones, or the
export fails), and those of them that an Ethos-U55 refuses, by Arm's compiler.

What is found is kept in experiments/exports.json after each network; the
networks in it are not exported again, so that an interrupted run goes on.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import tempfile
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import tqdm

from deeplab import cli
from deeplab.data.augmentation import compose
from deeplab.models import segmenter
from deeplab.training import train_step
from experiments import zoo
from export import calibration
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from export.devices import vela

RESULTS_PATH = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), 'exports.json'
)

_RESULTS_FLAG = flags.DEFINE_string(
  'results',
  RESULTS_PATH,
  'File that keeps what was found; empty: none, everything is exported.',
)

# What float32 files may differ from JAX, as a share of the largest logit.
FLOAT32_TOLERANCE = 1e-4


def export_size(row: zoo.Row, output_stride: int) -> tuple[int, int]:
  """Returns the size that a row's network is exported at.

  It leaves 8 x 8 pixels at the output stride, as many as any pooling grid has,
  and is even or of the form 32 k + 1 as the published one. (One row differs
  from its own size all the same: TF's LR-ASPP pools windows of 25 x 25 pixels
  of a larger map, here the whole map.)
  """
  size = 8 * max(output_stride, 16) + row.height % 2
  return size, size


def network_key(row: zoo.Row, config: ConfigDict) -> dict[str, Any]:
  """Returns what distinguishes the exports of two rows.

  The number of classes is left out: it is the width of the last layer and
  nothing else.
  """
  model = config.model.to_dict()
  # Files have no auxiliary head nor a backward pass, and are float32 before
  # they are int8.
  for name in ('auxiliary', 'dtype', 'frozen_norms', 'remat'):
    model.pop(name)
  size = export_size(row, config.model.output_stride)
  return {'model': model, 'size': size}


def estimate_bn_statistics(
  model: segmenter.Segmenter, variables: Any, images: np.ndarray
) -> Any:
  """Returns untrained variables with BatchNorm statistics of some images.

  As they are initialised, activations of a deep network grow from layer to
  layer until gates are saturated, and then rounding decides what it computes.

  Args:
    model: the network.
    variables: {'params', 'batch_stats'}.
    images: normalised float32 [B, H, W, C], at least two.
  """

  @jax.jit
  def updated(statistics: Any) -> Any:
    _, new = model.apply(
      {'params': variables['params'], 'batch_stats': statistics},
      images,
      train=True,
      dropout_keys=train_step.dropout_keys(0, jnp.arange(len(images))),
      mutable=['batch_stats'],
    )
    return new['batch_stats']

  # Each layer averages with its own decay, which two starts tell.
  zeros = jax.tree.map(np.zeros_like, variables['batch_stats'])
  low = updated(zeros)
  high = updated(jax.tree.map(np.ones_like, zeros))
  statistics = jax.tree.map(lambda a, b: a / (1 - (b - a)), low, high)
  return {'params': variables['params'], 'batch_stats': statistics}


def export_untrained(
  config: ConfigDict, size: tuple[int, int]
) -> dict[str, Any]:
  """Exports an untrained network and returns what its files are.

  Args:
    config: the experiment.
    size: (H, W) of the files' input.

  Returns:
    `float32_difference`, the largest difference from JAX as a share of the
    largest logit; `argmax_agreement` of the int8 file with JAX; `operators` of
    the int8 file with their counts; `refused`, those of them that stay off the
    NPU, with Vela's reason.

  Raises:
    graph.BadGraph: a file holds an operator that it must not hold.
    ValueError: the float32 file computes something else.
  """
  config = ConfigDict(config)
  with config.unlocked():
    config.eval.static_size = size
  source = source_lib.init_untrained(config)
  images = np.stack(calibration.draw_synthetic_images(4, size, config.seed))
  source = dataclasses.replace(
    source,
    variables=estimate_bn_statistics(
      source_lib.build_model(source, depthwise='conv', pointwise='conv'),
      source.variables,
      compose.normalize_image(images, config.data.mean, config.data.std),
    ),
  )
  request = request_lib.make_request(
    ('float32', 'int8'),
    size,
    source.dataset.info.num_classes,
    input_type='int8',
    output_type='int8',
  )
  with tempfile.TemporaryDirectory() as folder:
    output = os.path.join(folder, 'export')
    report = pipeline.export_model(source, request, output, 4, False, 0)
    compiled = vela.compile_file(os.path.join(output, 'int8.tflite'))
  exact, int8 = (report['formats'][kind] for kind in ('float32', 'int8'))
  refused: dict[str, str] = {}
  for refusal in compiled.refused:
    refused.setdefault(refusal.operator, refusal.reason)
  difference = (
    exact['parity']['max_abs_difference'] / exact['parity']['reference_max_abs']
  )
  if not difference <= FLOAT32_TOLERANCE:
    raise ValueError(
      f'the float32 file of {config.name} differs from JAX by {difference:.1e} '
      f'of the largest logit, more than {FLOAT32_TOLERANCE:.0e}'
    )
  return {
    'float32_difference': difference,
    'argmax_agreement': int8['parity']['argmax_agreement'],
    'operators': int8['operators'],
    'refused': refused,
  }


def read_results(path: str) -> list[dict[str, Any]]:
  """Returns what was found before; nothing where there is no file."""
  if not path or not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def collect_exports(
  chosen: Sequence[zoo.Row], path: str
) -> list[dict[str, Any]]:
  """Returns what each row's files are, exporting what `path` does not hold.

  Args:
    chosen: rows of the zoo.
    path: JSON file that holds and gets one entry a network: `network_key` (see
      there), `rows` (ids) and what `export_untrained` returns; '' for none.
  """
  known = {
    json.dumps(x['network'], sort_keys=True): x for x in read_results(path)
  }
  found = []
  for row in tqdm.tqdm(chosen, unit='row', disable=None):
    config = zoo.load_config(row)
    own = json.loads(json.dumps(network_key(row, config)))
    key = json.dumps(own, sort_keys=True)
    if key not in known:
      result = export_untrained(config, (own['size'][0], own['size'][1]))
      known[key] = {'network': own, 'rows': [], **result}
    entry = known[key]
    new = row.id not in entry['rows']
    entry['rows'] = sorted({*entry['rows'], row.id})
    if path and new:
      zoo.write_json(path, list(known.values()))
    found.append({'id': row.id, **entry})
  return found


def format_table(found: Sequence[dict[str, Any]]) -> str:
  """Returns one line a row as Markdown."""
  lines = []
  for entry in found:
    operators = sorted(entry['operators'].items())
    lines.append(
      (
        entry['id'],
        f'{entry["float32_difference"]:.1e}',
        f'{entry["argmax_agreement"]:.4f}',
        ', '.join(f'{name} {count}' for name, count in operators),
        ', '.join(sorted(entry['refused'])) or 'none',
      )
    )
  return zoo.markdown_table(
    ('id', 'float32', 'int8 arg-max', 'operators', 'refused by Ethos-U55'),
    lines,
  )


def _run() -> None:
  print(
    format_table(
      collect_exports(zoo.read_rows(zoo.ROWS.value), _RESULTS_FLAG.value)
    )
  )


def main(argv: list[str]) -> None:
  """Exports what is missing and prints the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  app.run(main)
