"""The catalog against literal tables and real samples; the user's folder."""

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from deeplab.data import catalog
from deeplab.data import dataset_info

# Number of classes, first and last class.
TABLE = {
  'shapes': (6, 'background', 'cross'),
  'voc': (21, 'background', 'tvmonitor'),
  'cityscapes': (19, 'road', 'bicycle'),
  'ade20k': (150, 'wall', 'flag'),
  'ade20k32_other': (32, 'other', 'armchair'),
  'ade20k32_ignore': (31, 'wall', 'armchair'),
  'pascal_context60': (60, 'background', 'wood'),
  'pascal_context59': (59, 'aeroplane', 'wood'),
  'loveda': (7, 'background', 'agricultural'),
  'potsdam': (6, 'impervious surface', 'clutter'),
  'vaihingen': (6, 'impervious surface', 'clutter'),
  'isaid': (16, 'background', 'harbor'),
  'coco_panoptic': (133, 'person', 'rug-merged'),
  'coco_voc21': (21, 'background', 'tvmonitor'),
  'coco_voc_person': (2, 'background', 'person'),
  'cocoseg21': (21, 'background', 'tvmonitor'),
  'cocoseg21_ti': (21, 'background', 'tvmonitor'),
  'oxford_iiit_pet': (2, 'background', 'pet'),
}


def folder_config(**fields):
  return ConfigDict(
    {
      'name': 'folder',
      'root': '',
      'num_classes': 3,
      'ignore_label': 255,
      'class_names': (),
      'color_map': (),
    }
    | fields
  )


def test_every_data_set_is_in_the_table():
  assert set(catalog.INFOS) == set(TABLE)


@pytest.mark.parametrize('name', TABLE)
def test_class_tables(name):
  info = catalog.INFOS[name]
  count, first, last = TABLE[name]
  assert info.name == name
  assert info.num_classes == len(info.palette) == count
  assert (info.class_names[0], info.class_names[-1]) == (first, last)
  assert len(set(info.class_names)) == count
  assert info.instructions


@pytest.mark.parametrize(
  ('name', 'raw', 'expected'),
  [
    ('voc', [0, 20, 255], [0, 20, 255]),
    ('cityscapes', [0, 6, 7, 8, 26, 33, 34], [255, 255, 0, 1, 13, 18, 255]),
    ('ade20k', [0, 1, 150], [255, 0, 149]),
    ('ade20k32_other', [0, 1, 31, 32, 150], [0, 1, 31, 0, 0]),
    ('ade20k32_ignore', [0, 1, 31, 32, 150], [255, 0, 30, 255, 255]),
    ('pascal_context60', [0, 2, 9, 458], [0, 1, 2, 59]),
    ('pascal_context59', [0, 2, 9, 458], [255, 0, 1, 58]),
    ('loveda', [0, 1, 7], [255, 0, 6]),
    ('potsdam', [0, 1, 6], [255, 0, 5]),
    ('isaid', [0, 15, 255], [0, 15, 255]),
    ('coco_panoptic', [0, 1, 90, 92, 184, 200], [255, 0, 79, 80, 116, 132]),
    ('coco_voc21', [0, 20, 255], [0, 20, 0]),
    ('coco_voc_person', [0, 14, 15, 255], [0, 0, 1, 0]),
    ('oxford_iiit_pet', [1, 2, 3], [1, 0, 255]),
  ],
)
def test_train_ids(name, raw, expected):
  got = dataset_info.raw_to_train_ids(
    np.array([raw], np.int32), catalog.INFOS[name]
  )
  assert got.dtype == np.uint8
  assert got.tolist() == [expected]


# Train ids by raw id 0..33, from the labels of cityscapesscripts.
CITYSCAPES = [
  *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255),
  *(5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18),
]


def test_cityscapes_ids_are_official():
  raw = np.arange(34, dtype=np.uint8)[None]
  got = dataset_info.raw_to_train_ids(raw, catalog.INFOS['cityscapes'])
  assert got.tolist() == [CITYSCAPES]


def test_cityscapes_sample(shared):
  """Equal bit for bit wherever the sample's two files agree.

  They contradict each other in 77 of 32,768 pixels, at outlines: raw id 7, for
  one, is train id 0 in 9,722 pixels and 1, 5, 13 or 255 in 18. No table of ids
  makes one file of the other; what cityscapesscripts writes from the same
  polygons never differs so, and the file of instance ids sides with the raw
  ids. Apparently the two were made smaller apart.
  """
  stem = 'frankfurt_000000_000294_gtFine'
  folder = shared / 'samples/cityscapes/gtFine/val/frankfurt'
  raw, official, instances = (
    np.asarray(Image.open(folder / f'{stem}_{kind}.png'))
    for kind in ('labelIds', 'labelTrainIds', 'instanceIds')
  )
  got = dataset_info.raw_to_train_ids(raw, catalog.INFOS['cityscapes'])
  one_of = np.where(instances < 1000, instances, instances // 1000)
  np.testing.assert_array_equal(one_of, raw)
  # The pixels that have another train id than most of their raw id.
  counts = np.zeros((34, 256), np.int64)
  np.add.at(counts, (raw, official), 1)
  contradicted = official != counts.argmax(axis=1)[raw]
  assert np.count_nonzero(contradicted) == 77
  assert counts[7, [0, 1, 5, 13, 255]].tolist() == [9722, 13, 1, 3, 1]
  np.testing.assert_array_equal(got != official, contradicted)


@pytest.mark.parametrize('name', ['ade20k', 'loveda', 'potsdam', 'vaihingen'])
def test_samples_match_their_info(shared, name):
  paths = [
    path
    for path in sorted((shared / 'samples' / name).rglob('*.png'))
    if 'ann' in str(path)
  ]
  assert paths
  for path in paths:
    raw = np.asarray(Image.open(path))
    got = dataset_info.raw_to_train_ids(raw, catalog.INFOS[name])
    np.testing.assert_array_equal(got == 255, raw == 0)
    np.testing.assert_array_equal(got[raw > 0], raw[raw > 0] - 1)


def test_voc_colors_follow_the_palette():
  assert dataset_info.voc_palette(21) == catalog.INFOS['voc'].palette


def test_isprs_colors_are_rgb():
  colors = dict(
    zip(
      catalog.INFOS['potsdam'].class_names,
      catalog.INFOS['potsdam'].palette,
      strict=True,
    )
  )
  assert colors['building'] == (0, 0, 255)
  assert colors['car'] == (255, 255, 0)
  assert colors['clutter'] == (255, 0, 0)


def test_coco_categories():
  assert catalog.COCO_TO_VOC[1] == 15  # person
  assert catalog.COCO_TO_VOC[72] == 20  # television
  assert len(catalog.COCO_TO_VOC) == 21


def test_folder_defaults():
  info = catalog.info_for(folder_config())
  assert info.class_names == ('class 0', 'class 1', 'class 2')
  assert info.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
  assert info.ignore_label == 255
  assert catalog.info_for(folder_config(ignore_label=-1)).ignore_label is None


def test_folder_from_config():
  info = catalog.info_for(
    folder_config(
      num_classes=2,
      class_names=('sky', 'road'),
      color_map=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
    )
  )
  assert info.class_names == ('sky', 'road')
  assert info.palette == ((1, 2, 3), (4, 5, 6))
  assert info.ignore_color == (7, 8, 9)


def test_folder_from_classes_file(tmp_path):
  (tmp_path / 'classes.txt').write_text(
    'sky 1 2 3\ntraffic light 4 5 6\n\nvoid 7 8 9\n', 'utf-8'
  )
  info = catalog.info_for(folder_config(root=str(tmp_path), num_classes=2))
  assert info.class_names == ('sky', 'traffic light')
  assert info.palette == ((1, 2, 3), (4, 5, 6))
  assert info.ignore_color == (7, 8, 9)


def test_too_many_names_in_the_classes_file(tmp_path):
  (tmp_path / 'classes.txt').write_text('a\nb\nc\nd\n', 'utf-8')
  with pytest.raises(ValueError) as caught:
    catalog.info_for(folder_config(root=str(tmp_path), num_classes=2))
  assert str(caught.value) == (
    f'{tmp_path}/classes.txt names 4 classes and config.data.num_classes is 2: '
    'use --config.data.num_classes=4, or 3 if the last one stands for ignored '
    'pixels'
  )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'ignore_label': 2}, 'ignore_label=2 with 3 classes'),
    ({'ignore_label': -2}, 'ignore_label=-2'),
    (
      {'class_names': ('a',)},
      r'^config\.data\.class_names names 1 class and .*\.num_classes is 3: '
      r'use --config\.data\.num_classes=1$',
    ),
    (
      {'color_map': ((0, 0, 0),) * 5},
      r'color_map colors 5 classes and .* is 3: '
      r'use --config\.data\.num_classes=5, or 4 if the last one stands '
      'for ignored pixels$',
    ),
    (
      {'color_map': ((0, 0, 300),)},
      'color .0 0 300. is not three whole numbers in 0..255',
    ),
    ({'name': 'vok'}, "'vok' is not one of ade20k"),
  ],
)
def test_inconsistent_fields_are_rejected(fields, message):
  with pytest.raises(ValueError, match=message):
    catalog.info_for(folder_config(**fields))
