"""What the doctor keeps of each example, taken by several processes.

An image and its mask are decoded once, and only numbers are kept.
"""

from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import hashlib
import multiprocessing
from typing import Any

from absl import logging
import cv2
import numpy as np
import tqdm

from deeplab import visualize
from deeplab.data import dataset_info
from deeplab.data.augmentation import sizes
from deeplab.doctor import load

# Examples that a process takes at a time.
_CHUNK = 32
# Rows and columns of the perceptual hash; a bit each.
_GRID = 16
# An image whose grey levels span less, shrunk to that grid, is blank.
_LEAST_RANGE = 16


@dataclasses.dataclass(frozen=True)
class Scan:
  """What was seen of one example.

  Attributes:
    place: where it is.
    faults: what is wrong with it.
    size: (H, W) of the image; None if it could not be read.
    pixels: int64 [256], pixels of the mask by train id, IGNORE included;
      None if it could not be read.
    palette: (raw id, its colour) of the ids that a palette mask has.
    beyond: the largest id that is no class, though it could be; -1 for none.
    empty: share of crops without a labelled pixel.
    digest: hash of the decoded image; b'' if it could not be read.
    look: perceptual hash, 256 bits; b'' of a blank image.
  """

  place: load.Place
  faults: tuple[load.Fault, ...] = ()
  size: tuple[int, int] | None = None
  pixels: np.ndarray | None = None
  palette: load.Palette = ()
  beyond: int = -1
  empty: float = 0.0
  digest: bytes = b''
  look: bytes = b''


def windows(augment: Any, size: sizes.Size) -> tuple[sizes.Size, ...]:
  """Returns the sizes that crops have in pixels of the image as it is.

  Args:
    augment: `config.data.augment`.
    size: (H, W) of the image.

  Returns:
    (H, W) at five scales from the least to the largest, or at the only one; a
    side is longer than the image's where the crop is padded. () without crops.
  """
  ops = list(augment.ops)
  if 'random_crop' not in ops:
    return ()
  ops = ops[: ops.index('random_crop')]
  crop = augment.random_crop.size
  scaled = [
    sizes.after(augment, ops, size, quantile)
    for quantile in (0.0, 0.25, 0.5, 0.75, 1.0)
  ]
  if len(set(scaled)) == 1:
    scaled = scaled[:1]
  return tuple(
    (
      max(1, round(crop[0] * size[0] / height)),
      max(1, round(crop[1] * size[1] / width)),
    )
    for height, width in scaled
  )


def empty_share(
  labelled: np.ndarray, sizes: Sequence[tuple[int, int]]
) -> float:
  """Returns the share of windows that hold no labelled pixel.

  Args:
    labelled: bool [H, W].
    sizes: (H, W) of the windows. Each counts alike, and each place of it in
      the image; what is larger than the image is cut.
  """
  if not sizes:
    return 0.0
  height, width = labelled.shape
  sizes = [(min(h, height), min(w, width)) for h, w in sizes]
  if labelled.size - np.count_nonzero(labelled) < min(h * w for h, w in sizes):
    return 0.0
  sums = cv2.integral(labelled.astype(np.uint8))
  shares = [
    np.mean(
      sums[h:, w:] + sums[:-h, :-w] == sums[:-h, w:] + sums[h:, :-w],
    )
    for h, w in sizes
  ]
  return float(np.mean(shares))


def look(image: np.ndarray) -> bytes:
  """Returns 256 bits that are alike for images that look alike; b'' if blank.

  Each bit says whether the grey level rises to the right, on a 16x16 grid.

  Args:
    image: uint8 or uint16 [H, W, C].
  """
  small = cv2.resize(
    visualize.picture(image),
    (_GRID + 1, _GRID),
    interpolation=cv2.INTER_AREA,
  )
  grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
  if int(grey.max()) - int(grey.min()) < _LEAST_RANGE:
    return b''
  return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def examine(example: load.Loaded, augment: Any) -> Scan:
  """Returns what the doctor keeps of an example.

  Args:
    example: the example.
    augment: `config.data.augment`.
  """
  image, label = example.image, example.label
  result: dict[str, Any] = {}
  if image is not None:
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image).data)
    result |= {
      'size': image.shape[:2],
      'digest': digest.digest(),
      'look': look(image),
    }
  if label is not None:
    crops = windows(augment, label.shape)
    result['empty'] = empty_share(label != dataset_info.IGNORE, crops)
  return Scan(
    example.place,
    example.faults,
    pixels=example.pixels,
    palette=example.palette,
    beyond=example.beyond,
    **result,
  )


@dataclasses.dataclass(frozen=True)
class Split:
  """Statistics of one split.

  Attributes:
    scans: of its examples.
    pixels: int64 [256], pixels by train id, IGNORE included.
    sizes: int [n, 2], (H, W) of the images that could be read.
    empty: share of crops without a label, 0..1.
  """

  scans: tuple[Scan, ...]
  pixels: np.ndarray
  sizes: np.ndarray
  empty: float

  @property
  def ignored(self) -> float:
    """Share of pixels that are ignored, 0..1."""
    return float(self.pixels[dataset_info.IGNORE] / max(1, self.pixels.sum()))

  def shares(self, num_classes: int) -> np.ndarray:
    """Returns each class's share of the labelled pixels, [K]; 0 of none."""
    counts = self.pixels[:num_classes]
    return counts / max(1, counts.sum())

  def counts(self, num_classes: int) -> np.ndarray:
    """Returns the labelled pixels of each readable mask by class, [N, K]."""
    return np.array(
      [s.pixels[:num_classes] for s in self.scans if s.pixels is not None]
    )


def split_of(scans: Sequence[Scan]) -> Split:
  """Adds up the scans of one split."""
  pixels = np.zeros(256, np.int64)
  for s in scans:
    if s.pixels is not None:
      pixels += s.pixels
  return Split(
    tuple(scans),
    pixels,
    np.array([s.size for s in scans if s.size], int).reshape(-1, 2),
    float(np.mean([s.empty for s in scans])) if scans else 0.0,
  )


def _scan_files(
  places: Sequence[load.Place],
  config: Any,
  info: dataset_info.DatasetInfo,
) -> list[Scan]:
  """Scans a few pairs of files."""
  return [
    examine(load.load(p, config, info), config.data.augment) for p in places
  ]


def _scan_prepared(
  part: tuple[str, int, int],
  config: Any,
  info: dataset_info.DatasetInfo,
) -> list[Scan]:
  """Scans a share of a prepared split."""
  return [
    examine(e, config.data.augment) for e in load.prepared(*part, config, info)
  ]


def scan(
  splits: dict[str, Sequence[load.Place] | int],
  config: Any,
  info: dataset_info.DatasetInfo,
  processes: int,
) -> list[Scan]:
  """Scans examples; on a terminal, shows a bar with rate and ETA.

  Args:
    splits: places of the files of each split, or the number of its prepared
      examples.
    config: the experiment; reads `data`.
    info: facts about the data set.
    processes: how many share the work; 1 is this one.

  Returns:
    A scan of each example; the order is always the same.
  """
  use = {'config': config, 'info': info}
  tasks = []
  total = 0
  for split, places in splits.items():
    if isinstance(places, int):
      parts = min(places, 4 * processes)
      tasks += [
        functools.partial(_scan_prepared, (split, i, parts), **use)
        for i in range(parts)
      ]
      total += places
    else:
      tasks += [
        functools.partial(_scan_files, places[i : i + _CHUNK], **use)
        for i in range(0, len(places), _CHUNK)
      ]
      total += len(places)
  with contextlib.ExitStack() as stack:
    run: Any = map
    if processes > 1:
      # Forking would copy the threads of libraries in use.
      pool = stack.enter_context(
        futures.ProcessPoolExecutor(
          processes,
          multiprocessing.get_context('spawn'),
          initializer=logging.set_verbosity,
          initargs=(logging.ERROR,),
        )
      )
      run = pool.map
    bar = stack.enter_context(
      tqdm.tqdm(total=total, desc='Examining', unit=' examples', disable=None)
    )
    scans = []
    for found in run(_call, tasks):
      scans += found
      bar.update(len(found))
  return scans


def _call(task: Any) -> list[Scan]:
  return task()
