"""Procedural shapes: a data set that is generated on first use, offline.

Images of 128x128 pixels show striped discs, checked squares, plain triangles,
mottled rings and dotted crosses, rotated, scaled and occluding each other, over
a shaded background. All classes draw their colors from one distribution, so
that only outline and texture tell them apart. Pixels on the edge of two regions
are void, as in VOC.
"""

from typing import Any
from typing import ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records

SIZE = 128  # pixels, both sides
SEED = 20
_PIXEL_GRID = np.mgrid[:SIZE, :SIZE].astype(np.float32)  # rows, columns
_SPLITS = catalog.INFOS['shapes'].splits
# A shape is left out if less than this share of another shape stays visible, or
# if the border of the image cuts it to a smaller area than this.
_MIN_VISIBLE_SHARE = 0.6
_MIN_AREA = 300  # pixels
# Minimum distance in RGB between the mean colors of two regions.
_MIN_COLOR_DISTANCE = 80.0
# Range of the amplitude of textures, in grey levels.
_TEXTURE_AMPLITUDE = 25.0, 45.0

DISC, SQUARE, TRIANGLE, RING, CROSS = range(1, 6)


class Shapes(tfds.core.GeneratorBasedBuilder):
  """Procedural shapes of five classes over a background."""

  VERSION = tfds.core.Version('1.2.0')  # raise it with each change of drawing
  BUILDER_CONFIGS: ClassVar = [
    tfds.core.BuilderConfig(name=split) for split in _SPLITS
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return records.tfds_info(self, __doc__)

  def _split_generators(self, dl_manager):
    del dl_manager
    split = self.builder_config.name
    stream, count = list(_SPLITS).index(split), _SPLITS[split]
    return {records.TFDS_SPLIT: self._generate_examples(stream, count)}

  def _generate_examples(self, stream, count):
    def read(i):
      image, label = draw_example(np.random.default_rng((SEED, stream, i)))
      record = {
        'image': raw_files.encode_png(image),
        'label': raw_files.encode_png(label),
        'name': f'{i:05d}',
      }
      return [record]

    return records.generate_records(
      self,
      read,
      range(count),
      catalog.INFOS['shapes'],
      self.builder_config.name,
    )


def make_builder(data: Any, split: str) -> Shapes:
  """Returns the builder of one split.

  Args:
    data: `config.data`; reads `data_dir`.
    split: 'train' or 'val'.

  Raises:
    ValueError: an unknown split.
  """
  if split not in _SPLITS:
    raise ValueError(
      f'shapes has no split {split!r}; its splits are {", ".join(_SPLITS)}'
    )
  return Shapes(
    data_dir=data.data_dir or None, file_format='array_record', config=split
  )


def draw_example(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Draws one image and its label.

  Returns:
    Image [SIZE, SIZE, 3] uint8 and label [SIZE, SIZE] uint8 train ids, IGNORE
    along the edges.
  """
  regions = np.zeros((SIZE, SIZE), np.uint8)
  classes, areas = [0], [0.0]
  for _ in range(int(rng.integers(3, 7))):
    kind = int(rng.integers(DISC, CROSS + 1))
    mask = _shape_mask(kind, rng)
    trial = np.where(mask, np.uint8(len(classes)), regions)
    trial_areas = np.array(
      [*areas, max(mask.sum(), _MIN_AREA / _MIN_VISIBLE_SHARE)]
    )
    visible = np.bincount(trial.ravel(), minlength=len(trial_areas))
    if (visible < _MIN_VISIBLE_SHARE * trial_areas).any():
      continue
    regions = trial
    classes.append(kind)
    areas.append(mask.sum())
  image: Any = np.zeros((SIZE, SIZE, 3), np.float32)
  colors: list[np.ndarray] = []
  for region in range(len(classes)):
    colors.append(_draw_color(rng, colors))
    mask = regions == region
    image[mask] = colors[-1] + _draw_texture(classes[region], rng)[mask]
  image = cv2.GaussianBlur(image, (3, 3), 0.6)
  noise = rng.standard_normal(image.shape, np.float32)
  image += np.float32(rng.uniform(2, 10)) * noise
  label = np.asarray(classes, np.uint8)[regions]
  edge = cv2.morphologyEx(regions, cv2.MORPH_GRADIENT, np.ones((3, 3)))
  label[edge > 0] = dataset_info.IGNORE
  return np.rint(image.clip(0, 255)).astype(np.uint8), label


def _shape_mask(kind: int, rng: np.random.Generator) -> np.ndarray:
  """Returns the mask [SIZE, SIZE] bool of a shape at a random position."""
  radius = rng.uniform(16, 34)
  center = rng.uniform(12, SIZE - 12, 2).astype(np.float32)
  angle = rng.uniform(0, 2 * np.pi)
  y, x = (_PIXEL_GRID + 0.5 - center[:, None, None]) / radius
  x, y = (
    x * np.cos(angle) - y * np.sin(angle),
    x * np.sin(angle) + y * np.cos(angle),
  )
  if kind == DISC:
    return x**2 + y**2 < 0.8
  if kind == SQUARE:
    return np.maximum(abs(x), abs(y)) < 0.8
  if kind == TRIANGLE:
    return np.maximum(abs(x) * np.sqrt(3) - y, 2 * y) < 1.1
  if kind == RING:
    distance = np.sqrt(x**2 + y**2)
    return (distance < 1) & (distance > 0.5)
  long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
  return (long < 1) & (short < 0.33)


def _draw_color(
  rng: np.random.Generator, others: list[np.ndarray]
) -> np.ndarray:
  """Draws an RGB color that differs from those of the other regions."""
  color = rng.uniform(30, 225, 3)
  for _ in range(20):
    if all(
      np.linalg.norm(color - other) > _MIN_COLOR_DISTANCE for other in others
    ):
      break
    color = rng.uniform(30, 225, 3)
  return color


def _draw_texture(kind: int, rng: np.random.Generator) -> np.ndarray:
  """Draws the texture of a class, [SIZE, SIZE, 3] with mean about 0."""
  y, x = _PIXEL_GRID
  angle = rng.uniform(0, np.pi)
  u = x * np.cos(angle) + y * np.sin(angle)
  v = y * np.cos(angle) - x * np.sin(angle)
  period = rng.uniform(6, 12)
  waves = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
  if kind == DISC:
    pattern = waves[0]
  elif kind == SQUARE:
    pattern = np.sign(waves[0]) * np.sign(waves[1])
  elif kind == RING:
    pattern = _blurred_noise(2.0, rng)
  elif kind == CROSS:
    pattern = np.where(waves[0] + waves[1] > 1.0, 1.5, -0.5)
  elif kind == TRIANGLE:
    pattern = np.zeros((SIZE, SIZE), np.float32)
  else:
    pattern = _blurred_noise(16.0, rng)
  # Along one direction in RGB: mostly the lightness changes, a little the hue.
  direction = rng.uniform(0.3, 1.0, 3) * rng.uniform(*_TEXTURE_AMPLITUDE)
  return pattern[..., None] * direction.astype(np.float32)


def _blurred_noise(size: float, rng: np.random.Generator) -> np.ndarray:
  noise = rng.standard_normal((SIZE, SIZE), np.float32)
  pattern = cv2.GaussianBlur(noise, (0, 0), size)
  return pattern / pattern.std()
