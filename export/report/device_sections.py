"""Renders the sections of report.md on classes, masks and device checks."""

from typing import Any

from deeplab import text

_LEGEND = """\
* Alive: the activations that an operator and those after it need. Plan: our
  arena plan, which places activations as TFLite Micro does. Arena: measured on
  TFLite Micro; head is activations and scratch memory, tail persistent data.
* Off the NPU: operators that Vela leaves to the host processor. Cycles and
  milliseconds are Vela's estimates for the clocks and memories named.
* Estimate: MACs divided by the peak MACs per second of the device. It is a
  lower bound: memory traffic and all other operators add to it.
* LiteRT: median of a few runs on the machine that wrote this report, one thread
  per core.
* LSB: differences in units of the output's scale. TFLite Micro is compared with
  LiteRT's reference kernels, operator by operator on the same inputs and as a
  whole network."""


def _format_kib(count: int | None) -> str:
  return '' if count is None else f'{count / 1024:,.1f}'


def _format_percent(share: float | None) -> str:
  return '' if share is None else f'{100 * share:.2f}'


def render_class_section(report: dict[str, Any]) -> list[str]:
  """Renders IoU and arg-max agreement per class.

  Args:
    report: content of report.json.

  Returns:
    Lines of Markdown; none without an evaluation.
  """
  names = report['classes']
  formats = {
    name: f for name, f in report['formats'].items() if f.get('agreement')
  }
  if not report['jax'].get('iou') or not formats:
    return []
  header = ['class', 'JAX IoU']
  for name in formats:
    header += [f'{name} IoU', f'{name} agreement (%)']

  def row(title: str, select: Any) -> list[str]:
    cells = [
      text.escape_markdown(title),
      text.format_number(select(report['jax'], 'iou'), '.4f'),
    ]
    for f in formats.values():
      cells.append(text.format_number(select(f, 'iou'), '.4f'))
      cells.append(_format_percent(select(f['agreement'], 'classes')))
    return cells

  rows = [
    row(title, lambda scores, key, i=i: scores[key][i])
    for i, title in enumerate(names)
  ]
  total = {'iou': 'miou', 'classes': 'all'}
  rows.append(row('all', lambda scores, key: scores[total[key]]))
  return [
    '## Classes',
    '',
    'Agreement: share of the pixels that JAX assigns to the class which the '
    "file assigns to it, too, at the file's size, on the same images as mIoU.",
    '',
    *text.format_table(header, rows),
    '',
  ]


def _memory_section(
  name: str, file_summary: dict[str, Any], checks: dict[str, Any]
) -> list[str]:
  tflm = checks['micro']
  arena = tflm.get('arena', {})
  header = ('', 'KiB')
  rows = [
    ('weights (flash)', _format_kib(file_summary['weight_bytes'])),
    ('file', _format_kib(file_summary['file_bytes'])),
    (
      'most alive at once',
      _format_kib(file_summary['activation_lower_bound_bytes']),
    ),
    ('plan', _format_kib(file_summary['peak_activation_bytes'])),
    ('TFLite Micro, head', _format_kib(arena.get('head'))),
    ('TFLite Micro, tail', _format_kib(arena.get('tail'))),
    ('TFLite Micro, arena', _format_kib(arena.get('total'))),
  ]
  lines = [
    f'## Memory of {name}',
    '',
    *text.format_table(header, rows),
    '',
    f'![bytes alive at each operator](memory_{name}.png)',
    '',
  ]
  if 'absent' in tflm:
    lines += [f'TFLite Micro: {tflm["absent"]}.', '']
  return lines


def render_npu_section(name: str, checks: dict[str, Any]) -> list[str]:
  """Renders Vela's summaries of a file.

  Args:
    name: format of the file.
    checks: `memory` and `npu` of `measure.run_device_checks`.

  Returns:
    Lines of Markdown.
  """
  rows, refused = [], []
  operators = len(checks['memory']['operators'])
  for accelerator, x in checks['npu'].items():
    if 'error' in x:
      refused.append(f'* {accelerator}: {text.escape_markdown(x["error"])}.')
      continue
    planned = ''
    if x['planned_bytes'] is not None:
      planned = f', planned with {_format_kib(x["planned_bytes"])} KiB of SRAM'
    rows.append(
      (
        accelerator,
        str(operators - len(x['refused'])),
        str(len(x['refused'])),
        _format_kib(x['sram_bytes']),
        _format_kib(x['dram_bytes']),
        _format_kib(x['flash_bytes']),
        f'{x["macs"]:,}',
        f'{x["cycles"]:,}',
        f'{1e3 * x["seconds"]:,.2f}',
        x['system'] + planned,
      )
    )
    refused += [
      f'* {accelerator}: {y["operator"]} {text.format_code(y["tensor"])}: '
      f'{text.escape_markdown(y["reason"])}'
      for y in x['refused']
    ]
  lines = [f'## {name} on Ethos-U', '']
  if rows:
    header = (
      *('accelerator', 'on the NPU', 'off the NPU', 'SRAM KiB', 'DRAM KiB'),
      *('flash KiB', 'MACs', 'cycles', 'ms', 'clocks and memories'),
    )
    lines += [*text.format_table(header, rows), '']
  if refused:
    lines += ['Operators off the NPU, and errors of Vela:', '', *refused, '']
  return lines


def _latency_section(report: dict[str, Any], name: str) -> list[str]:
  checks = report['proof'][name]
  rows = [
    (f'LiteRT on this machine, {kind}', f'{f["latency_ms"]:,.2f}', 'measured')
    for kind, f in report['formats'].items()
    if f['latency_ms'] is not None
  ]
  rows += [
    (target, f'{ms:,.2f}', 'estimate')
    for target, ms in checks['estimates'].items()
    if ms is not None
  ]
  return [
    f'## Latency of {name}',
    '',
    *text.format_table(('device', 'ms', 'kind'), rows),
    '',
  ]


def _tflm_section(name: str, checks: dict[str, Any]) -> list[str]:
  tflm = checks['micro']
  if 'absent' in tflm:
    return []
  rows = [
    (operator, str(x['count']), str(x['equal']), f'{x["largest"]:g}')
    for operator, x in tflm['operators'].items()
  ]
  total = sum(tflm['histogram'].values())
  histogram = ', '.join(
    f'{lsb}: {count:,} ({100 * count / total:.3f} %)'
    for lsb, count in tflm['histogram'].items()
  )
  first = tflm['first']
  cause = (
    'no tensor of the whole network differs'
    if first is None
    else f'the first that differs is operator {first["step"]}, '
    f'{first["operator"]} {text.format_code(first["tensor"])} (by '
    f'{first["largest"]:g} at most)'
  )
  header = ('operator', 'count', 'bit-exact', 'max difference (LSB)')
  return [
    f'## {name} on TFLite Micro',
    '',
    *text.format_table(header, rows),
    '',
    f'Whole network on {tflm["images"]} images, output values by their '
    f"difference in LSB from LiteRT's reference kernels: {histogram}; {cause}.",
    '',
  ]


def _target_section(name: str, target: dict[str, Any]) -> list[str]:
  limits = [
    f'{_format_kib(target[key])} KiB of {what}'
    for key, what in (('ram_bytes', 'RAM'), ('flash_bytes', 'flash'))
    if target[key] is not None
  ]
  within = f' within {" and ".join(limits)}' if limits else ''
  return [
    f'The {name} file fits {target["name"]} ({target["title"]}){within}. The '
    'device runs all of its operators.',
    '',
    *[f'* {advice}.' for advice in target['advice']],
    '',
  ]


def render_device_sections(report: dict[str, Any]) -> list[str]:
  """Renders targets, classes, masks and the device checks of each file.

  Args:
    report: content of report.json.

  Returns:
    Lines of Markdown; none without any of them.
  """
  checks_by_name = report.get('proof') or {}
  lines = []
  for name, target in report['target'].items():
    lines += _target_section(name, target)
  lines += render_class_section(report)
  if report.get('overlays'):
    lines += ['## Predictions', '', '![predicted masks](overlays.png)', '']
  for name, checks in checks_by_name.items():
    lines += _memory_section(name, report['formats'][name], checks)
    lines += render_npu_section(name, checks)
    lines += _latency_section(report, name)
    lines += _tflm_section(name, checks)
    lines += [
      f'## Differences of {name} from JAX',
      '',
      f'![differences](errors_{name}.png)',
      '',
    ]
  if checks_by_name:
    lines += ['## Definitions of the device checks', '', _LEGEND, '']
  return lines
