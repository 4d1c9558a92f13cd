"""Examples that are not read yet."""

from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data import prefetch
from deeplab.data.preparation import errors
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records


@dataclasses.dataclass(frozen=True)
class Source:
  """One example, not read yet.

  Attributes:
    image: the image's file, whose stem is the example's name.
    annotation: the file that holds its annotation, and maybe others'.
    facts: what the values that `read` returns mean.
    read: reads the annotation, as `records.example` wants it.
    wanted: tells from what `read` returns whether the example is one at all.
  """

  image: pathlib.Path
  annotation: pathlib.Path
  facts: dataset_info.DatasetInfo
  read: Callable[[pathlib.Path], np.ndarray] = raw_files.read_mask
  wanted: Callable[[np.ndarray], bool] | None = None


def generate(
  builder: tfds.core.DatasetBuilder,
  sources: Sequence[Source],
  facts: dataset_info.DatasetInfo,
  split: str,
  pixels: image_format.Pixels = image_format.RGB,
) -> Iterator[tuple[int, records.Record]]:
  """Yields the numbered records of wanted sources, in their order.

  Args:
    builder: what is being prepared.
    sources: the examples.
    facts: facts about the data set.
    split: name of the split.
    pixels: channels and depth of the images.

  Raises:
    ValueError: as `records.example`.
  """

  def read(source: Source) -> list[records.Record]:
    read_mask = source.read
    if source.wanted:
      mask = read_mask(source.annotation)
      if not source.wanted(mask):
        return []
      read_mask = lambda _: mask  # it is not drawn twice
    return [
      records.example(
        source.image,
        source.annotation,
        source.image.stem,
        source.facts,
        read_mask,
        pixels,
      )
    ]

  return records.generate(builder, read, sources, facts, split)


def wanted(sources: Iterable[Source]) -> Generator[bool]:
  """Yields whether each source is wanted, in order; threads read ahead.

  One that cannot be read is reported and not wanted; see `faults`.
  """

  def ask(source: Source) -> bool | ValueError:
    try:
      return not source.wanted or source.wanted(source.read(source.annotation))
    except ValueError as error:
      return error

  verdicts = prefetch.ahead(ask, sources, records.THREADS, 2 * records.THREADS)
  with contextlib.closing(verdicts):
    for verdict in verdicts:
      if isinstance(verdict, ValueError):
        errors.report(verdict)
      yield verdict is True
