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
class RawExample:
  """One example, not read yet.

  Attributes:
    image: the image's file, whose stem is the example's name.
    annotation: the file that holds its annotation, and maybe others'.
    info: what the values that `read` returns mean.
    read: reads the annotation, as `records.read_record` wants it.
    predicate: tells from what `read` returns whether the example is one at all.
  """

  image: pathlib.Path
  annotation: pathlib.Path
  info: dataset_info.DatasetInfo
  read: Callable[[pathlib.Path], np.ndarray] = raw_files.read_mask
  predicate: Callable[[np.ndarray], bool] | None = None


def generate_records(
  builder: tfds.core.DatasetBuilder,
  examples: Sequence[RawExample],
  info: dataset_info.DatasetInfo,
  split: str,
  spec: image_format.ImageSpec = image_format.RGB,
) -> Iterator[tuple[int, records.Record]]:
  """Yields the numbered records of wanted sources, in their order.

  Args:
    builder: what is being prepared.
    examples: the examples.
    info: facts about the data set.
    split: name of the split.
    spec: channels and depth of the images.

  Raises:
    ValueError: as `records.read_record`.
  """

  def read(source: RawExample) -> list[records.Record]:
    read_mask = source.read
    if source.predicate:
      mask = read_mask(source.annotation)
      if not source.predicate(mask):
        return []
      read_mask = lambda _: mask  # it is not drawn twice
    return [
      records.read_record(
        source.image,
        source.annotation,
        source.image.stem,
        source.info,
        read_mask,
        spec,
      )
    ]

  return records.generate_records(builder, read, examples, info, split)


def evaluate_predicates(examples: Iterable[RawExample]) -> Generator[bool]:
  """Yields whether each source is wanted, in order; threads read ahead.

  One that cannot be read is reported and not wanted; see `faults`.
  """

  def ask(source: RawExample) -> bool | ValueError:
    try:
      return not source.predicate or source.predicate(
        source.read(source.annotation)
      )
    except ValueError as error:
      return error

  verdicts = prefetch.parallel_map(
    ask, examples, records.THREADS, 2 * records.THREADS
  )
  with contextlib.closing(verdicts):
    for verdict in verdicts:
      if isinstance(verdict, ValueError):
        errors.raise_or_collect(verdict)
      yield verdict is True
