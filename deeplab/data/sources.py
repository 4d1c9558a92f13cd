"""Examples that are not read yet."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from deeplab.data import bands
from deeplab.data import info as info_lib
from deeplab.data import raw_files
from deeplab.data import records


@dataclasses.dataclass(frozen=True)
class Source:
  """One example, not read yet.

  Attributes:
    image: the image's file, whose stem is the example's name.
    annotation: the file that holds its annotation, and maybe others'.
    facts: what the values that `read` returns mean.
    read: reads the annotation, as `records.example` wants it.
  """

  image: pathlib.Path
  annotation: pathlib.Path
  facts: info_lib.DatasetInfo
  read: Callable[[pathlib.Path], np.ndarray] = raw_files.read_mask


def generate(
  builder: tfds.core.DatasetBuilder,
  sources: Sequence[Source],
  facts: info_lib.DatasetInfo,
  split: str,
  pixels: bands.Pixels = bands.RGB,
) -> Iterator[tuple[int, records.Record]]:
  """Yields the numbered records of sources, in their order.

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
    return [
      records.example(
        source.image,
        source.annotation,
        source.image.stem,
        source.facts,
        source.read,
        pixels,
      )
    ]

  return records.generate(builder, read, sources, facts, split)
