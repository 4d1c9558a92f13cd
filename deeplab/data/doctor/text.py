"""The diagnosis in a few lines for the terminal."""

import numpy as np

from deeplab.data.doctor import diagnosis
from deeplab.data.doctor import findings

# Details of a finding that the terminal shows, at most.
_SHOWN = 5


def size_range(sizes: np.ndarray) -> str:
  """Returns 'WxH', or the least, the greatest and the median of each side.

  Args:
    sizes: int [n, 2], (H, W) each.
  """
  if not len(sizes):
    return 'no size'
  if not np.ptp(sizes, axis=0).any():
    return f'{sizes[0, 1]}x{sizes[0, 0]}'
  (height, width), (least_height, least_width), (most_height, most_width) = (
    f(sizes, axis=0).astype(int) for f in (np.median, np.min, np.max)
  )
  return (
    f'{least_width}x{least_height} to {most_width}x{most_height}, median '
    f'{width}x{height}'
  )


def share(value: float) -> str:
  """Returns a share as a percentage, told from nothing where it is little."""
  if 0 < value < 0.0005:
    return '<0.1 %'
  return f'{100 * value:.1f} %' if value else '-'


def advice(result: diagnosis.Diagnosis) -> list[str]:
  """Returns the flags that the doctor suggests."""
  flags = []
  if result.weights:
    flags.append(f'--config.loss.balance={result.balance:g}')
  if result.crop:
    height, width = result.crop
    flags.append(f'--config.data.augment.random_crop.size="({height},{width})"')
  return flags


def verdict(result: diagnosis.Diagnosis) -> str:
  """Returns the conclusion in one line."""
  counts = ', '.join(
    f'{result.count(level)} {level}{"s" * (result.count(level) != 1)}'
    for level in (findings.ERROR, findings.WARNING)
  )
  outcome = 'can start' if result.healthy else 'would go wrong'
  return f'{counts}: training {outcome}.'


def balance(result: diagnosis.Diagnosis) -> list[tuple[str, ...]]:
  """Returns a row a class: name, share in each split, suggested weight."""
  shares = [s.shares(result.info.num_classes) for s in result.splits.values()]
  return [
    (
      name,
      *(share(float(values[i])) for values in shares),
      f'{result.weights[i]:g}' if result.weights else '-',
    )
    for i, name in enumerate(result.info.class_names)
  ]


def summary(result: diagnosis.Diagnosis) -> str:
  """Returns all findings, cut to a few lines each."""
  lines = []
  for name, split in result.splits.items():
    lines.append(
      f'{name}: {len(split.scans)} pairs, {size_range(split.sizes)}; ignored '
      f'{share(split.ignored)} of the pixels'
    )
  rows = [('class', *result.splits, 'weight'), *balance(result)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines.append('')
  for first, *others in rows:
    cells = [
      cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
    ]
    lines.append('  '.join((first.ljust(widths[0]), *cells)))
  for finding in result.findings:
    lines += ['', f'{finding.level}: {finding.meaning}']
    lines += [f'  {detail}' for detail in finding.details[:_SHOWN]]
    if len(finding.details) > _SHOWN:
      lines.append(f'  and {len(finding.details) - _SHOWN} more')
  if advice(result):
    lines += ['', 'Suggested:', *(f'  {flag}' for flag in advice(result))]
  return '\n'.join((*lines, '', verdict(result)))
