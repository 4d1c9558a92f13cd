"""Catalog of data sets: classes, colors, label ids, sizes and licences.

Class tables are text files in `classes/` with one line for each class, in the
order of the train ids: its name, then its color as three numbers. Names and
colors are those in common use (MMSegmentation's, if it has the data set).
"""

from collections.abc import Sequence
import pathlib
from typing import Any

from deeplab import text
from deeplab.data import dataset_info
from deeplab.data import id_maps

_CLASS_TABLES = pathlib.Path(__file__).parent / 'classes'


def read_folder_classes(data: Any) -> dict[str, Any]:
  """Returns `class_names`, `color_map` and `id_map` of the user's folder.

  Whichever of them is empty in the config is read from ROOT/classes.txt, if
  that file exists, or from Roboflow's _classes.csv in ROOT or in the folder of
  the training split; it may stay empty.

  Args:
    data: `config.data`; reads `root`, `train_split`, `num_classes`,
      `class_names`, `color_map` and `id_map`.

  Raises:
    ValueError: there is neither one entry for each class nor one more, which is
      that of the ignored pixels.
  """
  count = data.num_classes
  names, colors = (
    tuple(data.class_names),
    tuple(map(dataset_info.check_color, data.color_map)),
  )
  _check_row_count('config.data.class_names names', names, count)
  _check_row_count('config.data.color_map colors', colors, count)
  id_map = data.get('id_map', '')
  table = _find_class_table(data)
  if table and not (names and colors and id_map):
    rows = dataset_info.read_class_table(table)
    if not names:
      _check_row_count(f'{table} names', rows.names, count)
    if not colors:
      _check_row_count(f'{table} colors', rows.colors, count)
    if not id_map:
      id_map = id_maps.format_id_map(rows.values, count)
    names, colors = names or rows.names, colors or rows.colors
  return {'class_names': names, 'color_map': colors, 'id_map': id_map}


def _find_class_table(data: Any) -> pathlib.Path | None:
  """Returns the file that names the classes of the user's folder, if any."""
  root = pathlib.Path(data.root).expanduser()
  files = (
    root / 'classes.txt',
    root / '_classes.csv',
    root / data.get('train_split', '') / '_classes.csv',
  )
  if not data.root:
    return None
  return next((path for path in files if path.is_file()), None)


def _check_row_count(subject: str, rows: Sequence[Any], count: int) -> None:
  """Raises ValueError unless there are `count` rows, one more, or none."""
  given = len(rows)
  if given in (0, count, count + 1):
    return
  less = f', or {given - 1} if the last one stands for ignored pixels'
  raise ValueError(
    f'{subject} {text.plural(given, "class", "classes")} and '
    f'config.data.num_classes is {count}: use '
    f'--config.data.num_classes={given}{less if given > 1 else ""}'
  )


def _folder_info(data: Any) -> dataset_info.DatasetInfo:
  """Builds the info of the user's folder from the config and classes.txt."""
  count = data.num_classes
  names, colors, id_map = read_folder_classes(data).values()
  label = data.ignore_label
  mapping, others = None, None
  if id_map:
    mapping, others = id_maps.parse_id_map(id_map, count)
    mapping = ({label: dataset_info.IGNORE} if label != -1 else {}) | mapping
  elif 0 <= label < count or not -1 <= label <= 65535:
    raise ValueError(
      f'config.data.ignore_label={label} with {count} classes: give an id '
      f'that is not a class (at least {count}), or -1 for none'
    )
  return dataset_info.DatasetInfo(
    name='folder',
    class_names=names[:count] or tuple(f'class {i}' for i in range(count)),
    palette=colors[:count] or dataset_info.voc_palette(count),
    ignore_label=None if label == -1 or id_map else label,
    id_mapping=mapping,
    unmapped=others,
    ignore_color=colors[count] if len(colors) > count else None,
    has_user_colors=bool(colors),
  )


def info_for(data: Any) -> dataset_info.DatasetInfo:
  """Returns the info of the data set that `config.data` names.

  Args:
    data: `config.data`; reads `name`. For 'folder' it also reads `root`,
      `num_classes`, `ignore_label` (-1: none), `class_names` and `color_map`
      (one entry for each class, and optionally one more for ignored pixels; if
      empty, they are read from ROOT/classes.txt, if that exists).

  Raises:
    ValueError: an unknown name, or fields of a folder that contradict each
      other.
  """
  if data.name == 'folder':
    return _folder_info(data)
  if data.name not in INFOS:
    raise ValueError(
      f'config.data.name={data.name!r} is not one of '
      f'{", ".join(sorted([*INFOS, "folder"]))}'
    )
  return INFOS[data.name]


def _published_info(
  name: str, table: str, first: int = 0, **fields: Any
) -> dataset_info.DatasetInfo:
  """Builds an info from classes/TABLE.txt, leaving out its first lines.

  Args:
    name: name of the data set.
    table: stem of the class table.
    first: index of the first class that is used.
    **fields: other fields of `DatasetInfo`.
  """
  names, colors, _ = dataset_info.read_class_table(
    _CLASS_TABLES / f'{table}.txt'
  )
  fields.setdefault('ignore_label', None)
  return dataset_info.DatasetInfo(
    name=name, class_names=names[first:], palette=colors[first:], **fields
  )


# Raw ids of Pascal Context's 60 classes, including 0 (background), by train id:
# their sorted order.
_PASCAL_CONTEXT = tuple(
  sorted(
    (
      *(0, 2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25),
      *(284, 158, 159, 416, 33, 162, 420, 454, 295, 296, 427, 44, 45, 46),
      *(308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34, 207),
      *(80, 355, 85, 347, 220, 349, 360, 98, 187, 104, 105, 366, 189, 368),
      *(113, 115),
    )
  )
)

# VOC's class id by COCO's category id; the list is in the order of VOC's ids.
COCO_TO_VOC = {
  category: i
  for i, category in enumerate(
    (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
  )
}

# COCO's category ids by train id: 80 things up to 90, then 53 stuff classes.
_COCO_PANOPTIC = (
  *sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}),
  *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138),
  *(141, 144, 145, 147, 148, 149, 151, 154, 155, 156, 159, 161, 166, 168, 171),
  *(175, 176, 177, 178, 180, 181),
  *range(184, 201),
)

_ADE20K: dict[str, Any] = {
  'url': 'https://ade20k.csail.mit.edu/',
  'licence': "research and education; images keep their owners' terms",
  'instructions': 'Fetch ADEChallengeData2016.zip of the scene parsing '
  'benchmark and unpack it into FOLDER.',
  'splits': {'train': 20210, 'val': 2000},
}
_COCO: dict[str, Any] = {
  'url': 'https://cocodataset.org/',
  'licence': 'annotations CC BY 4.0; images keep their Flickr terms',
  'instructions': 'Fetch train2017.zip, val2017.zip and '
  'annotations_trainval2017.zip.',
}
_COCO_VOC = _COCO | {
  'instructions': f'{_COCO["instructions"]} Fetch VOC 2012 and SBD too (see '
  'voc), and unpack all into one folder.'
}
_CONTEXT: dict[str, Any] = {
  'url': 'https://cs.stanford.edu/~roozbeh/pascal-context/',
  'licence': 'as VOC 2010: images keep their Flickr terms',
  'instructions': 'Fetch VOCtrainval_03-May-2010.tar of VOC 2010 and '
  'trainval.tar.gz (the 459 classes as .mat files), and unpack both into '
  'FOLDER.',
}
_ISPRS: dict[str, Any] = {
  'licence': 'ISPRS terms of use: research, on registration',
  'id_mapping': id_maps.reduce_zero_label(6),
  'ignore_color': (0, 0, 0),
}
_VOC: dict[str, Any] = {
  'url': 'http://host.robots.ox.ac.uk/pascal/VOC/voc2012/',
  'licence': 'images keep their Flickr terms',
}

# `fingerprint.hash_files` covers all fields, `instructions` included: changing
# any of them prepares the data set again.
INFOS: dict[str, dataset_info.DatasetInfo] = {
  info.name: info
  for info in (
    _published_info(
      'shapes',
      'shapes',
      ignore_label=dataset_info.IGNORE,
      splits={'train': 600, 'val': 100},
      instructions='Made on first use; nothing to fetch.',
    ),
    _published_info(
      'voc',
      'voc',
      ignore_label=255,
      ignore_color=(224, 224, 192),
      splits={'train': 1464, 'val': 1449, 'trainval': 2913, 'trainaug': 10582},
      instructions='Fetch VOCtrainval_11-May-2012.tar, and for trainaug the '
      'SBD archive benchmark.tgz; unpack both into one folder.',
      **_VOC,
    ),
    _published_info(
      'cityscapes',
      'cityscapes',
      splits={'train': 2975, 'val': 500, 'test': 1525},
      id_mapping={raw: i for i, raw in enumerate(id_maps.CITYSCAPES)},
      unmapped=dataset_info.IGNORE,
      url='https://www.cityscapes-dataset.com/',
      licence='non-commercial, on registration',
      instructions='Fetch leftImg8bit_trainvaltest.zip and '
      'gtFine_trainvaltest.zip, and unpack both into FOLDER.',
    ),
    _published_info(
      'ade20k', 'ade20k', id_mapping=id_maps.reduce_zero_label(150), **_ADE20K
    ),
    # Two conventions for "ADE20K-32" that give different mIoU. Here class 0
    # ("other", with all rarer classes) is scored as a class of its own.
    _published_info(
      'ade20k32_other',
      'ade20k32',
      id_mapping={i: i for i in range(32)},
      unmapped=0,
      unscored=('other',),  # MLPerf's mean leaves it out, TI's has all 32
      **_ADE20K,
    ),
    # Here class 0 is ignored, which leaves 31 classes (MLPerf mobile).
    _published_info(
      'ade20k32_ignore',
      'ade20k32',
      first=1,
      id_mapping={i + 1: i for i in range(31)},
      unmapped=dataset_info.IGNORE,
      **_ADE20K,
    ),
    _published_info(
      'pascal_context60',
      'pascal_context',
      id_mapping={raw: i for i, raw in enumerate(_PASCAL_CONTEXT)},
      **_CONTEXT,
    ),
    _published_info(
      'pascal_context59',
      'pascal_context',
      first=1,
      id_mapping={
        raw: i - 1 if i else dataset_info.IGNORE
        for i, raw in enumerate(_PASCAL_CONTEXT)
      },
      **_CONTEXT,
    ),
    _published_info(
      'loveda',
      'loveda',
      id_mapping=id_maps.reduce_zero_label(7),
      splits={'train': 2522, 'val': 1669, 'test': 1796},
      url='https://github.com/Junjue-Wang/LoveDA',
      licence='CC BY-NC-SA 4.0',
      instructions='Fetch Train.zip and Val.zip, and unpack both into FOLDER.',
    ),
    # The ids are those that mmsegmentation's converters write. The colors are
    # RGB; a converter that reads files as BGR must swap its table too, or else
    # buildings become clutter and low vegetation becomes cars.
    _published_info(
      'potsdam',
      'isprs',
      splits={'train': 3456, 'val': 2016},
      url='https://www.isprs.org/education/benchmarks/UrbanSemLab/'
      '2d-sem-label-potsdam.aspx',
      instructions='Fetch 2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip, '
      'and unpack both into FOLDER.',
      **_ISPRS,
    ),
    _published_info(
      'vaihingen',
      'isprs',
      splits={'train': 344, 'val': 398},
      url='https://www.isprs.org/education/benchmarks/UrbanSemLab/'
      '2d-sem-label-vaihingen.aspx',
      instructions='Fetch ISPRS_semantic_labeling_Vaihingen.zip and '
      'ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip, '
      'and unpack both into FOLDER.',
      **_ISPRS,
    ),
    _published_info(
      'isaid',
      'isaid',
      ignore_label=255,
      splits={'train': 33978, 'val': 11644},
      url='https://captain-whu.github.io/iSAID/',
      licence='non-commercial research',
      instructions='Fetch the images of DOTA-v1.0 and the semantic masks of '
      'iSAID, and unpack those of each split into FOLDER/SPLIT.',
    ),
    # VOC and COCO with VOC's void border as background: with 21 classes, or
    # with all classes but the person as background.
    _published_info(
      'coco_voc21',
      'voc',
      id_mapping={i: i for i in range(21)} | {255: 0},
      splits={'val': 1449},
      **_COCO_VOC,
    ),
    _published_info(
      'coco_voc_person',
      'person',
      id_mapping={15: 1},
      unmapped=0,
      splits={'val': 1449},
      **_COCO_VOC,
    ),
    # Two conventions: `val` has all images (torchvision), or only those that
    # show more than 1,000 pixels of the classes (Texas Instruments).
    _published_info(
      'cocoseg21', 'voc', ignore_label=255, splits={'val': 5000}, **_COCO
    ),
    _published_info('cocoseg21_ti', 'voc', ignore_label=255, **_COCO),
    _published_info(
      'coco_panoptic',
      'coco_panoptic',
      id_mapping={0: dataset_info.IGNORE}
      | {category: i for i, category in enumerate(_COCO_PANOPTIC)},
      splits={'train': 118287, 'val': 5000},
      **_COCO
      | {
        'instructions': f'{_COCO["instructions"]} Fetch '
        'panoptic_annotations_trainval2017.zip too, and unpack its two '
        'archives in annotations/.'
      },
    ),
    # Trimaps: 1 is the animal, 2 the background, 3 the border between them.
    _published_info(
      'oxford_iiit_pet',
      'oxford_iiit_pet',
      id_mapping={1: 1, 2: 0, 3: dataset_info.IGNORE},
      splits={'train': 3680, 'test': 3669},
      url='https://www.robots.ox.ac.uk/~vgg/data/pets/',
      licence='CC BY-SA 4.0',
      instructions='Fetch images.tar.gz and annotations.tar.gz.',
    ),
  )
}
