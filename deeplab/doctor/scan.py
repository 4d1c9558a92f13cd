"""Scans every example, in several processes, and keeps a few numbers of each.

An image and its mask are decoded once. What is kept fits into memory for any
data set: about 3 kB per example.
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

# The number of examples that a process scans at a time.
_CHUNK_SIZE = 32
# Rows and columns of the perceptual hash, which has one bit per cell.
_HASH_GRID = 16
# Quantiles of the random scale at which crops are examined.
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
# An image whose grey levels, averaged over the cells, span less is blank and
# has no perceptual hash.
_MIN_GREY_RANGE = 16


@dataclasses.dataclass(frozen=True)
class ExampleScan:
  """The numbers that are kept of one example.

  Attributes:
    ref: the example's name.
    issues: what is wrong with it.
    size: (H, W) of the image; None if it could not be read.
    channel_mean: float64 [C], mean of each channel; None likewise.
    channel_std: float64 [C], standard deviation of each channel; None likewise.
    orientation: EXIF orientation of the image file, 1 (upright) to 8.
    label_counts: int64 [256], number of pixels by train id, IGNORE included;
      None if the mask could not be read.
    raw_ids: ids that a mask holds; () for a mask that is read by color.
    by_color: the mask is read by color; None if it could not be read.
    painted_on_stored: the mask was turned with the stored pixels of its image.
    palette: ids and colors that a palette mask of ids uses; () for others.
    max_unknown_id: the largest raw id that belongs to no class and is less than
      255, so that it could be a class; -1 if there is none.
    empty_crop_share: share of the possible training crops, 0..1, that hold no
      labelled pixel.
    digest: hash of the decoded pixels, equal for equal images; b'' if the image
      could not be read.
    perceptual_hash: 256 bits that differ little for images that look alike; b''
      for a blank image.
  """

  ref: example_loader.ExampleRef
  issues: tuple[example_loader.Issue, ...] = ()
  size: tuple[int, int] | None = None
  channel_mean: np.ndarray | None = None
  channel_std: np.ndarray | None = None
  orientation: int = 1
  label_counts: np.ndarray | None = None
  raw_ids: tuple[int, ...] = ()
  by_color: bool | None = None
  painted_on_stored: bool = False
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
  crop = _first_crop(ops)
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


def _first_crop(ops: compose.Compose) -> geometric.RandomCrop | None:
  """Returns the first op that crops; None if none does."""
  return next(
    (op for op in ops.ops if isinstance(op, geometric.RandomCrop)), None
  )


def compute_empty_share(
  labelled: np.ndarray, sizes: Sequence[tuple[int, int]]
) -> float:
  """Returns the share of windows that hold no labelled pixel.

  Args:
    labelled: bool [H, W], True where a pixel has a label.
    sizes: (H, W) of the windows. All sizes have the same weight, and so have
      all places of a window in the image. A side that is longer than the
      image's is cut to it.
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
  """Returns 256 bits that differ little for images that look alike.

  A bit is 1 where the grey level rises to the right, on a grid of 16x16 cells
  ("difference hash"). A blank image has no such structure and gives b''.

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


def compute_channel_statistics(
  image: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and standard deviation of each channel, float64 [C] each.

  Args:
    image: [H, W, C].
  """
  if image.shape[2] > 4:  # OpenCV takes four
    pixels = image.reshape(-1, image.shape[2])
    return pixels.mean(0, dtype=np.float64), pixels.std(0, dtype=np.float64)
  mean, std = cv2.meanStdDev(np.ascontiguousarray(image))
  return mean[:, 0], std[:, 0]


def scan_example(
  example: example_loader.LoadedExample, ops: compose.Compose
) -> ExampleScan:
  """Computes the numbers that are kept of an example.

  Args:
    example: the example.
    ops: the augmentation, whose crops are examined for labels.
  """
  image, label = example.image, example.label
  result = ExampleScan(
    example.ref,
    example.issues,
    orientation=example.orientation,
    label_counts=example.label_counts,
    raw_ids=example.raw_ids,
    by_color=example.by_color,
    painted_on_stored=example.painted_on_stored,
    palette=example.palette,
    max_unknown_id=example.max_unknown_id,
  )
  if image is not None:
    digest = hashlib.sha1(repr(image.shape).encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(image).data)
    mean, std = compute_channel_statistics(image)
    result = dataclasses.replace(
      result,
      size=image.shape[:2],
      channel_mean=mean,
      channel_std=std,
      digest=digest.digest(),
      perceptual_hash=compute_perceptual_hash(image),
    )
  if label is not None:
    crops = crop_windows(ops, label.shape)
    share = compute_empty_share(label != dataset_info.IGNORE, crops)
    result = dataclasses.replace(result, empty_crop_share=share)
  return result


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
  """Statistics of one split.

  Attributes:
    scans: scans of its examples.
    label_counts: int64 [256], number of pixels by train id, IGNORE included.
    sizes: int [n, 2], (H, W) of the images that could be read.
    channel_mean: float64 [C], mean of each channel over all pixels; [0] if no
      image could be read.
    channel_std: float64 [C], standard deviation of each channel.
    empty_crop_share: mean over the examples of the share of possible crops,
      0..1, that hold no labelled pixel.
  """

  scans: tuple[ExampleScan, ...]
  label_counts: np.ndarray
  sizes: np.ndarray
  channel_mean: np.ndarray
  channel_std: np.ndarray
  empty_crop_share: float

  @property
  def ignored_share(self) -> float:
    """Share of the pixels that are ignored, 0..1."""
    return float(
      self.label_counts[dataset_info.IGNORE] / max(1, self.label_counts.sum())
    )

  def class_frequencies(self, num_classes: int) -> np.ndarray:
    """Returns each class's share of the labelled pixels, float [K].

    All are 0 if no pixel is labelled.

    Args:
      num_classes: K.
    """
    counts = self.label_counts[:num_classes]
    return counts / max(1, counts.sum())

  def class_counts(self, num_classes: int) -> np.ndarray:
    """Returns the number of pixels of each readable mask by class, [N, K].

    Args:
      num_classes: K.
    """
    return np.array(
      [
        s.label_counts[:num_classes]
        for s in self.scans
        if s.label_counts is not None
      ]
    )


def summarize_split(scans: Sequence[ExampleScan]) -> SplitStatistics:
  """Sums up the scans of one split."""
  pixels = np.zeros(256, np.int64)
  for s in scans:
    if s.label_counts is not None:
      pixels += s.label_counts
  mean, std = _pool_channel_statistics(scans)
  return SplitStatistics(
    tuple(scans),
    pixels,
    np.array([s.size for s in scans if s.size], int).reshape(-1, 2),
    mean,
    std,
    float(np.mean([s.empty_crop_share for s in scans])) if scans else 0.0,
  )


def _pool_channel_statistics(
  scans: Sequence[ExampleScan],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and standard deviation of each channel over all pixels."""
  seen = [
    (s.size[0] * s.size[1], s.channel_mean, s.channel_std)
    for s in scans
    if s.size and s.channel_mean is not None and s.channel_std is not None
  ]
  if not seen:
    return np.zeros(0), np.zeros(0)
  counts, means, stds = (
    np.array(column, float) for column in zip(*seen, strict=True)
  )
  shares = (counts / counts.sum())[:, None]
  mean = (shares * means).sum(0)
  return mean, np.sqrt((shares * (stds**2 + (means - mean) ** 2)).sum(0))


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
  """Scans all examples; on a terminal, shows a bar with rate and ETA.

  Args:
    splits: by name, the examples of each split as references to files, or the
      number of its prepared examples.
    dataset: the data set.
    processes: number of processes; 1 scans in this one.

  Returns:
    A scan of each example, in an order that does not depend on timing.
  """
  tasks = []
  total = 0
  for split, examples in splits.items():
    if isinstance(examples, int):
      shards = min(examples, 4 * processes)
      tasks += [
        functools.partial(_scan_prepared, (split, i, shards), dataset)
        for i in range(shards)
      ]
      total += examples
    else:
      tasks += [
        functools.partial(_scan_files, examples[i : i + _CHUNK_SIZE], dataset)
        for i in range(0, len(examples), _CHUNK_SIZE)
      ]
      total += len(examples)
  with contextlib.ExitStack() as stack:
    run: Any = map
    if processes > 1:
      # A forked process could hang on locks that threads of this one hold.
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
    for chunk in run(_run_task, tasks):
      scans += chunk
      bar.update(len(chunk))
  return scans


def _run_task(task: Any) -> list[ExampleScan]:
  return task()
