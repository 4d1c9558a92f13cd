r"""The published models that there is a config for, and what each costs.

    python -m experiments.zoo
    python -m experiments.zoo --rows='mmseg_cityscapes_*' --json=zoo.json

prints a line a row of experiments/zoo.csv: its config, the size that the
source publishes it at, multiply-accumulates and parameters, the published
scores, and the mIoU of our own runs (experiments/results/, by the config's
name). Train one with `python -m deeplab.main --config=CONFIG`.

MACs are those of convolutions, for one image. Parameters are without running
statistics. Auxiliary outputs are counted only where the source counts them. The
network is traced by shapes alone: no data, no weights, about a minute for all.

Published scores are percentages: mIoU, with '/' before those with flipped and
with flipped and resized views; the source says what else. Published GMACs are
those of the source's own table, by its own way of counting.
"""

from collections.abc import Sequence
import csv
import fnmatch
import glob
import importlib
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
from deeplab.models import profile

ROWS = flags.DEFINE_string('rows', '*', 'Rows to show: a glob of their ids.')
JSON = flags.DEFINE_string('json', '', 'File to write the rows into, too.')

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_CSV_PATH = os.path.join(_FOLDER, 'zoo.csv')
_RESULTS_DIR = os.path.join(_FOLDER, 'results')


class Row(NamedTuple):
  """One line of zoo.csv: a published model.

  Attributes:
    id: source, data set, encoder, head and size in short.
    config: page and variant, as --config takes them.
    height: of the image that the source counts and scores.
    width: likewise.
    aux_counted: the source's counts include the auxiliary head.
    published: the source's scores; '' if there are none.
    published_gmacs: as the source prints them; '' if it does not.
    published_params: likewise.
    source: where all this is published.
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
    ValueError: none does.
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
  path, _, variant = row.config.partition(':')
  module = path.removesuffix('.py').replace('/', '.')
  return importlib.import_module(module).get_config(variant)


def num_classes(config: ConfigDict) -> int:
  """Returns the number of classes of the config's data set."""
  return catalog.info_for(config.data).num_classes


def count_macs_and_params(row: Row, config: ConfigDict) -> tuple[int, int]:
  """Returns (MACs, parameters) of a row's network."""
  result = profile.count_macs_and_params(
    config.model, num_classes(config), row.size, auxiliary=row.aux_counted
  )
  return result.macs, result.params


def read_measured_miou() -> dict[str, dict[str, float]]:
  """Returns our runs' mIoU, by the config's name and what was evaluated."""
  scores = {}
  for path in sorted(glob.glob(os.path.join(_RESULTS_DIR, '*.json'))):
    with open(path, encoding='utf-8') as f:
      run = json.load(f)
    scores[run['name']] = {
      what: score['miou']
      for what, score in run['scores'].items()
      if score['miou'] is not None
    }
  return scores


def describe_rows(chosen: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns what there is to say about each row, as JSON can hold it.

  `published_gmacs`, `published_params` and `read_measured_miou` are None where
  there are none.
  """
  runs = read_measured_miou()
  configs = [load_config(row) for row in chosen]
  traced: dict[str, tuple[int, int]] = {}  # equal networks are traced once
  described = []
  # Nothing is drawn where standard error is no terminal.
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
  """Returns a Markdown table whose columns stand below each other."""
  return '\n'.join(text.format_table(header, lines, right_align=False))


def format_table(described: Sequence[dict[str, Any]]) -> str:
  """Returns the rows that `describe_rows` describes as Markdown."""
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
  """Writes a file of JSON, whole or not at all."""
  system.write_text(path, json.dumps(values, indent=1) + '\n')


def _run() -> None:
  described = describe_rows(read_rows(ROWS.value))
  if JSON.value:
    write_json(JSON.value, described)
  print(format_table(described))


def main(argv: list[str]) -> None:
  """Prints the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  app.run(main)
