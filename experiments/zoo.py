r"""Lists the published models that have a config, with cost and scores.

    python -m experiments.zoo
    python -m experiments.zoo --rows='mmseg_cityscapes_*' --json=zoo.json
    python -m experiments.zoo --weights
    python -m experiments.zoo --evaluate --rows='mmseg_voc*' --data_root=DATA

The first form prints one line per row of experiments/zoo.csv: config, published
input size, multiply-accumulates (MACs), parameters, published scores, and the
mIoU of our own runs (experiments/results/, matched by config name). Train a
model with `python -m deeplab.main --config=CONFIG`.

MACs are those of the convolutions for one image. Parameters exclude running
statistics. Auxiliary heads are counted only if the source counts them. Networks
are traced by shape only: no data, no weights, about a minute for all rows.

Published scores are mIoU in percent; a '/' separates single-view scores from
those with flipping and with flipping and several scales. Published GMACs are
copied from the source's table and follow its way of counting. Published speeds
are of the source's machine.

--weights lists the published weights of the rows: the name that `deeplab.load`
takes, licence, digest and address.

--evaluate loads these weights, evaluates them as the source does (one view;
with flipping; with several scales and flipping) and prints the mIoU beside the
published one. Each score is written to --output when it is there, and the same
command goes on after an interruption. Data sets lie in --data_root, in a folder
of their name (`cityscapes`, `ade20k`, `voc`) and in their official layout. A
row whose weights or data are missing is named, and the next one goes on.
"""

from collections.abc import Sequence
import glob
import json
import os
from typing import Any

from absl import app
from absl import flags
import tqdm

from deeplab import cli
from deeplab.files import json_files
from deeplab.pretrained import published_weights
from experiments import zoo_rows

_RESULTS_DIR = os.path.join(zoo_rows.FOLDER, 'results')


# Of a file of experiments/results, which `experiments.readme_table` writes.
check_results = json_files.compile_schema(
  json_files.record(
    {
      'name': json_files.TEXT,
      'data': json_files.TEXT,
      'scores': {
        'type': 'object',
        'additionalProperties': json_files.record(
          {
            'miou': json_files.nullable(json_files.SHARE),
            'pixel_accuracy': json_files.nullable(json_files.SHARE),
            'boundary_iou': json_files.nullable(json_files.SHARE),
            'examples': json_files.COUNT,
          }
        ),
      },
    }
  )
)


def read_measured_miou() -> dict[str, dict[str, float]]:
  """Returns the mIoU of our runs: config name -> evaluation -> mIoU."""
  scores = {}
  for path in sorted(
    glob.glob(os.path.join(glob.escape(_RESULTS_DIR), '*.json'))
  ):
    run = json_files.read_checked_json(path, check_results)
    scores[run['name']] = {
      what: score['miou']
      for what, score in run['scores'].items()
      if score['miou'] is not None
    }
  return scores


def describe_rows(chosen: Sequence[zoo_rows.Row]) -> list[dict[str, Any]]:
  """Returns one JSON-serializable dict per row.

  `published_gmacs`, `published_params` and `measured` are None where there is
  no value.
  """
  runs = read_measured_miou()
  configs = [zoo_rows.load_config(row) for row in chosen]
  traced: dict[
    str, tuple[int, int]
  ] = {}  # each distinct network is traced once
  described = []
  # disable=None: no bar unless stderr is a terminal.
  progress = tqdm.tqdm(chosen, unit='row', leave=False, disable=None)
  for row, config in zip(progress, configs, strict=True):
    network = json.dumps(
      [
        config.model.to_dict(),
        zoo_rows.num_classes(config),
        row.size,
        row.aux_counted,
      ],
      sort_keys=True,
    )
    if network not in traced:
      traced[network] = zoo_rows.count_macs_and_params(row, config)
    macs, params = traced[network]
    described.append(
      {
        'id': row.id,
        'config': row.config,
        'height': row.height,
        'width': row.width,
        'gmacs': macs / 1e9,
        'params': params,
        'published': row.published,
        'published_gmacs': float(row.published_gmacs or 0) or None,
        'published_params': int(row.published_params or 0) or None,
        'published_speed': row.published_speed,
        'measured': runs.get(config.name),
        'source': row.source,
      }
    )
  return described


def format_table(described: Sequence[dict[str, Any]]) -> str:
  """Returns the result of `describe_rows` as a Markdown table."""
  lines = []
  for row in described:
    published = [row['published']] if row['published'] else []
    if row['published_gmacs']:
      published.append(f'{row["published_gmacs"]:g} GMACs')
    if row['published_speed']:
      published.append(row['published_speed'])
    ours = (row['measured'] or {}).items()
    lines.append(
      (
        row['id'],
        row['config'],
        f'{row["height"]}x{row["width"]}',
        f'{row["gmacs"]:.4f}',
        f'{row["params"]:,}',
        ', '.join(published),
        ', '.join(f'{what} {100 * miou:.2f}' for what, miou in ours),
      )
    )
  header = ('id', 'config', 'input', 'GMACs', 'params', 'published', 'measured')
  return zoo_rows.markdown_table(header, lines)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  zoo_rows.define_rows_flag(values)
  flags.DEFINE_string(
    'json', '', 'Also write the rows to this JSON file.', flag_values=values
  )
  cli.define_overwrite_flag(values)
  flags.DEFINE_bool(
    'weights',
    False,
    'List the published weights of the rows in place of their cost.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'evaluate',
    False,
    'Evaluate the published weights of the rows, beside the published scores.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'data_root',
    '',
    'For --evaluate: folder with one folder per data set, by its name; empty '
    'for data sets that are downloaded.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output',
    'runs/zoo',
    'For --evaluate: folder of the scores; those that it has are kept.',
    flag_values=values,
  )


def format_weights(chosen: Sequence[zoo_rows.Row]) -> str:
  """Returns the published weights of rows as a Markdown table."""
  lines = []
  for row in chosen:
    published = published_weights.PUBLISHED_WEIGHTS.get(row.weights)
    lines.append(
      (
        row.id,
        row.weights or 'none that can be loaded',
        row.published,
        published.licence if published else '',
        published.digest if published else '',
        published.url if published else '',
      )
    )
  header = ('id', 'weights', 'published', 'licence', 'digest', 'address')
  return zoo_rows.markdown_table(header, lines)


def _evaluate(chosen: Sequence[zoo_rows.Row]) -> None:
  """Evaluates the weights of rows, and prints their scores.

  Raises:
    ValueError: no row could be evaluated.
  """
  from experiments import published_scores  # it imports TensorFlow

  values = flags.FLAGS
  records, left_out = published_scores.evaluate_rows(
    chosen, values.data_root, values.output
  )
  if records:
    print(published_scores.format_scores(records))
  for reason in left_out:
    print(f'left out: {reason}')
  if not records:
    raise ValueError(
      f'none of {len(chosen)} rows was evaluated, for the reasons above'
    )


def _run() -> None:
  chosen = zoo_rows.read_rows(flags.FLAGS.rows)
  if flags.FLAGS.evaluate:
    _evaluate(chosen)
    return
  if flags.FLAGS.weights:
    print(format_weights(chosen))
    return
  output = zoo_rows.open_json_file(flags.FLAGS)
  described = describe_rows(chosen)
  if output:
    output[0].write_json(output[1], described)
  print(format_table(described))


def main(argv: list[str]) -> None:
  """Prints the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  app.run(main)
