"""report.md from report.json: the same facts for people."""

from typing import Any

from deeplab import text
from export.report import comparison
from export.report import device_sections

Report = dict[str, Any]

_LEGEND = """\
* Weight bytes: every constant that operators read, biases included; file bytes
  add names, scales and tables.
* Activation bytes: a greedy plan, largest first, 16-byte aligned, which is what
  TFLite and TFLite Micro do; the lower bound is the most that is alive at once.
  Scratch memory of kernels comes on top. Weights that a float16 file unpacks on
  loading are memory besides, given as unpacked bytes.
* MACs: convolutions and matrix products read from the file, padding counted.
* Parity: against JAX on the same images at the file's size, before any resize
  back. The largest difference is in units of the output.
* mIoU: every row by one evaluator and one protocol: images resized to the
  file's size, the file's output resized back to the label's."""


def render_quality_table(report: Report) -> str:
  """Returns the quality table: mIoU and parity of JAX and each format."""
  rows = [
    [
      f'JAX, {report["jax"]["arithmetic"]}',
      text.format_number(report['jax']['miou'], '.4f'),
      '',
      '',
      '',
    ]
  ]
  for name, f in report['formats'].items():
    rows.append(
      [
        name,
        text.format_number(f['miou'], '.4f'),
        text.format_number(f['miou_difference_points'], '+.2f'),
        text.format_number(f['parity']['max_abs_difference'], '.3g'),
        text.format_number(100 * f['parity']['argmax_agreement'], '.2f'),
      ]
    )
  return '\n'.join(
    text.format_table(
      (
        'format',
        'mIoU',
        'against JAX (points)',
        'largest difference',
        'arg-max agreement (%)',
      ),
      rows,
    )
  )


def _size_table(report: Report) -> list[str]:
  keys = (
    'file_bytes',
    'weight_bytes',
    'peak_activation_bytes',
    'activation_lower_bound_bytes',
    'unpacked_weight_bytes',
    'macs',
    'params',
  )
  header = (
    'format',
    'file bytes',
    'weight bytes',
    'activation bytes',
    'lower bound',
    'unpacked bytes',
    'MACs',
    'parameters',
  )
  return text.format_table(
    header,
    [
      [name, *[text.format_number(f[key]) for key in keys]]
      for name, f in report['formats'].items()
    ],
  )


def _simulation_section(report: Report) -> list[str]:
  """Returns how far int8_litert is from JAX's simulation, if it was made."""
  rows = [
    [
      name,
      text.format_number(x['images']),
      text.format_number(x['miou'], '.4f'),
      text.format_number(100 * x['same'], '.3f'),
      text.format_number(100 * x['within_one'], '.3f'),
      str(x['max_steps']),
      text.format_number(100 * x['argmax_agreement'], '.3f'),
    ]
    for f in report['formats'].values()
    if f['simulation']
    for name, x in f['simulation']['beside'].items()
  ]
  if not rows:
    return []
  (simulated,) = [
    f['simulation']['miou']
    for f in report['formats'].values()
    if f['simulation']
  ]
  header = (
    *('kernels', 'images', 'mIoU', 'equal (%)', 'within one step (%)'),
    *('largest distance (steps)', 'arg-max agreement (%)'),
  )
  scored = (
    []
    if simulated is None
    else [f'mIoU of the simulation: {simulated:.4f}.', '']
  )
  return [
    '## Simulation',
    '',
    "JAX's simulated int8 against the int8_litert file: LiteRT's plain loops, "
    'which it simulates, the kernels that LiteRT takes by itself, and TFLite '
    "Micro's.",
    '',
    *text.format_table(header, rows),
    '',
    *scored,
  ]


def _operator_table(report: Report) -> list[str]:
  rows = [
    [operator, name, text.format_number(count), dtype]
    for name, f in report['formats'].items()
    for operator, counts in f['operator_dtypes'].items()
    for dtype, count in counts.items()
  ]
  return text.format_table(
    ('operator', 'format', 'count', 'output dtype'), rows
  )


def _io_table(report: Report) -> list[str]:
  rows = []
  for name, f in report['formats'].items():
    for end in ('input', 'output'):
      q = f[end]['quantization']
      rows.append(
        [
          name,
          end,
          f[end]['dtype'],
          'x'.join(map(str, f[end]['shape'])),
          '' if q is None else f'{q["scale"]:g}',
          '' if q is None else str(q['zero_point']),
        ]
      )
  return text.format_table(
    ('format', 'end', 'dtype', 'shape', 'scale', 'zero point'), rows
  )


def render_report(report: Report) -> str:
  """Returns report.md."""
  request, model = report['request'], report['model']
  size = 'x'.join(map(str, request['input_size']))
  normalization = (
    'in the graph' if request['normalization_in_graph'] else "the caller's"
  )
  lines = [
    f'# Export of {report["source"]["config"]}',
    '',
    *[f'{note}\n' for note in report['notes']],
    f'Input {size}, batch 1, normalisation {normalization}; output '
    f'{request["output"]}. {model["params"]:,} parameters, '
    f'{model["macs"]:,} MACs in the model.',
    '',
    '## Quality',
    '',
    render_quality_table(report),
    '',
    *comparison.render_comparison(report),
    '## Size',
    '',
    *_size_table(report),
    '',
    *_simulation_section(report),
    '## Inputs and outputs',
    '',
    *_io_table(report),
    '',
    *device_sections.render_device_sections(report),
    '## Operators',
    '',
    *_operator_table(report),
    '',
    '## What the numbers mean',
    '',
    _LEGEND,
    '',
    '## Made with',
    '',
    ', '.join(f'{k} {v}' for k, v in report['versions'].items())
    + f'; files run by LiteRT with its {report["resolver"]!r} kernels.',
    '',
  ]
  return '\n'.join(lines)
