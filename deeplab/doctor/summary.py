"""Renders a diagnosis as text for the terminal."""

import numpy as np

from deeplab import text
from deeplab.doctor import diagnosis
from deeplab.doctor import findings

# The most details of a finding that are printed.
_MAX_DETAILS = 5


def format_size_range(sizes: np.ndarray) -> str:
  """Returns 'WxH', or the number of sizes and the range of each side.

  Args:
    sizes: int [n, 2], (H, W) of each image.
  """
  if not len(sizes):
    return 'no image'
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


def format_share(value: float) -> str:
  """Returns a share as a percentage: '-' for 0, '<0.1 %' for very little."""
  if 0 < value < 0.0005:
    return '<0.1 %'
  return f'{100 * value:.1f} %' if value else '-'


def format_verdict(result: diagnosis.Diagnosis) -> str:
  """Returns the number of errors and warnings and what follows, in a line."""
  counts = ', '.join(
    text.plural(result.count(level), level)
    for level in (findings.ERROR, findings.WARNING)
  )
  outcome = 'can start' if result.can_train else 'would go wrong'
  return f'{counts}: training {outcome}.'


def make_class_rows(result: diagnosis.Diagnosis) -> list[tuple[str, ...]]:
  """Returns a row per class: name, share in each split, suggested weight."""
  shares = [
    s.class_frequencies(result.info.num_classes) for s in result.splits.values()
  ]
  return [
    (
      name,
      *(format_share(float(values[i])) for values in shares),
      f'{result.weights[i]:g}' if result.weights else '-',
    )
    for i, name in enumerate(result.info.class_names)
  ]


def format_summary(result: diagnosis.Diagnosis) -> str:
  """Returns the whole diagnosis, each finding cut to a few lines."""
  lines = []
  for name, split in result.splits.items():
    pairs = text.plural(len(split.scans), 'pair')
    share = format_share(split.ignored_share) if split.ignored_share else 'none'
    lines.append(
      f'{name}: {pairs}, {format_size_range(split.sizes)}; pixels ignored: '
      f'{share}'
    )
    if len(split.channel_mean):
      lines.append(f'  images: {findings.format_statistics(split)}')
  rows = [('class', *result.splits, 'weight'), *make_class_rows(result)]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines.append('')
  for first, *others in rows:
    cells = [
      cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)
    ]
    lines.append('  '.join((first.ljust(widths[0]), *cells)))
  if result.weights_remark:
    lines.append(result.weights_remark)
  for finding in result.findings:
    lines += ['', f'{finding.level}: {finding.meaning}']
    lines += [f'  {detail}' for detail in finding.details[:_MAX_DETAILS]]
    if len(finding.details) > _MAX_DETAILS:
      lines.append(f'  and {len(finding.details) - _MAX_DETAILS} more')
  if result.suggestions:
    lines += ['', 'Suggestions:']
  for flag, reason in result.suggestions:
    lines += [f'  {flag}', f'    {reason}']
  return '\n'.join((*lines, '', format_verdict(result)))
