"""Maps class names of annotation files to train ids, and draws their shapes.

The train id of a name is its place in `config.data.class_names` or in
ROOT/classes.txt. Each shape is drawn over those before it. Pixels without a
shape belong to the class named 'background', and are ignored if there is none.
"""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import pathlib
from typing import Any

import numpy as np

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.formats import fields
from deeplab.data.formats import named_files
from deeplab.data.preparation import errors
from deeplab.data.preparation import rasterize
from deeplab.data.preparation import raw_examples

BACKGROUND = 'background'

# A label of labelme for pixels that are neither trained on nor scored.
_IGNORED = '__ignore__'


@dataclasses.dataclass(frozen=True)
class ClassTable:
  """Classes of a folder of the user's own.

  Attributes:
    ids: train ids by name; the name after the last class, if given, is IGNORE.
    mask_info: meaning of the values in mask files.
  """

  ids: dict[str, int]
  mask_info: dataset_info.DatasetInfo

  @property
  def drawn_info(self) -> dataset_info.DatasetInfo:
    """Meaning of the values in drawn labels: train ids, or IGNORE."""
    return dataclasses.replace(
      self.mask_info,
      ignore_label=dataset_info.IGNORE,
      id_mapping=None,
      unmapped=None,
    )

  def find_id(self, name: str) -> int:
    """Returns the train id of a name, or IGNORE.

    Raises:
      ValueError: no class has that name.
    """
    name = unify_background(name)
    if name == _IGNORED:
      return self.ids.get(name, dataset_info.IGNORE)
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

    A shape without points, or of less than three, is left out and counted
    (`errors.count_left_out`), and so is such a polygon of a shape of several.

    Args:
      size: (H, W) of the image.
      shapes: one (description, category, segmentation) for each shape; the
        description is for messages. A segmentation is COCO's (polygons or run
        lengths) or a mask [H, W] bool.

    Returns:
      [H, W] uint8 train ids or IGNORE.

    Raises:
      ValueError: a category is unknown, or a segmentation is malformed.
    """
    background = self.ids.get(BACKGROUND, dataset_info.IGNORE)
    label = np.full(size, background, np.uint8)
    for description, name, segmentation in shapes:
      try:
        train_id = self.find_id(name)
        if not isinstance(segmentation, np.ndarray):
          segmentation = rasterize.segmentation_to_mask(
            _drop_lines(description, segmentation), size
          )
        label[segmentation] = train_id
      except rasterize.EmptyShapeError as error:
        errors.count_left_out(f'{description}: {error}')
      except ValueError as error:
        raise ValueError(f'{description}: {error}') from error
    return label


def _drop_lines(description: str, segmentation: Any) -> Any:
  """Returns polygons without those of one or two points, if any is left."""
  if not isinstance(segmentation, list):
    return segmentation
  kept = [x for x in segmentation if not isinstance(x, list) or len(x) > 5]
  if not kept or len(kept) == len(segmentation):
    return segmentation
  errors.count_left_out(f'{description}: a polygon of less than three points')
  return kept


def unify_background(name: str) -> str:
  """Returns 'background' for it as tools write it, such as '_background_'."""
  return BACKGROUND if name.strip('_ ').lower() == BACKGROUND else name


def load_class_table(data: Any) -> ClassTable:
  """Returns the classes of the user's folder.

  Args:
    data: `config.data`; reads `root`, `num_classes`, `ignore_label`,
      `class_names` and `color_map`.

  Raises:
    ValueError: the fields, or the folder's classes.txt, contradict each other.
  """
  info = catalog.info_for(data)
  names = catalog.read_folder_classes(data)['class_names']
  names = tuple(map(unify_background, names))
  ids = {name: i for i, name in enumerate(names[: info.num_classes])}
  ids |= dict.fromkeys(names[info.num_classes :], dataset_info.IGNORE)
  return ClassTable(ids, info)


def make_raw_examples(
  annotation: pathlib.Path,
  folders: Iterable[pathlib.Path],
  classes: ClassTable,
  images: Iterable[tuple[str, Callable[[pathlib.Path], np.ndarray]]],
) -> list[raw_examples.RawExample]:
  """Returns the examples of an annotation file with many images.

  Args:
    annotation: the annotation file.
    folders: folders that are searched for images, in this order.
    classes: the classes.
    images: (name, read) of each image: its name in the annotation file, and a
      function that draws its label, uint8 [H, W], from the path of that file.

  Raises:
    ValueError: an image is in none of the folders.
  """
  folders, examples = tuple(folders), []
  for name, read in images:
    with errors.catch_and_collect():
      image = find_image_file(name, folders, annotation)
      examples.append(
        raw_examples.RawExample(image, annotation, classes.drawn_info, read)
      )
  return examples


def find_image_file(
  name: str, folders: Iterable[pathlib.Path], annotation: pathlib.Path
) -> pathlib.Path:
  """Returns the file of an image that an annotation file names.

  Args:
    name: relative path in the annotation file, with / or \\.
    folders: folders that are searched, in this order.
    annotation: the annotation file, for the message.

  Raises:
    ValueError: the image is in none of the folders, or no file has such a name.
  """
  try:
    fields.check_characters(name)
  except ValueError as error:
    raise ValueError(f'{annotation}: {error}; correct its entry') from error
  folders = tuple(folders)
  path = named_files.find(name, folders, annotation)
  if path:
    return path
  try:
    fields.check_file_name(name)
  except ValueError as error:
    raise ValueError(f'{annotation}: {error}; correct its entry') from error
  expected = folders[0] / name.replace('\\', '/')
  raise ValueError(
    f'{expected}: no such file, but {annotation} names it; add the image or '
    'remove its entry'
  )
