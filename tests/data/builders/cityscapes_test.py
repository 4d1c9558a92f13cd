"""The Cityscapes builder: a genuine frame, every raw id, missing files."""

import numpy as np
from PIL import Image
import pytest

from tests.data.builders import layouts

STEM = 'frankfurt_000000_000294'
# Train ids of the raw ids 0..33 (the table of the data set's own scripts).
TRAIN_IDS = [
  *(255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4),
  *(255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
  *(255, 255, 16, 17, 18),
]


def frame(root, city='ulm', stem='ulm_000000_000019'):
  """Writes an image; returns the path of its mask without the suffix."""
  layouts.save(
    root / f'leftImg8bit/val/{city}/{stem}_leftImg8bit.png',
    layouts.picture(0, 8, 17),
  )
  return root / f'gtFine/val/{city}/{stem}_gtFine'


def test_sample(shared, config, caplog):
  layouts.point(config, 'cityscapes', shared / 'samples/cityscapes')
  got = layouts.examples(config)
  assert [example['name'] for example in got] == [STEM]
  assert got[0]['image'].shape == (128, 256, 3)
  # Counted in the labelIds file with PIL.
  assert layouts.counts(got[0]['label']) == (
    {0: 9740, 1: 2628, 2: 12744, 4: 44, 5: 396, 7: 188, 8: 664}
    | {10: 581, 11: 107, 13: 1802, 255: 1890 + 987 + 764 + 233}
  )
  layouts.check_metadata(config, got)
  assert layouts.metadata(config)[0][:4] == [9740, 2628, 12744, 0]
  assert layouts.metadata(config)[1] == 3874
  # Files that are missing altogether are noticed by their number.
  assert 'cityscapes val: 1 examples found, 500 published' in caplog.text


def test_train_id_files_are_not_mapped(shared, config, tmp_path):
  official = shared / 'samples/cityscapes'
  image = f'leftImg8bit/val/frankfurt/{STEM}_leftImg8bit.png'
  mask = f'gtFine/val/frankfurt/{STEM}_gtFine_labelTrainIds.png'
  for name in (image, mask):
    layouts.link(tmp_path / name, official / name)
  layouts.point(config, 'cityscapes', tmp_path)
  label = layouts.examples(config)[0]['label']
  np.testing.assert_array_equal(label, np.asarray(Image.open(official / mask)))
  assert layouts.counts(label)[0] == 9737


def test_both_files_give_the_same_train_ids(config, tmp_path):
  raw = np.arange(34, dtype=np.uint8).repeat(4).reshape(8, 17)
  expected = np.array(TRAIN_IDS, np.uint8).repeat(4).reshape(8, 17)
  for name, kind, ids in (
    ('a', 'labelIds', raw),
    ('b', 'labelTrainIds', expected),
  ):
    mask = frame(tmp_path / name)
    layouts.save(mask.with_name(f'{mask.name}_{kind}.png'), ids)
    layouts.point(config, 'cityscapes', tmp_path / name)
    label = layouts.examples(config)[0]['label']
    np.testing.assert_array_equal(label, expected)


def test_raw_ids_in_a_train_id_file_are_an_error(config, tmp_path):
  mask = frame(tmp_path)
  path = mask.with_name(f'{mask.name}_labelTrainIds.png')
  layouts.save(path, np.full((8, 17), 26, np.uint8))
  layouts.point(config, 'cityscapes', tmp_path)
  with pytest.raises(ValueError, match=r'labelTrainIds\.png: label value 26'):
    layouts.examples(config)


def test_missing_data_says_what_to_fetch(config, tmp_path):
  remedy = (
    r'fetch leftImg8bit_trainvaltest\.zip and gtFine_trainvaltest\.zip, and '
    r'unpack both into FOLDER \(https://www\.cityscapes-dataset\.com/\), and '
    r'give --config\.data\.root=FOLDER'
  )
  layouts.point(config, 'cityscapes', '')
  with pytest.raises(ValueError, match=f'root is empty: {remedy}'):
    layouts.examples(config)
  layouts.point(config, 'cityscapes', tmp_path / 'typo')
  with pytest.raises(ValueError, match=f'typo is not a folder: {remedy}'):
    layouts.examples(config)
  layouts.point(config, 'cityscapes', tmp_path)
  with pytest.raises(ValueError, match=f'Img8bit/val has no images: {remedy}'):
    layouts.examples(config)
  frame(tmp_path)
  with pytest.raises(
    ValueError, match=f'19_gtFine_labelIds.png is missing: {remedy}'
  ):
    layouts.examples(config)
  config.data.eval_split = 'valid'
  with pytest.raises(ValueError, match='its splits are train, val, test'):
    layouts.examples(config)
