"""Examples that are not read yet."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

import numpy as np

from deeplab.data import bands
from deeplab.data import info as info_lib
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
  read: Callable[[pathlib.Path], np.ndarray] = records.read_mask


def generate(
  sources: Sequence[Source], what: str, pixels: bands.Pixels = bands.RGB
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the numbered records of sources, in their order.

  Args:
    sources: the examples.
    what: name of the set and the split, for the progress bar.
    pixels: channels and depth of the images.

  Raises:
    ValueError: as `records.example`.
  """
  for i, source in enumerate(records.progress(sources, what)):
    yield (
      i,
      records.example(
        source.image,
        source.annotation,
        source.image.stem,
        source.facts,
        source.read,
        pixels,
      ),
    )
