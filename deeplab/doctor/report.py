"""Renders a diagnosis as one self-contained HTML file with pictures."""

import base64
from collections.abc import Iterable
from collections.abc import Sequence
import html
import pathlib

import cv2
import numpy as np

from deeplab import visualize
from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import findings
from deeplab.doctor import scan
from deeplab.doctor import summary

# The most picture groups and lines of a finding, and samples of a split.
_MAX_PICTURES, _MAX_LINES, _MAX_SAMPLES = 6, 100, 8
_THUMBNAIL_SIZE = 180, 240  # (H, W) that a picture is fitted into
_MASK_OPACITY = 0.6  # opacity of class colors over an image
# The color (magenta) of pixels whose value belongs to no class; no palette in
# common use has it.
_INVALID_COLOR = (255, 0, 255)
# Kinds of findings about images alone, which are drawn without their masks.
_UNMASKED_KINDS = ('leak', 'repeated', 'alike')

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202020; margin: 2em auto;
  max-width: 1100px; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
.verdict { padding: .6em 1em; border-radius: 4px; color: #fff; }
.good { background: #2e7d32; } .bad { background: #b3261e; }
table { border-collapse: collapse; }
th, td { padding: .2em .8em; text-align: right; white-space: nowrap; }
th { white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tr { border-bottom: 1px solid #ddd; }
.swatch { display: inline-block; width: 1em; height: 1em; margin-right: .5em;
  vertical-align: -.15em; border: 1px solid #888; }
.track { display: inline-block; width: 8em; text-align: left; }
.bar { display: inline-block; height: .7em; background: #7a9cc6; }
.share { display: inline-block; width: 4em; }
.sizes { display: inline-block; max-width: 22em; white-space: normal; }
.finding { border-left: 5px solid; padding: .1em 1em; margin: 1.2em 0; }
.error { border-color: #b3261e; } .warning { border-color: #e09600; }
.note { border-color: #7a9cc6; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-end; }
figure { margin: 0; max-width: 500px; border: 1px solid #ddd; padding: 4px; }
figure img { margin-right: 4px; vertical-align: bottom; }
figcaption { font-size: 12px; color: #555; overflow-wrap: anywhere; }
ul { padding-left: 1.2em; } li { overflow-wrap: anywhere; }
code { background: #f2f2f2; padding: .1em .3em; overflow-wrap: anywhere; }
"""


def draw_example(
  example: example_loader.LoadedExample,
  palette: visualize.Palette,
  masked: bool,
) -> list[np.ndarray]:
  """Draws an example.

  Args:
    example: the example.
    palette: one RGB color per class.
    masked: draws the mask over the image, with pixels whose value belongs to no
      class in magenta. A mask whose size differs from the image's is a picture
      of its own.

  Returns:
    Pictures, uint8 [H, W, 3] each; none if nothing could be read.
  """
  image, label = example.image, example.label
  pictures = [] if image is None else [visualize.to_rgb(image)]
  if label is None or (pictures and not masked):
    return pictures
  if image is not None and label.shape == image.shape[:2]:
    drawn = visualize.draw_overlay(image, label, palette, _MASK_OPACITY)
    pictures = [drawn]
  else:
    drawn = visualize.colorize(label, palette)
    pictures.append(drawn)
  if example.invalid is not None:
    drawn[example.invalid] = _INVALID_COLOR
  return pictures


def _render_image(image: np.ndarray) -> str:
  """Returns an <img> element with the pixels in it, as a JPEG data URL."""
  small = visualize.thumbnail(image, _THUMBNAIL_SIZE)
  data = cv2.imencode(
    '.jpg',
    cv2.cvtColor(small, cv2.COLOR_RGB2BGR),
    (cv2.IMWRITE_JPEG_QUALITY, 85),
  )[1]
  code = base64.b64encode(data.tobytes()).decode()
  height, width = small.shape[:2]
  return (
    f'<img width="{width}" height="{height}" alt="" '
    f'src="data:image/jpeg;base64,{code}">'
  )


def _render_figure(
  refs: Sequence[example_loader.ExampleRef],
  dataset: datasets.Dataset,
  masked: bool,
) -> str:
  """Returns a <figure>: pictures of up to two examples, and all their names."""
  images: list[str] = []
  sizes = ''
  for ref in refs[:2]:
    example = example_loader.load_example(ref, dataset)
    images += map(
      _render_image, draw_example(example, dataset.info.palette, masked)
    )
    if masked:
      sizes += _describe_size_mismatch(example)
  if not images:
    return ''
  names = ', '.join(
    f'{ref.split}: {pathlib.Path(ref.image).name}' for ref in refs
  )
  names += sizes
  return (
    f'<figure>{"".join(images)}<figcaption>{html.escape(names)}</figcaption>'
    '</figure>'
  )


def _describe_size_mismatch(example: example_loader.LoadedExample) -> str:
  """Returns the sizes of image and mask if they differ, else ''."""
  if example.image is None or example.label is None:
    return ''
  image, mask = example.image.shape[:2], example.label.shape
  if image == mask:
    return ''
  return f' (image {image[1]}x{image[0]}, mask {mask[1]}x{mask[0]})'


def _render_pictures(figures: Iterable[str]) -> str:
  return f'<div class="pictures">{"".join(figures)}</div>'


def _render_finding(
  finding: findings.Finding, dataset: datasets.Dataset
) -> str:
  lines = [f'<li>{html.escape(d)}</li>' for d in finding.details[:_MAX_LINES]]
  if len(finding.details) > _MAX_LINES:
    lines.append(f'<li>and {len(finding.details) - _MAX_LINES} more</li>')
  figures = _render_pictures(
    _render_figure(group, dataset, finding.kind not in _UNMASKED_KINDS)
    for group in finding.refs[:_MAX_PICTURES]
  )
  return (
    f'<div class="finding {finding.level}"><p><b>{finding.level.capitalize()}: '
    f'{html.escape(finding.meaning)}</b></p><ul>{"".join(lines)}</ul>{figures}'
    '</div>'
  )


def _render_table(rows: Iterable[Sequence[str]]) -> str:
  """Returns a <table>.

  Args:
    rows: the header first; cells are HTML.
  """
  lines = []
  for i, row in enumerate(rows):
    kind = 'td' if i else 'th'
    cells = ''.join(f'<{kind}>{cell}</{kind}>' for cell in row)
    lines.append(f'<tr>{cells}</tr>')
  return f'<table>{"".join(lines)}</table>'


def _render_splits(result: diagnosis.Diagnosis) -> str:
  rows = [
    (
      *('split', 'pairs', 'sizes', 'values of each channel'),
      *('ignored pixels', 'crops without a label'),
    )
  ]
  for name, split in result.splits.items():
    # Only training takes crops.
    cropped = name == next(iter(result.splits))
    rows.append(
      (
        html.escape(name),
        str(len(split.scans)),
        f'<span class="sizes">{summary.format_size_range(split.sizes)}</span>',
        findings.format_statistics(split),
        summary.format_share(split.ignored_share),
        summary.format_share(split.empty_crop_share) if cropped else '',
      )
    )
  return _render_table(rows)


def _render_class_table(result: diagnosis.Diagnosis) -> str:
  """Returns the table of classes: color, share in each split, weight."""
  info = result.info
  shares = [
    s.class_frequencies(info.num_classes) for s in result.splits.values()
  ]
  largest = max([1e-9, *(float(values.max()) for values in shares)])
  rows = [('class', *map(html.escape, result.splits), 'weight')]
  for i, (name, *cells) in enumerate(summary.make_class_rows(result)):
    bars = [
      '<span class="track"><span class="bar" '
      f'style="width: {values[i] / largest * 100:.1f}%"></span></span>'
      f'<span class="share">{html.escape(cell)}</span>'
      for values, cell in zip(shares, cells[:-1], strict=True)
    ]
    rows.append(
      (
        f'{_render_swatch(info.palette[i])}{html.escape(name)}',
        *bars,
        cells[-1],
      )
    )
  remark = (
    f'<p>{html.escape(result.weights_remark)}</p>'
    if result.weights_remark
    else ''
  )
  return _render_table(rows) + remark


def _render_swatch(color: Sequence[int]) -> str:
  red, green, blue = color
  return (
    f'<span class="swatch" style="background: rgb({red}, {green}, {blue})">'
    '</span>'
  )


def _render_legend(info: dataset_info.DatasetInfo) -> str:
  """Explains the colors of the pictures that are no class."""
  value = '' if info.ignore_label is None else f' ({info.ignore_label})'
  return (
    '<p>In the pictures: '
    f'{_render_swatch(visualize.IGNORE_COLOR)}ignored{value}, '
    f'{_render_swatch(_INVALID_COLOR)}no class. Where a mask is drawn over '
    'its image, ignored pixels and a black class show the image.</p>'
  )


def _render_samples(
  split: scan.SplitStatistics, dataset: datasets.Dataset
) -> str:
  """Returns pictures of examples at even distances in a split."""
  refs = [s.ref for s in split.scans]
  count = min(_MAX_SAMPLES, len(refs))
  chosen = [refs[i * len(refs) // count] for i in range(count)]
  return _render_pictures(
    _render_figure((ref,), dataset, True) for ref in chosen
  )


def render_html(result: diagnosis.Diagnosis, dataset: datasets.Dataset) -> str:
  """Returns the report as an HTML page.

  Args:
    result: the diagnosis.
    dataset: the data set.
  """
  title = html.escape(f'Doctor: {dataset.config.root or dataset.info.name}')
  parts = [
    f'<h1>{title}</h1>',
    f'<p class="verdict {"good" if result.can_train else "bad"}">'
    f'{summary.format_verdict(result)}</p>',
    _render_splits(result),
    '<h2>Findings</h2>',
    *(_render_finding(finding, dataset) for finding in result.findings),
    '' if result.findings else '<p>None.</p>',
    '<h2>Classes: share of the labelled pixels</h2>',
    _render_class_table(result),
    _render_legend(dataset.info),
    '<h2>Suggestions</h2>' if result.suggestions else '',
    *(
      f'<p><code>{html.escape(flag)}</code> {html.escape(reason)}</p>'
      for flag, reason in result.suggestions
    ),
  ]
  for name, split in result.splits.items():
    parts += [
      f'<h2>Samples: {html.escape(name)}</h2>',
      _render_samples(split, dataset),
    ]
  body = '\n'.join(filter(None, parts))
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<title>{title}</title><style>{_STYLE}</style></head>\n'
    f'<body>\n{body}\n</body></html>\n'
  )
