"""Compares the scores of an export with those of an earlier one.

A run in simulated int8 and the float run that it started from are exported one
by one; with `--baseline` the scores of both stand in one table.
"""

import os
from typing import Any

from deeplab import text
from deeplab.files import json_files

Report = dict[str, Any]


_SCORED = json_files.record({'miou': json_files.nullable(json_files.SHARE)})
_check_baseline = json_files.compile_schema(
  json_files.record(
    {
      'dataset': json_files.TEXT,
      'classes': json_files.array(json_files.TEXT),
      'request': json_files.record(
        {
          'input_size': json_files.array(json_files.SIZE, 2),
          'output': json_files.TEXT,
          'resize': json_files.TEXT,
        }
      ),
      'jax': _SCORED,
      'formats': {'type': 'object', 'additionalProperties': _SCORED},
    },
    scored=json_files.nullable(json_files.COUNT),
  )
)


def read_baseline(folder: str, report: Report) -> Report:
  """Reads the scores of an earlier export.

  Args:
    folder: the earlier export.
    report: content of the new report.json, with `dataset`, `classes`, `scored`
      and `request` in it.

  Returns:
    `export`, the folder's name; `jax`, the mIoU of its JAX model; and
    `formats`, format -> mIoU.

  Raises:
    ValueError: the folder holds no export, a damaged one, or one that was
      evaluated on other data or in another way.
  """
  path = os.path.join(folder, 'report.json')
  if not os.path.isfile(path):
    raise ValueError(f'--baseline={folder} holds no earlier export: no {path}')
  baseline = json_files.read_checked_json(
    path, _check_baseline, 'pass another --baseline'
  )
  for name, theirs, ours in _evaluation_settings(baseline, report):
    if theirs != ours:
      raise ValueError(
        f'--baseline={folder}: its {name} is {theirs}, here it is {ours}: the '
        'mIoU of the two is not comparable'
      )
  return {
    'export': os.path.basename(os.path.abspath(folder)),
    'jax': baseline['jax']['miou'],
    'formats': {name: f['miou'] for name, f in baseline['formats'].items()},
  }


def _evaluation_settings(
  baseline: Report, report: Report
) -> list[tuple[str, Any, Any]]:
  """Lists what must be equal in both reports: name and the two values."""
  settings = [
    ('data set', baseline['dataset'], report['dataset']),
    ('classes', baseline['classes'], report['classes']),
    ('number of scored images', baseline.get('scored'), report['scored']),
  ]
  for name in ('input_size', 'output', 'resize'):
    theirs, ours = (x['request'][name] for x in (baseline, report))
    if not isinstance(theirs, str):  # a tuple, which JSON turns into a list
      theirs, ours = tuple(theirs), tuple(ours)
    settings.append((name.replace('_', ' '), theirs, ours))
  return settings


def render_comparison(report: Report) -> list[str]:
  """Renders the comparison with the baseline.

  Args:
    report: content of report.json.

  Returns:
    Lines of Markdown; none without a baseline.
  """
  baseline = report['beside']
  if baseline is None:
    return []
  earlier = text.escape_markdown(baseline['export'])
  rows = [(earlier, 'JAX', baseline['jax'])]
  rows += [
    (earlier, text.escape_markdown(name), miou)
    for name, miou in baseline['formats'].items()
  ]
  rows.append(('this', 'JAX', report['jax']['miou']))
  rows += [('this', name, f['miou']) for name, f in report['formats'].items()]
  points = lambda x: None if x is None else 100 * (x - baseline['jax'])
  return [
    f'## Comparison with {earlier}',
    '',
    f'Evaluated by the same protocol on the same {report["scored"]} images.',
    '',
    *text.format_table(
      (
        'export',
        'format',
        'mIoU',
        f'difference from JAX of {earlier} (points)',
      ),
      [
        (
          export,
          name,
          text.format_number(miou, '.4f'),
          text.format_number(points(miou), '+.2f'),
        )
        for export, name, miou in rows
      ],
    ),
    '',
  ]
