"""Raw ids to train ids, palettes, and class tables."""

import dataclasses

import numpy as np
import pytest

from deeplab.data import dataset_info

PLAIN = dataset_info.DatasetInfo(
  name='plain',
  class_names=('sky', 'road'),
  palette=((1, 2, 3), (4, 5, 6)),
  ignore_label=11,
)


def test_ids_without_a_mapping():
  got = dataset_info.raw_to_train_ids(np.array([[0, 1, 11]], np.int32), PLAIN)
  assert got.dtype == np.uint8
  assert got.tolist() == [[0, 1, 255]]


def test_ids_are_mapped():
  info = dataclasses.replace(
    PLAIN, ignore_label=None, id_mapping={700: 0, 7: 1}
  )
  assert dataset_info.raw_to_train_ids(np.array([[700, 7]]), info).tolist() == [
    [0, 1]
  ]
  info = dataclasses.replace(info, unmapped=dataset_info.IGNORE)
  raw = np.array([[700, -1, 0, 70000]])
  assert dataset_info.raw_to_train_ids(raw, info).tolist() == [
    [0, 255, 255, 255]
  ]


@pytest.mark.parametrize('raw', [2, 255, -3, 65535, 70000])
def test_the_error_names_unknown_ids(raw):
  mask = np.array([[0, raw], [raw, 0]], np.int32)
  with pytest.raises(ValueError, match=r'label value .* \(2 pixels\)') as error:
    dataset_info.raw_to_train_ids(mask, PLAIN)
  if 0 <= raw <= 65535:
    assert f'label value {raw} ' in str(error.value)


def test_voc_palette():
  assert dataset_info.voc_palette(3) == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
  assert dataset_info.voc_palette(256)[255] == (224, 224, 192)


def test_class_tables_with_and_without_colors(tmp_path):
  path = tmp_path / 'classes.txt'
  path.write_text('sky 1 2 3\ntraffic light 4 5 6\n\n', 'utf-8')
  assert dataset_info.read_class_table(path) == (
    ('sky', 'traffic light'),
    ((1, 2, 3), (4, 5, 6)),
    (),
  )
  path.write_text('sky\nroad 66\n', 'utf-8')
  assert dataset_info.read_class_table(path) == (('sky', 'road 66'), (), ())
  path.write_text('sky\nroad 4 5 6\n', 'utf-8')
  with pytest.raises(ValueError, match='1 of 2 lines end in a color'):
    dataset_info.read_class_table(path)
  path.write_text('sky 1 2 3\nroad 4 5 256\n', 'utf-8')
  with pytest.raises(
    ValueError, match=r"classes\.txt: line 2: color '4 5 256' is not three who"
  ):
    dataset_info.read_class_table(path)
  path.write_text(f'sky 1 2 {"9" * 5000}\n', 'utf-8')
  with pytest.raises(ValueError, match=r'classes\.txt: line 1: color .1 2 99'):
    dataset_info.read_class_table(path)
  path.write_bytes('himmel über'.encode('latin-1'))
  with pytest.raises(ValueError, match=r'classes\.txt: not a text in UTF-8'):
    dataset_info.read_class_table(path)


@pytest.mark.parametrize(
  'color',
  [
    *((1, 2), (1, 2, 3, 4), (0, 0, 256), (0, -1, 0), (0, 0, 2.5)),
    *((0, 0, float('nan')), (0, 0, float('inf')), (0, 0, None)),
  ],
)
def test_colors_are_three_whole_numbers(color):
  assert dataset_info.check_color((1.0, '2', 255)) == (1, 2, 255)
  with pytest.raises(
    ValueError, match=r'is not three whole numbers in 0\.\.255'
  ):
    dataset_info.check_color(color)


@pytest.mark.parametrize(
  ('names', 'palette', 'message'),
  [
    ((), (), '0 classes'),
    (('x',) * 256, ((0, 0, 0),) * 256, '256 classes'),
    (('x', 'y'), ((0, 0, 0),), '1 colors for 2 classes'),
  ],
)
def test_inconsistent_infos_are_rejected(names, palette, message):
  with pytest.raises(ValueError, match=message):
    dataset_info.DatasetInfo('bad', names, palette, ignore_label=None)


def test_the_error_names_the_line_of_a_class_table(tmp_path):
  table = tmp_path / 'classes.txt'
  table.write_text('road\nc\0ar 0 128 0\n', 'utf-8')
  with pytest.raises(
    ValueError, match=r'classes\.txt: line 2: the class name .* control char'
  ):
    dataset_info.read_class_table(table)


def test_class_names_are_one_line_each():
  """labels.txt, and the C strings of an export, have one a line."""
  for name in ('a\nb', 'a\u2028b', 'a\x00'):
    with pytest.raises(ValueError, match='has a line break or a control char'):
      dataset_info.DatasetInfo('x', ('ok', name), ((0, 0, 0),) * 2, None)


def test_class_tables_with_ids(tmp_path):
  path = tmp_path / 'classes.txt'
  path.write_text('0,4-6: back ground 1 2 3\n255 :person 4 5 6\n', 'utf-8')
  assert dataset_info.read_class_table(path) == (
    ('back ground', 'person'),
    ((1, 2, 3), (4, 5, 6)),
    ((0, 4, 5, 6), (255,)),
  )
  path.write_text('0: background\nperson\n', 'utf-8')
  with pytest.raises(ValueError, match='1 of 2 lines begin with ids, such as'):
    dataset_info.read_class_table(path)
  path = tmp_path / '_classes.csv'
  path.write_text('Pixel Value, Class\r\n0, background\r\n1, my car\r\n')
  assert dataset_info.read_class_table(path) == (
    ('background', 'my car'),
    (),
    ((0,), (1,)),
  )
