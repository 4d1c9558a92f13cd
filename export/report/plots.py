"""Pictures of a report: memory over time, where int8 errs, and overlays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deeplab import visualize
from deeplab.inference import predictors

_CELL = (240, 320)


def plot_memory(
  timeline: dict[str, Any], arena: int, ram: int | None
) -> np.ndarray:
  """Plots the bytes that are alive at each operator.

  Args:
    timeline: `bytes` and `operators`, as `proof.collect` has them.
    arena: bytes of the plan.
    ram: bytes that the target has; None for no line.
  """
  from matplotlib import figure as figures

  kib = np.asarray(timeline['bytes']) / 1024
  steps = np.arange(len(kib))
  peak = int(kib.argmax())
  names = [*timeline['operators'], 'output']
  figure = figures.Figure(figsize=(10, 4), dpi=100, layout='constrained')
  axes = figure.subplots()
  axes.bar(steps, kib, width=1.0, color='#4c78a8', label='alive')
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
  """Shows where a file differs from JAX, an image a row.

  Args:
    images: [H, W, 3] in 0..255.
    expected: [h, w, K] scores of JAX, or [h, w] ids, one an image.
    found: those of the file.
  """
  from matplotlib import figure as figures

  count = len(images)
  scores = expected[0].ndim == 3
  columns = 3 if scores else 2
  height, width = images[0].shape[:2]
  cell = 3.2
  figure = figures.Figure(
    figsize=(cell * columns + 0.8, cell * height / width * count + 0.5),
    dpi=100,
    layout='constrained',
  )
  panels = figure.subplots(count, columns, squeeze=False)
  differences = [
    np.abs(a - b).mean(axis=-1) if scores else a != b
    for a, b in zip(expected, found, strict=True)
  ]
  largest = max(float(d.max()) for d in differences) or 1.0
  for row, image, a, b, apart in zip(
    panels, images, expected, found, differences, strict=True
  ):
    for axes in row:
      axes.set_axis_off()
    row[0].imshow(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    if scores:
      drawn = row[1].imshow(apart, cmap='magma', vmin=0, vmax=largest)
      figure.colorbar(drawn, ax=row[1], shrink=0.85)
      other = predictors.argmax(a) != predictors.argmax(b)
    else:
      other = apart
    row[-1].imshow(other, cmap='gray_r', vmin=0, vmax=1)
    row[-1].set_frame_on(True)
    row[-1].set_axis_on()
    row[-1].set_xticks([])
    row[-1].set_yticks([])
    row[-1].set_xlabel(f'{100 * np.mean(other):.2f} % of the pixels')
  panels[0][0].set_title('image', fontsize=10)
  if scores:
    panels[0][1].set_title('mean difference of the scores', fontsize=10)
  panels[0][-1].set_title('another class', fontsize=10)
  return visualize.render_figure(figure)


def draw_overlays(
  rows: Sequence[tuple[np.ndarray, Sequence[tuple[str, np.ndarray]]]],
  names: Sequence[str],
  palette: visualize.Palette,
) -> np.ndarray:
  """Shows masks over their photographs, an image a row.

  Args:
    rows: a photograph, uint8 [H, W, 3], and its masks: caption and uint8
      [H, W]; as many in each row.
    names: of the classes.
    palette: a colour a class.
  """
  columns = len(rows[0][1])
  pictures = [
    (caption, visualize.draw_overlay(image, ids, palette, 0.6))
    for image, masks in rows
    for caption, ids in masks
  ]
  legend = visualize.draw_legend(names, palette, columns * (_CELL[1] + 8) + 8)
  return visualize.contact_sheet(pictures, columns, _CELL, legend)
