"""Examples whose files have been found but not read."""

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
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import records


@dataclasses.dataclass(frozen=True)
class RawExample:
  """Files of one example, and the function that reads its annotation.

  Attributes:
    image: the image file; its stem is the example's name.
    annotation: the file with the annotation; it may hold those of other images.
    info: meaning of the values that `read` returns.
    read: reads the annotation to [H, W] raw ids or [H, W, 3] colors.
    upright: the annotation is of the image as its EXIF orientation turns it,
      as annotation tools show it; False for published data sets, whose masks
      are drawn over the stored pixels.
    predicate: called with what `read` returns; an example for which it returns
      False is left out.
  """

  image: pathlib.Path
  annotation: pathlib.Path
  info: dataset_info.DatasetInfo
  read: Callable[[pathlib.Path], np.ndarray] = mask_files.read_mask
  upright: bool = False
  predicate: Callable[[np.ndarray], bool] | None = None


def generate_records(
  builder: tfds.core.DatasetBuilder,
  examples: Sequence[RawExample],
  info: dataset_info.DatasetInfo,
  split: str,
  spec: image_format.ImageSpec = image_format.RGB,
) -> Iterator[tuple[int, records.Record]]:
  """Yields (index, record) of each example that its predicate accepts.

  Args:
    builder: the tfds builder that is being prepared.
    examples: the examples, in the order in which they are written.
    info: classes of the data set.
    split: name of the split.
    spec: channels and depth of the images.

  Raises:
    ValueError: a file is damaged, image and mask differ in size, or a label
      value is not one of the data set; the message begins with the file.
  """

  def read(example: RawExample) -> list[records.Record]:
    read_mask = example.read
    if example.predicate:
      mask = read_mask(example.annotation)
      if not example.predicate(mask):
        return []
      read_mask = lambda _: mask  # avoids rasterizing it a second time
    return [
      records.read_record(
        example.image,
        example.annotation,
        example.image.stem,
        example.info,
        read_mask,
        spec,
        example.upright,
      )
    ]

  return records.generate_records(builder, read, examples, info, split)


def evaluate_predicates(examples: Iterable[RawExample]) -> Generator[bool]:
  """Yields the predicate of each example in order; threads read ahead.

  An example without a predicate is accepted. The error of one that cannot be
  read is raised or collected, and the example is then rejected.
  """

  def evaluate(example: RawExample) -> bool | ValueError:
    try:
      return not example.predicate or example.predicate(
        example.read(example.annotation)
      )
    except ValueError as error:
      return error

  results = prefetch.parallel_map(
    evaluate, examples, records.THREADS, 2 * records.THREADS
  )
  with contextlib.closing(results):
    for result in results:
      if isinstance(result, ValueError):
        errors.raise_or_collect(result)
      yield result is True
