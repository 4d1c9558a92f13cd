r"""Exports every distinct network of the zoo and checks the files.

    python -m experiments.zoo_export
    python -m experiments.zoo_export --rows='ti_*' --results=

exports each distinct network of the zoo with untrained weights at a small input
size, in float32 and in int8, and prints per row: the difference between the
float32 file and JAX, the operators of the int8 file (builtin integer operators
only, or the export fails), and those that an Ethos-U55 does not support
according to Arm's compiler.

Results are saved to experiments/exports.json after each network. Networks that
are in it are not exported again, so an interrupted run can be resumed.
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
from deeplab.data import image_format
from deeplab.files import json_files
from deeplab.models import registry
from deeplab.models import segmenter
from deeplab.training import train_step
from experiments import zoo_rows
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from export.devices import vela

RESULTS_PATH = os.path.join(
  os.path.dirname(os.path.abspath(__file__)), 'exports.json'
)


# Tolerance of float32 files against JAX, relative to the largest logit.
FLOAT32_TOLERANCE = 1e-4


def export_size(row: zoo_rows.Row, output_stride: int) -> tuple[int, int]:
  """Returns the (H, W) at which a row's network is exported.

  The map at the output stride has 8 x 8 pixels, the largest pooling grid, and
  the size is even or of the form 32 k + 1 as the published one is. (One row is
  not equivalent to its published size: TF's LR-ASPP pools windows of 25 x 25
  pixels of a larger map, here the whole map.)
  """
  size = 8 * max(output_stride, 16) + row.height % 2
  return size, size


def network_key(row: zoo_rows.Row, config: ConfigDict) -> dict[str, Any]:
  """Returns the key by which equal exports of different rows are recognized.

  It excludes the number of classes, which only sets the width of the last
  layer.
  """
  model = config.model.to_dict()
  # Exported files have no auxiliary head and no backward pass, and int8 is
  # converted from float32.
  for name in (
    *('auxiliary', 'dtype', 'frozen_norms', 'remat'),
    *('unbiased_variance', 'classifier_stddev'),
  ):
    model.pop(name)
  size = export_size(row, config.model.output_stride)
  return {'model': model, 'size': size}


def estimate_bn_statistics(
  model: segmenter.Segmenter, variables: Any, images: np.ndarray
) -> Any:
  """Estimates the BatchNorm statistics of an untrained network on images.

  With the initial statistics, activations grow from layer to layer until
  sigmoid gates saturate, and rounding errors decide the result.

  Args:
    model: the network.
    variables: {'params', 'batch_stats'}.
    images: normalized float32 [B, H, W, C], B >= 2.
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

  # Each layer has its own decay, which follows from updates of 0 and of 1.
  zeros = jax.tree.map(np.zeros_like, variables['batch_stats'])
  low = updated(zeros)
  high = updated(jax.tree.map(np.ones_like, zeros))
  statistics = jax.tree.map(lambda a, b: a / (1 - (b - a)), low, high)
  return {'params': variables['params'], 'batch_stats': statistics}


def export_untrained(
  config: ConfigDict, size: tuple[int, int]
) -> dict[str, Any]:
  """Exports an untrained network and summarizes its files.

  Args:
    config: the experiment.
    size: (H, W) of the files' input.

  Returns:
    `float32_difference`, the largest difference from JAX relative to the
    largest logit; `argmax_agreement` of the int8 file with JAX; `operators` of
    the int8 file with their counts; `refused`, the operators that do not run on
    the NPU, with Vela's reason.

  Raises:
    tflite_graph.BadGraph: a file contains a forbidden operator.
    ValueError: the float32 file differs from JAX by more than the tolerance.
  """
  config = ConfigDict(config)
  with config.unlocked():
    config.eval.static_size = size
  source = source_lib.init_untrained(config)
  images = np.stack(source_lib.draw_synthetic_images(4, size, config.seed))
  source = dataclasses.replace(
    source,
    variables=estimate_bn_statistics(
      source.network.export_model(),
      source.variables,
      image_format.normalize_image(images, config.data.mean, config.data.std),
    ),
  )
  request = request_lib.make_request(
    formats=('float32', 'int8'),
    input_size=size,
    num_classes=source.dataset.info.num_classes,
    input_type='int8',
    output_type='int8',
  )
  with tempfile.TemporaryDirectory() as folder:
    output = os.path.join(folder, 'export')
    report = pipeline.export_model(
      source,
      request,
      output,
      num_calibration_images=4,
      evaluate_files=False,
      eval_limit=0,
    )
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


_check_results = json_files.compile_schema(
  json_files.array(
    json_files.record(
      {
        'network': {'type': 'object'},
        'rows': json_files.array(json_files.TEXT),
        'float32_difference': json_files.NUMBER,
        'argmax_agreement': json_files.SHARE,
        'operators': {
          'type': 'object',
          'additionalProperties': json_files.COUNT,
        },
        'refused': {
          'type': 'object',
          'additionalProperties': json_files.TEXT,
        },
      }
    )
  )
)


def read_results(path: str) -> list[dict[str, Any]]:
  """Returns the saved results; [] if there is no file.

  A field that an encoder or head has gained since has its default, by which
  every network keeps what it computed, as in the configs of older runs.

  Raises:
    ValueError: the file is damaged, or holds anything else.
  """
  if not path or not os.path.exists(path):
    return []
  results = json_files.read_checked_json(
    path, _check_results, 'choose another --results'
  )
  for entry in results:
    model = entry['network']['model']
    for slot in ('encoder', 'head'):
      cls = registry.SLOTS[slot].get(model[slot]['name'])
      if cls is not None:
        model[slot] = {**registry.config_fields(cls), **model[slot]}
  return json.loads(json.dumps(results))  # lists, as in the file


def collect_exports(
  chosen: Sequence[zoo_rows.Row], path: str
) -> list[dict[str, Any]]:
  """Returns the results of each row, exporting networks not yet in `path`.

  Args:
    chosen: rows of the zoo.
    path: JSON file with one entry per network: `network` (the result of
      `network_key`), `rows` (ids) and the result of `export_untrained`; ''
      saves nothing.
  """
  known = {
    json.dumps(x['network'], sort_keys=True): x for x in read_results(path)
  }
  found = []
  for row in tqdm.tqdm(chosen, unit='row', disable=None):
    config = zoo_rows.load_config(row)
    own = json.loads(json.dumps(network_key(row, config)))
    key = json.dumps(own, sort_keys=True)
    if key not in known:
      result = export_untrained(config, (own['size'][0], own['size'][1]))
      known[key] = {'network': own, 'rows': [], **result}
    entry = known[key]
    new = row.id not in entry['rows']
    entry['rows'] = sorted({*entry['rows'], row.id})
    if path and new:
      zoo_rows.write_json(path, list(known.values()))
    found.append({'id': row.id, **entry})
  return found


def format_table(found: Sequence[dict[str, Any]]) -> str:
  """Returns a Markdown table, one line per row."""
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
  return zoo_rows.markdown_table(
    ('id', 'float32', 'int8 arg-max', 'operators', 'refused by Ethos-U55'),
    lines,
  )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  zoo_rows.define_rows_flag(values)
  flags.DEFINE_string(
    'results',
    RESULTS_PATH,
    'JSON file of the results; empty: save none, and export every network.',
    flag_values=values,
  )


def _run() -> None:
  print(
    format_table(
      collect_exports(zoo_rows.read_rows(flags.FLAGS.rows), flags.FLAGS.results)
    )
  )


def main(argv: list[str]) -> None:
  """Exports the missing networks and prints the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  app.run(main)
