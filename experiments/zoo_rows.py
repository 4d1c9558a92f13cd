"""Rows of the zoo: published models, the config of each, and their cost.

`experiments.zoo` prints them; other commands choose some of them by --rows.
"""

from collections.abc import Sequence
import csv
import fnmatch
import json
import os
from typing import Any
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict

from deeplab import system
from deeplab import text
from deeplab.data import catalog
from deeplab.files import config_pages
from deeplab.files import output_files
from deeplab.models import profile

FOLDER = os.path.dirname(os.path.abspath(__file__))
_CSV_PATH = os.path.join(FOLDER, 'zoo.csv')


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
    published_speed: speed and memory, as the source prints them; ''.
    weights: name of its published weights, of `deeplab.load`; '' if none are
      published or they cannot be read.
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
  published_speed: str
  weights: str
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


def markdown_table(
  header: Sequence[str], lines: Sequence[Sequence[str]]
) -> str:
  """Returns a Markdown table with aligned columns."""
  return '\n'.join(text.format_table(header, lines, right_align=False))


def write_json(path: str, values: Any) -> None:
  """Writes a JSON file atomically."""
  system.write_text(path, json.dumps(values, indent=1) + '\n')


def define_rows_flag(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines --rows, which several commands share."""
  flags.DEFINE_string(
    'rows', '*', 'Rows to show: a glob over their ids.', flag_values=values
  )


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
