"""The interface of an augmentation op."""

import abc
import dataclasses
from typing import Any
from typing import ClassVar

import numpy as np

from deeplab.data.augmentation import sizes

# 'image' [H, W, C] (RGB of uint8, or any number of channels of uint8 or
# uint16), 'label' [H, W] uint8 (train ids or IGNORE), 'name' str, and maybe
# more keys, which every op passes through.
Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Op(abc.ABC):
  """One augmentation: a function of an example and a random generator.

  A subclass is a frozen dataclass, registered once, in `OPS` of its module. Its
  fields are the op's parameters, under the names that they have in
  `config.data.augment.OP`.

  An op keeps no state and changes no array in place: cached examples are
  shared between epochs. All of its randomness comes from the generator, which
  `pipeline` keys by (seed, position), so that a run can resume at any step.
  """

  # True if `__call__` may be given a `lazy_image.LazyImage` as 'image'. Of the
  # others the pipeline decodes and resizes the whole image first.
  accepts_lazy: ClassVar[bool] = False

  @abc.abstractmethod
  def __call__(self, example: Example, rng: np.random.Generator) -> Example:
    """Returns the augmented example, a new dict.

    Args:
      example: the example, which is left as it is.
      rng: the only source of randomness.
    """

  def size_after(self, size: sizes.Size, quantile: float) -> sizes.Size:
    """Returns the size that the op gives an image, without reading one.

    The dry run and the doctor ask for it. The default is that of an op which
    keeps the size.

    Args:
      size: (H, W) before the op.
      quantile: 0..1, which of the sizes that the op may draw: 0 is the
        smallest, 1 the largest. Ops that draw no size ignore it.
    """
    del quantile
    return size
