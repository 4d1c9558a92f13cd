"""The part of report.md that speaks of devices, from report.json."""

from typing import Any

from deeplab import text

_LEGEND = """\
* Alive: the sum of activations that an operator and those after it need. Plan:
  ours, which places them as TFLite Micro does. Arena: TFLite Micro's own, head
  (activations and scratch) and tail (what lasts).
* Off the NPU: operators that Arm's compiler leaves to the processor beside it.
  Cycles and milliseconds are its estimates, for the clocks and memories named.
* Estimate: the multiply-accumulates at the most that a device does in a second,
  and nothing else. No device is faster; all are slower.
* LiteRT: median of a few runs on the machine that wrote this, a thread a
  core.
* Steps: differences in units of the output's scale. LiteRT's reference kernels
  are what TFLite Micro is compared with, operator by operator on the same
  inputs and as a whole network."""


def _format_kib(count: int | None) -> str:
  return '' if count is None else f'{count / 1024:,.1f}'


def _format_percent(share: float | None) -> str:
  return '' if share is None else f'{100 * share:.2f}'


def render_class_section(report: dict[str, Any]) -> list[str]:
  """Returns the lines of the accuracy by class; none without an evaluation."""
  names = report['classes']
  formats = {
    name: f for name, f in report['formats'].items() if f.get('agreement')
  }
  if not report['jax'].get('iou') or not formats:
    return []
  header = ['class', 'JAX IoU']
  for name in formats:
    header += [f'{name} IoU', f'{name} agrees (%)']

  def row(title: str, pick: Any) -> list[str]:
    cells = [title, text.format_number(pick(report['jax'], 'iou'), '.4f')]
    for f in formats.values():
      cells.append(text.format_number(pick(f, 'iou'), '.4f'))
      cells.append(_format_percent(pick(f['agreement'], 'classes')))
    return cells

  rows = [
    row(title, lambda where, key, i=i: where[key][i])
    for i, title in enumerate(names)
  ]
  total = {'iou': 'miou', 'classes': 'all'}
  rows.append(row('all', lambda where, key: where[total[key]]))
  return [
    '## Classes',
    '',
    'Agreement: of the pixels that JAX gives the class, those that the file '
    "gives it too, at the file's size, over the same images as mIoU.",
    '',
    *text.format_table(header, rows),
    '',
  ]


def _memory_section(
  name: str, file_summary: dict[str, Any], checks: dict[str, Any]
) -> list[str]:
  micro = checks['micro']
  arena = micro.get('arena', {})
  header = ('', 'KiB')
  rows = [
    ('weights, for flash', _format_kib(file_summary['weight_bytes'])),
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
  if 'absent' in micro:
    lines += [f'TFLite Micro: {micro["absent"]}.', '']
  return lines


def render_npu_section(name: str, checks: dict[str, Any]) -> list[str]:
  """Returns the section of what Arm's compiler makes of a file, as Markdown.

  Args:
    name: of the file.
    checks: see `proof.collect`.
  """
  rows, refused = [], []
  operators = len(checks['memory']['operators'])
  for accelerator, x in checks['npu'].items():
    if 'error' in x:
      refused.append(f'* {accelerator}: {x["error"]}.')
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
      f'* {accelerator}: {y["operator"]} `{y["tensor"]}`: {y["reason"]}'
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
    lines += ['Off the NPU, or not compiled:', '', *refused, '']
  return lines


def _latency_section(report: dict[str, Any], name: str) -> list[str]:
  proof = report['proof'][name]
  rows = [
    (f'LiteRT here, {kind}', f'{f["latency_ms"]:,.2f}', 'measured')
    for kind, f in report['formats'].items()
    if f['latency_ms'] is not None
  ]
  rows += [
    (target, f'{ms:,.2f}', 'estimate')
    for target, ms in proof['estimates'].items()
    if ms is not None
  ]
  return [
    f'## Time of {name}',
    '',
    *text.format_table(('where', 'ms', 'kind'), rows),
    '',
  ]


def _tflm_section(name: str, checks: dict[str, Any]) -> list[str]:
  micro = checks['micro']
  if 'absent' in micro:
    return []
  rows = [
    (operator, str(x['count']), str(x['equal']), f'{x["largest"]:g}')
    for operator, x in micro['operators'].items()
  ]
  total = sum(micro['histogram'].values())
  steps = ', '.join(
    f'{step}: {count:,} ({100 * count / total:.3f} %)'
    for step, count in micro['histogram'].items()
  )
  first = micro['first']
  start = (
    'no tensor of the whole network differs'
    if first is None
    else f'the first that differs is operator {first["step"]}, '
    f'{first["operator"]} `{first["tensor"]}` (by {first["largest"]:g} at most)'
  )
  header = ('operator', 'count', 'bit for bit', 'largest difference')
  return [
    f'## {name} by TFLite Micro',
    '',
    *text.format_table(header, rows),
    '',
    f'Whole network on {micro["images"]} images, output values by steps from '
    f"LiteRT's reference kernels: {steps}; {start}.",
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
    f'The {name} file fits {target["name"]} ({target["title"]}){within}: no '
    'operator of it is refused.',
    '',
    *[f'* {advice}.' for advice in target['advice']],
    '',
  ]


def render_device_sections(report: dict[str, Any]) -> list[str]:
  """Returns the lines of all of it; none if nothing was collected."""
  proofs = report.get('proof') or {}
  lines = []
  for name, target in report['target'].items():
    lines += _target_section(name, target)
  lines += render_class_section(report)
  if report.get('overlays'):
    lines += ['## Masks', '', '![masks](overlays.png)', '']
  for name, proof in proofs.items():
    lines += _memory_section(name, report['formats'][name], proof)
    lines += render_npu_section(name, proof)
    lines += _latency_section(report, name)
    lines += _tflm_section(name, proof)
    lines += [
      f'## Where {name} differs from JAX',
      '',
      f'![differences](errors_{name}.png)',
      '',
    ]
  if proofs:
    lines += ['## What the numbers of devices mean', '', _LEGEND, '']
  return lines
