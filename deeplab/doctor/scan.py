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
from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.data.augmentation import geometric
from deeplab.data.augmentation import sizes
from deeplab.doctor import example_loader

# Examples that a process takes at a time.
_CHUNK_SIZE = 32
# Rows and columns of the perceptual hash; a bit each.
_HASH_GRID = 16
# Where between the smallest and the largest scale crops are looked at.
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
# An image whose grey levels span less, shrunk to that grid, is blank.
_MIN_GREY_RANGE = 16


@dataclasses.dataclass(frozen=True)
class ExampleScan:
  """What was seen of one example.

  Attributes:
    ref: where it is.
    issues: what is wrong with it.
    size: (H, W) of the image; None if it could not be read.
    label_counts: int64 [256], pixels of the mask by train id, IGNORE included;
      None if it could not be read.
    palette: (raw id, its colour) of the ids that a palette mask has.
    max_unknown_id: the largest id that is no class, though it could be; -1 for
      none.
    empty_crop_share: share of crops without a labelled pixel.
    digest: hash of the decoded image; b'' if it could not be read.
    perceptual_hash: perceptual hash, 256 bits; b'' of a blank image.
  """

  ref: example_loader.ExampleRef
  issues: tuple[example_loader.Issue, ...] = ()
  size: tuple[int, int] | None = None
  label_counts: np.ndarray | None = None
  palette: example_loader.Palette = ()
  max_unknown_id: int = -1
  empty_crop_share: float = 0.0
  digest: bytes = b''
  perceptual_hash: bytes = b''


def crop_windows(
  ops: compose.Compose, size: sizes.Size
) -> tuple[sizes.Size, ...]:
  """Returns the sizes of training crops in pixels of the original image.

  A crop of 100 pixels from an image that was enlarged twofold shows 50 pixels
  of the original.

  Args:
    ops: the augmentation.
    size: (H, W) of the image.

  Returns:
    (H, W) of the first `RandomCrop`'s window at five quantiles of the ops
    before it, from the smallest scale to the largest, or at the only one. A
    side is longer than the image's where the crop is padded. () without a crop.
  """
  crop = first_crop(ops)
  if crop is None:
    return ()
  before = compose.Compose(ops.ops[: ops.ops.index(crop)])
  scaled = [before.size_after(size, quantile) for quantile in _QUANTILES]
  if len(set(scaled)) == 1:
    scaled = scaled[:1]
  return tuple(
    (
      max(1, round(crop.size[0] * size[0] / height)),
      max(1, round(crop.size[1] * size[1] / width)),
    )
    for height, width in scaled
  )


def first_crop(ops: compose.Compose) -> geometric.RandomCrop | None:
  """Returns the first op that crops; None if none does."""
  return next(
    (op for op in ops.ops if isinstance(op, geometric.RandomCrop)), None
  )


def compute_empty_share(
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


def compute_perceptual_hash(image: np.ndarray) -> bytes:
  """Returns 256 bits that are alike for images that look alike; b'' if blank.

  Each bit says whether the grey level rises to the right, on a 16x16 grid.

  Args:
    image: uint8 or uint16 [H, W, C].
  """
  small = cv2.resize(
    visualize.to_rgb(image),
    (_HASH_GRID + 1, _HASH_GRID),
    interpolation=cv2.INTER_AREA,
  )
  grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
  if int(grey.max()) - int(grey.min()) < _MIN_GREY_RANGE:
    return b''
  return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def scan_example(
  example: example_loader.LoadedExample, ops: compose.Compose
) -> ExampleScan:
  """Returns what the doctor keeps of an example.

  Args:
    example: the example.
    ops: the augmentation, whose crops are looked at for labels.
  """
  image, label = example.image, example.label
  result: dict[str, Any] = {}
  if image is not None:
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image).data)
    result |= {
      'size': image.shape[:2],
      'digest': digest.digest(),
      'perceptual_hash': compute_perceptual_hash(image),
    }
  if label is not None:
    crops = crop_windows(ops, label.shape)
    result['empty_crop_share'] = compute_empty_share(
      label != dataset_info.IGNORE, crops
    )
  return ExampleScan(
    example.ref,
    example.issues,
    label_counts=example.label_counts,
    palette=example.palette,
    max_unknown_id=example.max_unknown_id,
    **result,
  )


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
  """Statistics of one split.

  Attributes:
    scans: of its examples.
    label_counts: int64 [256], pixels by train id, IGNORE included.
    sizes: int [n, 2], (H, W) of the images that could be read.
    empty_crop_share: share of crops without a label, 0..1.
  """

  scans: tuple[ExampleScan, ...]
  label_counts: np.ndarray
  sizes: np.ndarray
  empty_crop_share: float

  @property
  def ignored_share(self) -> float:
    """Share of pixels that are ignored, 0..1."""
    return float(
      self.label_counts[dataset_info.IGNORE] / max(1, self.label_counts.sum())
    )

  def class_frequencies(self, num_classes: int) -> np.ndarray:
    """Returns each class's share of the labelled pixels, [K]; 0 of none."""
    counts = self.label_counts[:num_classes]
    return counts / max(1, counts.sum())

  def class_counts(self, num_classes: int) -> np.ndarray:
    """Returns the labelled pixels of each readable mask by class, [N, K]."""
    return np.array(
      [
        s.label_counts[:num_classes]
        for s in self.scans
        if s.label_counts is not None
      ]
    )


def summarize_split(scans: Sequence[ExampleScan]) -> SplitStatistics:
  """Adds up the scans of one split."""
  pixels = np.zeros(256, np.int64)
  for s in scans:
    if s.label_counts is not None:
      pixels += s.label_counts
  return SplitStatistics(
    tuple(scans),
    pixels,
    np.array([s.size for s in scans if s.size], int).reshape(-1, 2),
    float(np.mean([s.empty_crop_share for s in scans])) if scans else 0.0,
  )


def _scan_files(
  refs: Sequence[example_loader.ExampleRef],
  dataset: datasets.Dataset,
) -> list[ExampleScan]:
  """Scans a few pairs of files."""
  ops = compose.compose_known_ops(dataset.config.augment)
  return [
    scan_example(example_loader.load_example(ref, dataset), ops) for ref in refs
  ]


def _scan_prepared(
  shard: tuple[str, int, int],
  dataset: datasets.Dataset,
) -> list[ExampleScan]:
  """Scans a share of a prepared split."""
  ops = compose.compose_known_ops(dataset.config.augment)
  return [
    scan_example(example, ops)
    for example in example_loader.load_prepared_shard(*shard, dataset)
  ]


def scan_splits(
  splits: dict[str, Sequence[example_loader.ExampleRef] | int],
  dataset: datasets.Dataset,
  processes: int,
) -> list[ExampleScan]:
  """Scans examples; on a terminal, shows a bar with rate and ETA.

  Args:
    splits: places of the files of each split, or the number of its prepared
      examples.
    dataset: their data set.
    processes: how many share the work; 1 is this one.

  Returns:
    A scan of each example; the order is always the same.
  """
  tasks = []
  total = 0
  for split, places in splits.items():
    if isinstance(places, int):
      parts = min(places, 4 * processes)
      tasks += [
        functools.partial(_scan_prepared, (split, i, parts), dataset)
        for i in range(parts)
      ]
      total += places
    else:
      tasks += [
        functools.partial(_scan_files, places[i : i + _CHUNK_SIZE], dataset)
        for i in range(0, len(places), _CHUNK_SIZE)
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
    for found in run(_run_task, tasks):
      scans += found
      bar.update(len(found))
  return scans


def _run_task(task: Any) -> list[ExampleScan]:
  return task()
