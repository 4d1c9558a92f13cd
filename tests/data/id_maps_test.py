"""Id maps as users write them, and what is no id map."""

import pytest

from deeplab.data import id_maps

IGNORE = 255


@pytest.mark.parametrize(
  ('text', 'count', 'mapping', 'others'),
  [
    ('0:0,255:1', 2, {0: 0, 255: 1}, None),
    ('0:0, 128:1 ,255:2', 3, {0: 0, 128: 1, 255: 2}, None),
    ('0:ignore,1-3:0,4:1', 2, {0: 255, 1: 0, 2: 0, 3: 0, 4: 1}, None),
    ('7:0,8:1,*:ignore', 2, {7: 0, 8: 1}, IGNORE),
    ('5:1,*:0', 2, {5: 1}, 0),
    ('-1:ignore,0:0', 1, {-1: 255, 0: 0}, None),
    ('reduce_zero', 2, {0: 255, 1: 0, 2: 1, 255: 255}, None),
  ],
)
def test_id_maps(text, count, mapping, others):
  assert id_maps.parse_id_map(text, count) == (mapping, others)


def test_the_label_ids_of_cityscapes():
  mapping, others = id_maps.parse_id_map('cityscapes', 19)
  assert (mapping[7], mapping[26], mapping[33]) == (0, 13, 18)
  assert (len(mapping), others) == (19, IGNORE)
  with pytest.raises(ValueError, match=r'use --config\.data\.num_classes=19'):
    id_maps.parse_id_map('cityscapes', 20)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('0', r"'0' is not VALUE:CLASS; write it like 0:0,255:1"),
    ('0:0,,1:1', r"'' is not VALUE:CLASS"),
    ('0:0,1:road', r"'1:road' is not VALUE"),
    ('*-3:0', r"'\*-3:0' is not VALUE"),
    ('0:0,1:2', r'2 is not one of the 2 classes, 0 to 1'),
    ('3-1:0', r'3-1:0 is no range of values'),
    ('0:0,70000:1', r'70000:1 is no range of values in 0\.\.65535'),
    ('0:0,0-4:1', r'gives value 0 two classes'),
  ],
)
def test_what_is_no_id_map(text, message):
  with pytest.raises(ValueError, match=message):
    id_maps.parse_id_map(text, 2)


def test_the_text_of_the_ids_of_classes():
  assert id_maps.format_id_map([(0, 3), (255,), (7,)], 2) == (
    '0:0,3:0,255:1,7:ignore'
  )
