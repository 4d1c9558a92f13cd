"""Evaluates published weights as their source does, beside its scores.

A row of the zoo that names weights is loaded, evaluated on its data set by each
protocol for which the source prints a score, and written to a file. Rows and
protocols that have a file are not evaluated again.
"""

from collections.abc import Sequence
import os
import re
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from deeplab import evaluate
from deeplab import text
from deeplab import workdir as workdir_lib
from deeplab.files import config_pages
from deeplab.files import json_files
from deeplab.pretrained import identify
from experiments import zoo_rows

# Variants of the pages, in the order in which sources print their scores.
_PROTOCOLS = {1: ('',), 2: ('', 'ms'), 3: ('', 'flip', 'ms')}
_NAMES = {'': 'single', 'flip': 'flip', 'ms': 'ms+flip'}

check_score = json_files.compile_schema(
  json_files.record(
    {
      'row': json_files.TEXT,
      'weights': json_files.TEXT,
      'config': json_files.TEXT,
      'protocol': json_files.TEXT,
      'miou': json_files.SHARE,
      'published': json_files.number(0, 100),
      'images': json_files.COUNT,
      'revision': json_files.TEXT,
    }
  )
)


def protocols_of(row: zoo_rows.Row) -> dict[str, float]:
  """Returns the published mIoU in percent, by the protocol's page variant.

  Empty where the source prints another score than mIoU.
  """
  scores = re.sub(r'\s*\(.*\)$', '', row.published).split('/')
  if not all(re.fullmatch(r'\s*(\d+(\.\d+)?|-)\s*', x) for x in scores):
    return {}
  variants = _PROTOCOLS.get(len(scores), ())
  return {
    variant: float(score)
    for variant, score in zip(variants, scores, strict=False)
    if score.strip() != '-'
  }


def _load_page(row: zoo_rows.Row, variant: str, data_root: str) -> ConfigDict:
  """Returns the config of a row with the views of a protocol.

  Raises:
    FileNotFoundError: `data_root` lacks the data set.
  """
  page = row.config
  if variant:
    page += f'{"," if ":" in page else ":"}{variant}'
  config = config_pages.load_page(page)
  if data_root:
    config.data.root = os.path.join(data_root, config.data.name)
    if not os.path.isdir(config.data.root):
      raise FileNotFoundError(
        f'{config.data.root} does not exist: put the data set there in its '
        'official layout, or link it'
      )
  return config


def score_path(folder: str, row: zoo_rows.Row, variant: str) -> str:
  """Returns the file of a row's score by one protocol."""
  return os.path.join(folder, row.id, f'{_NAMES[variant]}.json')


def evaluate_row(
  row: zoo_rows.Row, data_root: str, folder: str
) -> list[dict[str, Any]]:
  """Evaluates a row by every protocol that has no file yet.

  Args:
    row: a row that names weights and has a published mIoU.
    data_root: holds one folder per data set, by its name; '' for data sets
      that are downloaded.
    folder: of the scores.

  Returns:
    One record per protocol, as its file holds it.

  Raises:
    ValueError: the weights are damaged or do not fit, or a file of `folder` is
      damaged.
    OSError: the weights or the data cannot be read or downloaded.
  """
  records = []
  for variant, published in protocols_of(row).items():
    path = score_path(folder, row, variant)
    if os.path.exists(path):
      record = json_files.read_checked_json(path, check_score)
      if record['weights'] == row.weights:
        records.append(record)
        continue
    config = _load_page(row, variant, data_root)
    model = identify.load_model(
      row.weights,
      config=config if identify.is_file_of_weights(row.weights) else None,
    )
    workdir = os.path.join(folder, row.id)
    (result,) = evaluate.evaluate_model(
      model, workdir, config=config, overrides=('data.root',)
    ).values()
    record = {
      'row': row.id,
      'weights': row.weights,
      'config': row.config,
      'protocol': _NAMES[variant],
      'miou': result.metrics['miou'],
      'published': published,
      'images': result.examples,
      'revision': workdir_lib.git_revision() or '',
    }
    zoo_rows.write_json(path, record)
    records.append(record)
  return records


def evaluate_rows(
  rows: Sequence[zoo_rows.Row], data_root: str, folder: str
) -> tuple[list[dict[str, Any]], list[str]]:
  """Evaluates all rows that name weights and have a published mIoU.

  A row without data or weights is left out, with its reason, and the next one
  goes on.

  Args:
    rows: the rows.
    data_root: as for `evaluate_row`.
    folder: as for `evaluate_row`.

  Returns:
    The records, and one sentence for each row that was left out.
  """
  records, left_out = [], []
  for row in rows:
    if not row.weights:
      left_out.append(f'{row.id}: no weights are published')
    elif not protocols_of(row):
      left_out.append(f'{row.id}: no mIoU is published')
    else:
      try:
        records += evaluate_row(row, data_root, folder)
      except (OSError, ValueError) as error:
        left_out.append(f'{row.id}: {error}')
        logging.error('%s', left_out[-1])
  return records, left_out


def format_scores(records: Sequence[dict[str, Any]]) -> str:
  """Returns the records of `evaluate_rows` as a Markdown table."""
  lines = [
    (
      record['row'],
      record['protocol'],
      str(record['images']),
      f'{100 * record["miou"]:.2f}',
      f'{record["published"]:.2f}',
      f'{100 * record["miou"] - record["published"]:+.2f}',
    )
    for record in records
  ]
  header = ('row', 'protocol', 'images', 'ours', 'published', 'difference')
  return '\n'.join(text.format_table(header, lines, right_align=False))
