"""Pictures: colored masks, overlays, contact sheets, matrices and curves.

Functions that draw return uint8 [H, W, 3], for a file (`save_image`) or for
TensorBoard. Matplotlib is imported by the first plot, because the import takes
longer than most commands' own, and needs no display.

Commands, the doctor, export and experiments draw with this module. It uses
`deeplab.data` for class ids only; `deeplab.data` must not import it.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import io
import math
import os
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from deeplab import system
from deeplab.data import dataset_info

Palette = Sequence[Sequence[int]]

# Color of ignored pixels: the void border of VOC.
IGNORE_COLOR = (224, 224, 192)

_INK = (32, 32, 32)
_PAPER = (255, 255, 255)


def color_table(palette: Palette) -> np.ndarray:
  """Returns the color of each id, uint8 [256, 3]; black for ids without one."""
  table = np.zeros((256, 3), np.uint8)
  table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
  table[dataset_info.IGNORE] = IGNORE_COLOR
  return table


def colorize(ids: np.ndarray, palette: Palette) -> np.ndarray:
  """Draws uint8 ids [H, W] in the colors of the palette, uint8 [H, W, 3]."""
  return color_table(palette)[np.asarray(ids, np.uint8)]


def to_rgb(image: np.ndarray) -> np.ndarray:
  """Converts an image of any number of channels and 8 or 16 bits to RGB.

  RGB are the first three channels, or the first one three times if there are
  fewer. Images of 16 bits seldom use the whole range: their darkest and their
  brightest percent become black and white, with one scale for all channels.

  Args:
    image: uint8 or uint16 [H, W, C].

  Returns:
    uint8 [H, W, 3].
  """
  image = image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, 2)
  if image.dtype == np.uint8:
    return image
  step = max(1, min(image.shape[:2]) // 256)  # enough pixels for percentiles
  low, high = np.percentile(image[::step, ::step], (1, 99))
  scaled = (image - np.float32(low)) * np.float32(255 / max(1, high - low))
  return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def draw_overlay(
  image: np.ndarray, ids: np.ndarray, palette: Palette, opacity: float
) -> np.ndarray:
  """Draws class colors over the grayscale of an image.

  Over the image's own colors, a red car on a blue road could be any class.
  Ignored pixels (255) and classes whose color is black show the image itself,
  which black would hide.

  Args:
    image: uint8 or uint16 [H, W, C], drawn by `to_rgb`.
    ids: uint8 [H, W].
    palette: one RGB color per class.
    opacity: of the colors, 0 to 1.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: the opacity is not in 0..1.
  """
  if not 0 <= opacity <= 1:
    raise ValueError(f'opacity={opacity} is not in 0..1')
  ids, image = np.asarray(ids, np.uint8), to_rgb(image)
  gray = cv2.cvtColor(
    cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB
  )
  mixed = cv2.addWeighted(
    gray, 1 - opacity, colorize(ids, palette), opacity, 0.0
  )
  transparent = (color_table(palette) == 0).all(axis=1)
  transparent[dataset_info.IGNORE] = True
  return np.where(transparent[ids][..., None], image, mixed)


def side_by_side(
  image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: Palette
) -> np.ndarray:
  """Draws an image, its label and its prediction in one row.

  Args:
    image: uint8 or uint16 [H, W, C], drawn by `to_rgb`.
    label: class ids [H, W].
    prediction: class ids [H, W].
    palette: one RGB color per class.

  Returns:
    uint8 [H, 3 W + 8, 3].
  """
  gap = np.full((image.shape[0], 4, 3), 255, np.uint8)
  return np.concatenate(
    [
      to_rgb(image),
      gap,
      colorize(label, palette),
      gap,
      colorize(prediction, palette),
    ],
    axis=1,
  )


def thumbnail(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
  """Resizes an image [h, w, 3] to fit (H, W), keeping its aspect ratio."""
  height, width = image.shape[:2]
  scale = min(size[0] / height, size[1] / width)
  new = max(1, round(width * scale)), max(1, round(height * scale))
  method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
  return cv2.resize(image, new, interpolation=method)


def _text_width(text: str, font: Any) -> int:
  return math.ceil(font.getlength(text))


def _truncate_text(text: str, width: int, font: Any) -> str:
  """Cuts the start of a text to fit a width in pixels.

  The end stays, because file names of one folder differ there.
  """
  if _text_width(text, font) <= width:
    return text
  while text and _text_width('…' + text, font) > width:
    text = text[1:]
  return '…' + text


def draw_legend(
  class_names: Sequence[str], palette: Palette, width: int, font_size: int = 14
) -> np.ndarray:
  """Draws color swatches with class names.

  Args:
    class_names: K names.
    palette: one RGB color per class.
    width: of the picture, in pixels; swatches wrap into rows.
    font_size: in pixels.

  Returns:
    uint8 [H, width, 3].
  """
  font = ImageFont.load_default(font_size)
  swatch, gap, row = font_size + 2, 6, font_size + 10
  swatches = []
  x, y = gap, gap
  for name in class_names:
    name = _truncate_text(name, width - swatch - 3 * gap, font)
    length = swatch + gap + _text_width(name, font)
    if x > gap and x + length + gap > width:
      x, y = gap, y + row
    swatches.append((x, y, name))
    x += length + 3 * gap
  canvas = Image.new('RGB', (width, y + row), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for (x, y, name), color in zip(swatches, palette, strict=True):
    draw.rectangle(
      (x, y, x + swatch, y + font_size),
      fill=tuple(int(c) for c in color),
      outline=(128, 128, 128),
    )
    draw.text(
      (x + swatch + gap, y + font_size // 2),
      name,
      fill=_INK,
      font=font,
      anchor='lm',
    )
  return np.asarray(canvas)


def contact_sheet(
  pictures: Sequence[tuple[str, np.ndarray]],
  columns: int,
  cell: Sequence[int],
  footer: np.ndarray | None = None,
) -> np.ndarray:
  """Draws captioned thumbnails in rows, with a footer below them.

  Args:
    pictures: (caption, uint8 [H, W, 3]) each, of any sizes.
    columns: largest number of pictures in a row.
    cell: (H, W) that each picture is fitted into, at its bottom.
    footer: uint8 [h, w, 3], such as the result of `draw_legend`.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: there is no picture.
  """
  if not pictures:
    raise ValueError('a contact sheet needs at least one picture')
  columns = min(columns, len(pictures))
  gap, caption_height = 8, 22
  font = ImageFont.load_default(14)
  pitch = cell[0] + caption_height + gap, cell[1] + gap
  rows = -(-len(pictures) // columns)
  width = columns * pitch[1] + gap
  height = rows * pitch[0] + gap
  footer_height = 0 if footer is None else footer.shape[0]
  if footer is not None:
    width = max(width, footer.shape[1])
  canvas = Image.new('RGB', (width, height + footer_height), _PAPER)
  draw = ImageDraw.Draw(canvas)
  for i, (caption, picture) in enumerate(pictures):
    y, x = gap + i // columns * pitch[0], gap + i % columns * pitch[1]
    small = thumbnail(picture, cell)
    corner = (x + (cell[1] - small.shape[1]) // 2, y + cell[0] - small.shape[0])
    canvas.paste(Image.fromarray(small), corner)
    draw.text(
      (x + cell[1] // 2, y + cell[0] + caption_height // 2),
      _truncate_text(caption, cell[1], font),
      fill=_INK,
      font=font,
      anchor='mm',
    )
  if footer is not None:
    canvas.paste(Image.fromarray(footer), (0, height))
  return np.asarray(canvas)


def render_figure(figure: Any) -> np.ndarray:
  """Renders a Matplotlib figure that was created without pyplot.

  Args:
    figure: `matplotlib.figure.Figure`.

  Returns:
    uint8 [H, W, 3].
  """
  from matplotlib.backends import backend_agg

  canvas = backend_agg.FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def plot_confusion_matrix(
  matrix: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
  """Plots a confusion matrix, each row in percent of its label's pixels.

  With up to 25 classes the cells hold percentages of 0.5 and more. Rows of
  classes that are in no label are gray.

  Args:
    matrix: int64 [K, K], rows = label, columns = prediction.
    class_names: K names.

  Returns:
    uint8 [H, W, 3].
  """
  from matplotlib import colormaps
  from matplotlib import figure as figures

  matrix = np.asarray(matrix, np.float64)
  count = len(class_names)
  totals = matrix.sum(axis=1, keepdims=True)
  shares = np.where(totals > 0, matrix / np.maximum(totals, 1), np.nan)
  has_numbers = count <= 25
  side = max(2.2, count * (0.48 if has_numbers else 0.15))
  font = 9 if has_numbers else 7
  longest = max(len(name) for name in class_names)
  margin = 0.75 + longest * font / 72 * 0.6  # inches beside the matrix
  top, bar = 0.45, 1.0
  width, height = margin + side + bar, margin + side + top
  figure = figures.Figure(figsize=(width, height), dpi=100)
  axes = figure.add_axes(
    (margin / width, margin / height, side / width, side / height)
  )
  colors = colormaps['Blues'].with_extremes(bad='0.85')
  cells = axes.imshow(100 * shares, cmap=colors, vmin=0, vmax=100)
  axes.set_xticks(range(count), class_names, rotation=90, fontsize=font)
  axes.set_yticks(range(count), class_names, fontsize=font)
  axes.set_xlabel('prediction')
  axes.set_ylabel('label')
  axes.set_title("% of each label's pixels", fontsize=11)
  if has_numbers:
    for i, j in np.argwhere(shares >= 0.005):
      axes.text(
        j,
        i,
        f'{100 * shares[i, j]:.0f}',
        ha='center',
        va='center',
        fontsize=8,
        color='white' if shares[i, j] > 0.55 else 'black',
      )
  scale = figure.add_axes(
    (
      (margin + side + 0.2) / width,
      margin / height,
      0.18 / width,
      side / height,
    )
  )
  legend = figure.colorbar(cells, cax=scale, format='%d %%')
  legend.ax.tick_params(labelsize=8)
  return render_figure(figure)


def plot_training_curves(lines: Iterable[Mapping[str, Any]]) -> np.ndarray:
  """Plots loss and mIoU of a run against the training step.

  Args:
    lines: of `metrics.jsonl` of the run (`metric_writer.read_metrics`), with
      `step`, `split` and `loss` or `miou`.

  Returns:
    uint8 [H, W, 3].

  Raises:
    ValueError: no line has a loss or an mIoU.
  """
  from matplotlib import figure as figures
  from matplotlib import ticker

  series: dict[tuple[str, str], list[tuple[int, float]]] = {}
  for record in lines:
    for metric in ('loss', 'miou'):
      if record.get(metric) is not None:
        points = series.setdefault((metric, record['split']), [])
        points.append((record['step'], record[metric]))
  if not series:
    raise ValueError('no line of the metrics has a loss or an mIoU to plot')
  last = max(step for points in series.values() for step, _ in points)
  figure = figures.Figure(figsize=(10, 3.8), dpi=100, layout='constrained')
  panels = figure.subplots(1, 2)
  for axes, metric, title in zip(
    panels, ('loss', 'miou'), ('loss', 'mIoU'), strict=True
  ):
    for (name, split), points in sorted(series.items()):
      if name == metric:
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=split, marker='o' if len(x) < 40 else None, ms=3)
        axes.legend(frameon=False)
    axes.set_title(title)
    axes.set_xlabel('step')
    axes.set_xlim(0, 1.02 * last)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
  panels[1].set_ylim(0, 1)
  return render_figure(figure)


def plot_bars(
  names: Sequence[str],
  panels: Sequence[tuple[str, Sequence[float]]],
) -> np.ndarray:
  """Plots horizontal bars, with names shared by all panels.

  Args:
    names: label of each bar, from top to bottom.
    panels: (title, one value per name) each; values that are not finite are
      left out.

  Returns:
    uint8 [H, W, 3].
  """
  from matplotlib import figure as figures

  figure = figures.Figure(
    figsize=(4 + 4 * len(panels), 1 + 0.18 * len(names)),
    dpi=100,
    layout='constrained',
  )
  row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  positions = np.arange(len(names))
  for axes, (title, values) in zip(row, panels, strict=True):
    lengths = np.where(np.isfinite(values), values, 0.0)
    axes.barh(positions, lengths, height=0.7)
    axes.set_title(title)
    axes.grid(alpha=0.3, axis='x')
    axes.spines[['top', 'right']].set_visible(False)
  row[0].set_yticks(positions, names, fontsize=7)
  row[0].set_ylim(len(names) - 0.4, -0.6)
  return render_figure(figure)


def save_image(
  picture: np.ndarray,
  path: str | os.PathLike,
  palette: Palette | None = None,
) -> None:
  """Writes an image file atomically, and creates its folder.

  Args:
    picture: uint8 [H, W, 3]; or class ids [H, W], with `palette`.
    path: of the file; its suffix is the format, .png for class ids.
    palette: one RGB color per class, stored as the palette of an indexed image
      whose pixels are the class ids.

  Raises:
    OSError: the file cannot be written; the message names it.
  """
  picture = np.ascontiguousarray(picture, np.uint8)
  image = Image.fromarray(picture)
  if palette is not None:
    image.putpalette(color_table(palette).ravel().tolist())
  suffix = pathlib.Path(path).suffix.lower()
  options: dict[str, Any] = {}
  if suffix in ('.jpg', '.jpeg'):
    options = {'quality': 92}
  # Pillow's own writing does not say that the disk is full.
  encoded = io.BytesIO()
  image.save(encoded, Image.registered_extensions()[suffix], **options)
  with (
    system.write_atomically(path) as temporary,
    open(temporary, 'wb') as file,
  ):
    file.write(encoded.getvalue())
