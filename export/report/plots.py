"""The plots of a report: memory by operator, errors of int8, overlays.

`plot_*` and `draw_*` return uint8 [H, W, 3]; `write_*` save that as the PNG
file which report.md refers to.
"""

from collections.abc import Sequence
import os
from typing import Any

import numpy as np

from deeplab import evaluate
from deeplab import visualize
from deeplab.data import dataset_info
from deeplab.inference import predictors

_OVERLAY_SIZE = (240, 320)  # (H, W) of each, pixels
_OVERLAY_OPACITY = 0.6
_ERROR_PLOT_IMAGES = 3
_PANEL_INCHES = 3.2


def plot_memory(
  timeline: dict[str, Any], arena: int, ram: int | None
) -> np.ndarray:
  """Plots the activation bytes that are alive at each operator.

  Args:
    timeline: `bytes` and `operators`, as `measure.memory_timeline` returns
      them.
    arena: bytes of the planned arena.
    ram: bytes of the target's RAM; None draws no line, and neither does one so
      large that it would flatten the plot.

  Returns:
    uint8 [H, W, 3].
  """
  from matplotlib import figure as figures

  kib = np.asarray(timeline['bytes']) / 1024
  peak = int(kib.argmax())
  names = [*timeline['operators'], 'output']
  figure = figures.Figure(figsize=(10, 4), dpi=100, layout='constrained')
  axes = figure.subplots()
  axes.bar(np.arange(len(kib)), kib, width=1.0, color='#4c78a8', label='alive')
  axes.bar([peak], [kib[peak]], width=1.0, color='#e45756')
  axes.axhline(
    arena / 1024, color='black', lw=1, label=f'plan, {arena / 1024:,.0f} KiB'
  )
  if ram is not None and ram < 4 * arena:
    axes.axhline(
      ram / 1024,
      color='#e45756',
      ls='--',
      lw=1,
      label=f'RAM, {ram / 1024:,.0f} KiB',
    )
  right = peak > len(kib) / 2
  axes.annotate(
    f'{names[min(peak, len(names) - 1)]}, {kib[peak]:,.0f} KiB',
    (peak, kib[peak]),
    xytext=(-8 if right else 8, -8),
    textcoords='offset points',
    ha='right' if right else 'left',
    va='top',
    fontsize=9,
    bbox={'facecolor': 'white', 'alpha': 0.8, 'lw': 0},
  )
  axes.set_xlim(-0.5, len(kib) - 0.5)
  axes.set_ylim(0, 1.2 * max(arena / 1024, kib.max()))
  axes.set_xlabel('operator, in order of execution')
  axes.set_ylabel('KiB of activations')
  axes.legend(frameon=False, loc='upper center', ncols=3)
  axes.spines[['top', 'right']].set_visible(False)
  return visualize.render_figure(figure)


def plot_errors(
  images: Sequence[np.ndarray],
  expected: Sequence[np.ndarray],
  found: Sequence[np.ndarray],
) -> np.ndarray:
  """Plots where the outputs of a file differ from those of JAX.

  Args:
    images: [H, W, 3] in 0..255, one per row of the plot.
    expected: outputs of JAX, [h, w, K] scores or [h, w] class ids per image.
    found: outputs of the file, in the same shapes.

  Returns:
    uint8 [H, W, 3].
  """
  from matplotlib import figure as figures

  count = len(images)
  has_scores = expected[0].ndim == 3
  columns = 3 if has_scores else 2
  height, width = images[0].shape[:2]
  figure = figures.Figure(
    figsize=(
      _PANEL_INCHES * columns + 0.8,
      _PANEL_INCHES * height / width * count + 0.5,
    ),
    dpi=100,
    layout='constrained',
  )
  panels = figure.subplots(count, columns, squeeze=False)
  differences = [
    np.abs(a - b).mean(axis=-1) if has_scores else a != b
    for a, b in zip(expected, found, strict=True)
  ]
  largest = max(float(d.max()) for d in differences) or 1.0
  for row, image, a, b, difference in zip(
    panels, images, expected, found, differences, strict=True
  ):
    for axes in row:
      axes.set_axis_off()
    row[0].imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    if has_scores:
      drawn = row[1].imshow(difference, cmap='magma', vmin=0, vmax=largest)
      figure.colorbar(drawn, ax=row[1], shrink=0.85)
      mismatch = predictors.argmax(a) != predictors.argmax(b)
    else:
      mismatch = difference
    _draw_mismatch(row[-1], mismatch)
  panels[0][0].set_title('image', fontsize=10)
  if has_scores:
    panels[0][1].set_title('mean absolute score difference', fontsize=10)
  panels[0][-1].set_title('different class', fontsize=10)
  return visualize.render_figure(figure)


def _draw_mismatch(axes: Any, mismatch: np.ndarray) -> None:
  """Draws a framed mask, bool [h, w], with its share of the pixels."""
  axes.imshow(mismatch, cmap='gray_r', vmin=0, vmax=1)
  axes.set_frame_on(True)
  axes.set_axis_on()
  axes.set_xticks([])
  axes.set_yticks([])
  axes.set_xlabel(f'{100 * np.mean(mismatch):.2f} % of the pixels')


def draw_overlays(
  rows: Sequence[tuple[np.ndarray, Sequence[tuple[str, np.ndarray]]]],
  names: Sequence[str],
  palette: visualize.Palette,
) -> np.ndarray:
  """Draws masks over their images, one image per row, above a legend.

  Args:
    rows: an image, uint8 [H, W, 3], and its masks, each a caption and uint8
      [H, W] class ids; the same number of masks in every row.
    names: class names.
    palette: RGB triples, one per class.

  Returns:
    uint8 [H, W, 3].
  """
  columns = len(rows[0][1])
  pictures = [
    (caption, visualize.draw_overlay(image, ids, palette, _OVERLAY_OPACITY))
    for image, masks in rows
    for caption, ids in masks
  ]
  legend = visualize.draw_legend(
    names, palette, columns * (_OVERLAY_SIZE[1] + 8) + 8
  )
  return visualize.contact_sheet(pictures, columns, _OVERLAY_SIZE, legend)


def write_memory_plot(
  folder: str,
  name: str,
  timeline: dict[str, Any],
  arena: int,
  ram: int | None,
) -> None:
  """Writes memory_NAME.png, the `plot_memory` of one file.

  Args:
    folder: the export.
    name: format of the file.
    timeline: `bytes` and `operators` of `measure.memory_timeline`.
    arena: bytes of the planned arena.
    ram: bytes of the target's RAM, or None.
  """
  visualize.save_image(
    plot_memory(timeline, arena, ram),
    os.path.join(folder, f'memory_{name}.png'),
  )


def write_error_plot(
  folder: str,
  name: str,
  images: Sequence[np.ndarray],
  expected: Sequence[np.ndarray],
  found: Sequence[np.ndarray],
) -> None:
  """Writes errors_NAME.png, the `plot_errors` of the first three images.

  Args:
    folder: the export.
    name: format of the file.
    images: [H, W, 3] in 0..255.
    expected: outputs of JAX, [h, w, K] scores or [h, w] class ids.
    found: outputs of the file, in the same shapes.
  """
  count = _ERROR_PLOT_IMAGES
  visualize.save_image(
    plot_errors(images[:count], expected[:count], found[:count]),
    os.path.join(folder, f'errors_{name}.png'),
  )


def write_overlays(
  folder: str,
  evaluated: Sequence[tuple[str, evaluate.Result]],
  info: dataset_info.DatasetInfo,
) -> None:
  """Writes overlays.png: predictions of JAX and each file beside the label.

  Args:
    folder: the export.
    evaluated: caption and evaluation of each model, with the same samples.
    info: names and colors of the classes.
  """
  rows = []
  for samples in zip(*(result.samples for _, result in evaluated), strict=True):
    masks = [
      (name, sample.prediction)
      for (name, _), sample in zip(evaluated, samples, strict=True)
    ]
    masks.append(('label', samples[0].label))
    rows.append((samples[0].image, masks))
  visualize.save_image(
    draw_overlays(rows, info.class_names, info.palette),
    os.path.join(folder, 'overlays.png'),
  )
