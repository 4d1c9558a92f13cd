"""Renders report.md from the content of report.json.

The numbers are read from the JSON content, so that both files agree.
"""

from typing import Any

from deeplab import text
from export.report import comparison
from export.report import device_sections

Report = dict[str, Any]

_LEGEND = """\
* mIoU: one evaluator and one protocol for every row: images resized to the
  file's size, the output resized back to the size of the label.
* Max abs difference: from the outputs of JAX on the same images, at the file's
  size and before any resize back, in units of the output. Arg-max agreement:
  share of the pixels with the same class.
* File bytes: weights, names, scales and tables. Weight bytes: every constant
  that operators read, biases included.
* Activation bytes: a greedy plan, largest first, 16-byte aligned, as TFLite and
  TFLite Micro plan. Lower bound: the most bytes that are alive at one operator.
  Kernels need scratch memory in addition.
* Unpacked bytes: weights of a float16 file that an interpreter converts to
  float32 when it loads the file: memory in addition to file and activations.
* MACs: multiply-accumulates of convolutions and matrix products in the file,
  padding included.
* LSB: least significant bit, one step of the quantized output."""


def render_quality_table(report: Report) -> str:
  """Renders the table of mIoU and parity, JAX first and then each format.

  Args:
    report: content of report.json.

  Returns:
    Markdown.
  """
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
        'mIoU minus JAX (points)',
        'max abs difference',
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
  """Renders the differences between int8_litert files and their simulation."""
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
    *('kernels', 'images', 'mIoU', 'equal (%)', 'within 1 LSB (%)'),
    *('max difference (LSB)', 'arg-max agreement (%)'),
  )
  scored = (
    []
    if simulated is None
    else [f'mIoU of the simulation: {simulated:.4f}.', '']
  )
  return [
    '## Simulation',
    '',
    'Outputs of the int8_litert file compared with simulated int8 in JAX, in '
    "LSB. 'reference' are LiteRT's plain loops, whose arithmetic "
    "is simulated, 'default' the kernels that LiteRT uses by default, 'tflm' "
    'those of TFLite Micro.',
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
    ('format', 'tensor', 'dtype', 'shape', 'scale', 'zero point'), rows
  )


def render_report(report: Report) -> str:
  """Renders report.md.

  Args:
    report: content of report.json.

  Returns:
    Markdown.
  """
  request, model = report['request'], report['model']
  size = 'x'.join(map(str, request['input_size']))
  normalization = (
    'in the graph' if request['normalization_in_graph'] else 'by the caller'
  )
  lines = [
    f'# Export of {text.escape_markdown(report["source"]["config"])}',
    '',
    *[f'{remark}\n' for remark in report['notes']],
    f'Input {size}, batch 1, normalization {normalization}; output '
    f'{request["output"]}. {model["params"]:,} parameters, '
    f'{model["macs"]:,} MACs.',
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
    '## Definitions',
    '',
    _LEGEND,
    '',
    '## Versions',
    '',
    ', '.join(f'{k} {v}' for k, v in report['versions'].items())
    + f'. LiteRT ran the files with its {report["resolver"]!r} kernels.',
    '',
  ]
  return '\n'.join(lines)
