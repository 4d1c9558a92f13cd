r"""Lists the published models that have a config, with cost and scores.

    python -m experiments.zoo
    python -m experiments.zoo --rows='mmseg_cityscapes_*' --json=zoo.json

prints one line per row of experiments/zoo.csv: config, published input size,
multiply-accumulates (MACs), parameters, published scores, and the mIoU of our
own runs (experiments/results/, matched by config name). Train a model with
`python -m deeplab.main --config=CONFIG`.

MACs are those of the convolutions for one image. Parameters exclude running
statistics. Auxiliary heads are counted only if the source counts them. Networks
are traced by shape only: no data, no weights, about a minute for all rows.

Published scores are mIoU in percent; a '/' separates single-view scores from
those with flipping and with flipping and several scales. Published GMACs are
copied from the source's table and follow its way of counting.
"""

from collections.abc import Sequence
import csv
import fnmatch
import glob
import json
import os
from typing import Any
from typing import NamedTuple

from absl import app
from absl import flags
from ml_collections import ConfigDict
import tqdm

from deeplab import cli
from deeplab import system
from deeplab import text
from deeplab.data import catalog
from deeplab.files import config_pages
from deeplab.files import json_files
from deeplab.files import output_files
from deeplab.models import profile

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_CSV_PATH = os.path.join(_FOLDER, 'zoo.csv')
_RESULTS_DIR = os.path.join(_FOLDER, 'results')


class Row(NamedTuple):
  """One line of zoo.csv: a published model.

  Attributes:
    id: abbreviated source, data set, encoder, head and size.
    config: page and variant, as --config takes them.
    height: image height for which the source reports cost and scores.
    width: image width for which the source reports cost and scores.
    aux_counted: True if the source's counts include the auxiliary head.
    published: scores of the source; '' if there are none.
    published_gmacs: GMACs of the source; '' if there are none.
    published_params: parameters of the source; '' if there are none.
    source: publication.
  """

  id: str
  config: str
  height: int
  width: int
  aux_counted: bool
  published: str
  published_gmacs: str
  published_params: str
  source: str

  @property
  def size(self) -> tuple[int, int]:
    """(H, W)."""
    return self.height, self.width


def read_rows(pattern: str = '*') -> list[Row]:
  """Returns the rows whose ids match a glob.

  Raises:
    ValueError: no id matches.
  """
  with open(_CSV_PATH, encoding='utf-8', newline='') as f:
    lines: list[dict[str, Any]] = list(csv.DictReader(f))
  for line in lines:
    line['height'], line['width'] = int(line['height']), int(line['width'])
    line['aux_counted'] = line['aux_counted'] == 'yes'
  chosen = [
    Row(**line) for line in lines if fnmatch.fnmatchcase(line['id'], pattern)
  ]
  if not chosen:
    raise ValueError(
      f'--rows={pattern!r} matches none of the {len(lines)} ids; '
      "--rows='*' shows them"
    )
  return chosen


def load_config(row: Row) -> ConfigDict:
  """Returns the config of a row."""
  return config_pages.load_page(row.config)


def num_classes(config: ConfigDict) -> int:
  """Returns the number of classes of the config's data set."""
  return catalog.info_for(config.data).num_classes


def count_macs_and_params(row: Row, config: ConfigDict) -> tuple[int, int]:
  """Returns (MACs, parameters) of a row's network."""
  result = profile.count_macs_and_params(
    config.model, num_classes(config), row.size, auxiliary=row.aux_counted
  )
  return result.macs, result.params


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


def describe_rows(chosen: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns one JSON-serializable dict per row.

  `published_gmacs`, `published_params` and `measured` are None where there is
  no value.
  """
  runs = read_measured_miou()
  configs = [load_config(row) for row in chosen]
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
        num_classes(config),
        row.size,
        row.aux_counted,
      ],
      sort_keys=True,
    )
    if network not in traced:
      traced[network] = count_macs_and_params(row, config)
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
        'measured': runs.get(config.name),
        'source': row.source,
      }
    )
  return described


def markdown_table(
  header: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
  """Returns a Markdown table with aligned columns."""
  return '\n'.join(text.format_table(header, lines, right_align=False))


def format_table(described: Sequence[dict[str, Any]]) -> str:
  """Returns the result of `describe_rows` as a Markdown table."""
  lines = []
  for row in described:
    published = [row['published']] if row['published'] else []
    if row['published_gmacs']:
      published.append(f'{row["published_gmacs"]:g} GMACs')
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
  return markdown_table(header, lines)


def write_json(path: str, values: Any) -> None:
  """Writes a JSON file atomically."""
  system.write_text(path, json.dumps(values, indent=1) + '\n')


def define_rows_flag(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines --rows, which several commands share."""
  flags.DEFINE_string(
    'rows', '*', 'Rows to show: a glob over their ids.', flag_values=values
  )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  define_rows_flag(values)
  flags.DEFINE_string(
    'json', '', 'Also write the rows to this JSON file.', flag_values=values
  )
  cli.define_overwrite_flag(values)


def open_json_file(
  values: flags.FlagValues,
) -> tuple[output_files.OutputFiles, str] | None:
  """Prepares the file of --json; None without that flag.

  Args:
    values: flags with --json and --overwrite.

  Raises:
    ValueError: the file exists and the project did not write it.
  """
  if not values.json:
    return None
  return output_files.open_output_file(
    values.json, flag='--json', overwrite=values.overwrite
  )


def _run() -> None:
  output = open_json_file(flags.FLAGS)
  described = describe_rows(read_rows(flags.FLAGS.rows))
  if output:
    output[0].write_json(output[1], described)
  print(format_table(described))


def main(argv: list[str]) -> None:
  """Prints the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  app.run(main)
