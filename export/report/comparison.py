"""An earlier export beside this one: float, calibrated and trained int8.

A run in simulated int8 and the float run that it began with are exported one
by one; their scores belong into one table.
"""

import json
import os
from typing import Any

from deeplab import text

Report = dict[str, Any]


def read_baseline(folder: str, report: Report) -> Report:
  """Returns what a report repeats of an earlier export.

  Args:
    folder: of the earlier export.
    report: the new one, with `dataset`, `classes`, `scored` and
      `request` in it.

  Returns:
    `export`, the folder's name; `jax` and `formats` (name -> mIoU).

  Raises:
    ValueError: no export is there, or its scores are of something else.
  """
  path = os.path.join(folder, 'report.json')
  if not os.path.isfile(path):
    raise ValueError(f'--baseline={folder} holds no earlier export: no {path}')
  with open(path, encoding='utf-8') as f:
    other = json.load(f)
  same = [
    ('data set', other['dataset'], report['dataset']),
    ('classes', other['classes'], report['classes']),
    ('number of scored images', other.get('scored'), report['scored']),
  ]
  for name in ('input_size', 'output', 'resize'):
    theirs, ours = (x['request'][name] for x in (other, report))
    if not isinstance(theirs, str):  # JSON has lists
      theirs, ours = tuple(theirs), tuple(ours)
    same.append((name.replace('_', ' '), theirs, ours))
  for what, theirs, ours in same:
    if theirs != ours:
      raise ValueError(
        f'--baseline={folder}: its {what} is {theirs}, here it is {ours}: the '
        'mIoU of the two is not comparable'
      )
  return {
    'export': os.path.basename(os.path.abspath(folder)),
    'jax': other['jax']['miou'],
    'formats': {name: f['miou'] for name, f in other['formats'].items()},
  }


def render_comparison(report: Report) -> list[str]:
  """Returns the section as Markdown; none without an earlier export."""
  other = report['beside']
  if other is None:
    return []
  rows = [(other['export'], 'JAX', other['jax'])]
  rows += [(other['export'], *pair) for pair in other['formats'].items()]
  rows.append(('this', 'JAX', report['jax']['miou']))
  rows += [('this', name, f['miou']) for name, f in report['formats'].items()]
  points = lambda x: None if x is None else 100 * (x - other['jax'])
  return [
    f'## Beside {other["export"]}',
    '',
    f'By the same protocol, over the same {report["scored"]} images.',
    '',
    *text.format_table(
      (
        'export',
        'format',
        'mIoU',
        f'against JAX of {other["export"]} (points)',
      ),
      [
        (
          where,
          name,
          text.format_number(miou, '.4f'),
          text.format_number(points(miou), '+.2f'),
        )
        for where, name, miou in rows
      ],
    ),
    '',
  ]
