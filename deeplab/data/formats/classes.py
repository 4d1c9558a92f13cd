"""The classes that a format's own names are drawn with.

A shape takes the id of its name in `config.data.class_names` or in
ROOT/classes.txt, and is drawn over the shapes before it. Pixels that no shape
covers are of the class called 'background', and ignored where there is none.
"""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import pathlib
from typing import Any

import numpy as np

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.preparation import errors
from deeplab.data.preparation import rasterize
from deeplab.data.preparation import raw_examples

BACKGROUND = 'background'


@dataclasses.dataclass(frozen=True)
class ClassTable:
  """The classes of a user's own data.

  Attributes:
    ids: train id by name; IGNORE for the one name after those of the classes.
    mask_info: what the values of mask files mean.
  """

  ids: dict[str, int]
  mask_info: dataset_info.DatasetInfo

  @property
  def drawn_info(self) -> dataset_info.DatasetInfo:
    """What the values of drawn labels mean: train ids, or IGNORE."""
    return dataclasses.replace(self.mask_info, ignore_label=dataset_info.IGNORE)

  def find_id(self, name: str) -> int:
    """Returns the train id of a name, or IGNORE.

    Raises:
      ValueError: it is unknown.
    """
    if name not in self.ids:
      known = ', '.join(self.ids) or 'none is given'
      raise ValueError(
        f'category {name!r} is not one of the classes ({known}); name it in '
        'config.data.class_names or in classes.txt at the root, or rename the '
        'category'
      )
    return self.ids[name]

  def draw_shapes(
    self, size: tuple[int, int], shapes: Iterable[tuple[str, str, Any]]
  ) -> np.ndarray:
    """Draws shapes one over the other.

    Args:
      size: (H, W).
      shapes: (what a message calls it, category, segmentation) each; see
        `regions`. A segmentation may also be a mask, [H, W] bool.

    Returns:
      [H, W] uint8 train ids, or IGNORE.

    Raises:
      ValueError: an unknown category, or a broken segmentation.
    """
    rest = self.ids.get(BACKGROUND, dataset_info.IGNORE)
    label = np.full(size, rest, np.uint8)
    for what, name, segmentation in shapes:
      try:
        if not isinstance(segmentation, np.ndarray):
          segmentation = rasterize.segmentation_to_mask(segmentation, size)
        label[segmentation] = self.find_id(name)
      except ValueError as error:
        raise ValueError(f'{what}: {error}') from error
    return label


def load_class_table(data: Any) -> ClassTable:
  """Returns the classes of a folder; reads what `catalog.info_for` reads."""
  facts = catalog.info_for(data)
  names = catalog.read_folder_classes(data)['class_names']
  ids = {name: i for i, name in enumerate(names[: facts.num_classes])}
  ids |= dict.fromkeys(names[facts.num_classes :], dataset_info.IGNORE)
  return ClassTable(ids, facts)


def make_raw_examples(
  annotation: pathlib.Path,
  folders: Iterable[pathlib.Path],
  classes: ClassTable,
  images: Iterable[tuple[str, Callable[[pathlib.Path], np.ndarray]]],
) -> list[raw_examples.RawExample]:
  """Returns the examples of a file of many images.

  Args:
    annotation: the file.
    folders: where images may be.
    classes: the classes.
    images: an image's name in the file, and what draws it, each.

  Raises:
    ValueError: an image is in none of the folders.
  """
  folders, found = tuple(folders), []
  for name, read in images:
    with errors.catch_and_collect():
      image = find_image_file(name, folders, annotation)
      found.append(
        raw_examples.RawExample(image, annotation, classes.drawn_info, read)
      )
  return found


def find_image_file(
  name: str, folders: Iterable[pathlib.Path], annotation: pathlib.Path
) -> pathlib.Path:
  """Returns the file of an image that an annotation file names.

  Args:
    name: as the annotation file has it, with either kind of slash.
    folders: where it may be.
    annotation: the file.

  Raises:
    ValueError: it is in none of the folders.
  """
  places = [folder / name.replace('\\', '/') for folder in folders]
  for path in places:
    if path.is_file():
      return path
  raise ValueError(
    f'{places[0]}: no such file, but {annotation} names it; add the image or '
    'remove its entry'
  )
