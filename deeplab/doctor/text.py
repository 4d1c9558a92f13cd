"""The diagnosis in a few lines for the terminal."""

import numpy as np

from deeplab import text
from deeplab.doctor import diagnosis
from deeplab.doctor import findings

# Details of a finding that the terminal shows, at most.
_SHOWN = 5


def size_range(sizes: np.ndarray) -> str:
  """Returns 'WxH', or how many sizes there are and what each side goes through.

  Args:
    sizes: int [n, 2], (H, W) each.
  """
  if not len(sizes):
    return 'no size'
  if not np.ptp(sizes, axis=0).any():
    return f'{sizes[0, 1]}x{sizes[0, 0]}'
  sides = (
    f'{name} {least} to {most}, median {median:.0f}'
    for name, least, most, median in zip(
      ('heights', 'widths'),
      np.min(sizes, axis=0),
      np.max(sizes, axis=0),
      np.median(sizes, axis=0),
      strict=True,
    )
  )
  return f'{len(np.unique(sizes, axis=0))} sizes ({"; ".join(sides)})'


def share(value: float) -> str:
  """Returns a share as a percentage, told from nothing where it is little."""
  if 0 < value < 0.0005:
    return '<0.1 %'
  return f'{100 * value:.1f} %' if value else '-'


def verdict(result: diagnosis.Diagnosis) -> str:
  """Returns the conclusion in one line."""
  counts = ', '.join(
    text.plural(result.count(level), level)
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
    pairs = text.plural(len(split.scans), 'pair')
    lines.append(
      f'{name}: {pairs}, {size_range(split.sizes)}; ignored '
      f'{share(split.ignored) if split.ignored else "none"} of the pixels'
    )
  rows = [('class', *result.splits, 'weight'), *balance(result)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines.append('')
  for first, *others in rows:
    cells = [
      cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
    ]
    lines.append('  '.join((first.ljust(widths[0]), *cells)))
  if result.use:
    lines.append(result.use)
  for finding in result.findings:
    lines += ['', f'{finding.level}: {finding.meaning}']
    lines += [f'  {detail}' for detail in finding.details[:_SHOWN]]
    if len(finding.details) > _SHOWN:
      lines.append(f'  and {len(finding.details) - _SHOWN} more')
  if result.advice:
    lines += ['', 'Suggested:']
  for flag, reason in result.advice:
    lines += [f'  {flag}', f'    {reason}']
  return '\n'.join((*lines, '', verdict(result)))
