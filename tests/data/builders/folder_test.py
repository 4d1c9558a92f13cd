"""The folder builder: layouts, masks, errors, and stale data."""

import os

import numpy as np
from PIL import Image
import pytest

from deeplab.data import catalog
from deeplab.data import pipeline
from deeplab.data.builders import folder


def examples(config):
  facts = catalog.info_for(config.data)
  return list(pipeline.eval_examples(config, facts, host_index=0, host_count=1))


def files_left(config):
  return [
    name for _, _, names in os.walk(config.data.data_dir) for name in names
  ]


def test_folders(root, config):
  got = examples(config)
  assert [example['name'] for example in got] == ['img0', 'img1', 'img2']
  for example in got:
    image = Image.open(root / 'val/images' / f'{example["name"]}.png')
    label = np.array(Image.open(root / 'val/labels' / f'{example["name"]}.png'))
    label[label == 11] = 255
    np.testing.assert_array_equal(example['image'], np.asarray(image))
    np.testing.assert_array_equal(example['label'], label)
    assert example['image'].dtype == example['label'].dtype == np.uint8
  assert pipeline.num_examples(config, 'train') == 5


def test_list_files(root, config):
  (root / 'small-val.txt').write_text(
    'train/images/img1.png train/labels/img1.png\n\n'
    'val/images/img0.png\tval/labels/img0.png\n',
    'utf-8',
  )
  config.data.eval_split = 'small-val'
  assert [example['name'] for example in examples(config)] == ['img1', 'img0']


def test_split_may_have_any_name(root, config):
  (root / 'val').rename(root / 'all')
  config.data.eval_split = 'all'
  assert len(examples(config)) == 3


def test_colored_masks(root, config):
  config.data.color_map = ((9, 9, 9), (0, 255, 0), (0, 0, 255), (255, 0, 0))
  path = root / 'val/labels/img1.png'
  ids = np.asarray(Image.open(path))
  colors = np.array([*config.data.color_map], np.uint8)
  Image.fromarray(colors[np.where(ids == 11, 3, ids)]).save(path)
  label = examples(config)[1]['label']
  np.testing.assert_array_equal(label, np.where(ids == 11, 255, ids))


def test_an_edited_mask_is_never_served_stale(root, config):
  before = examples(config)[0]['label']
  (root / 'val/labels/img0.png').unlink()
  path = root / 'val/labels/img0.bmp'  # not compressed: one size for all
  Image.fromarray(np.full_like(before, 2)).save(path)
  assert (examples(config)[0]['label'] == 2).all()
  # The same size in bytes and other pixels: the time tells.
  size, time = path.stat().st_size, path.stat().st_mtime_ns
  Image.fromarray(np.full_like(before, 1)).save(path)
  assert path.stat().st_size == size
  os.utime(path, ns=(time + 1000, time + 1000))
  assert (examples(config)[0]['label'] == 1).all()
  # So do other facts about the same files.
  config.data.ignore_label = 12
  with pytest.raises(ValueError, match='label value 11 '):
    examples(config)


def cut_image(root):
  path = root / 'val/images/img1.png'
  path.unlink()
  path = path.with_suffix('.jpg')
  Image.effect_noise((40, 24), 50).convert('RGB').save(path)
  path.write_bytes(path.read_bytes()[:-200])


def bad_value(root):
  path = root / 'val/labels/img1.png'
  label = np.array(Image.open(path))
  label[3:5, 7] = 200
  Image.fromarray(label).save(path)


def other_size(root):
  Image.new('L', (40, 25)).save(root / 'val/labels/img1.png')


def turned_image(root):
  exif = Image.Exif()
  exif[0x0112] = 6  # turn a quarter clockwise to see it upright
  path = root / 'val/images/img1.png'
  with Image.open(path) as image:
    image.save(path.with_suffix('.jpg'), exif=exif)
  path.unlink()


def upright_mask(root):
  turned_image(root)
  Image.new('L', (24, 40)).save(root / 'val/labels/img1.png')


def no_mask(root):
  (root / 'val/labels/img1.png').unlink()


def no_image(root):
  (root / 'val/images/img1.png').unlink()


def empty_split(root):
  for path in (root / 'val').rglob('*.png'):
    path.unlink()


def missing_split(root):
  (root / 'val').rename(root / 'valid')


def unknown_color(root):
  Image.new('RGB', (40, 24), (1, 2, 3)).save(root / 'val/labels/img1.png')


def twice(root):
  Image.new('RGB', (40, 24)).save(root / 'val/images/img1.jpg')


def bad_line(root):
  (root / 'val.txt').write_text('val/images/img0.png\n', 'utf-8')


def missing_file(root):
  (root / 'val.txt').write_text('val/images/a.png val/labels/a.png\n', 'utf-8')


def jpeg_mask(root):
  path = root / 'val/labels/img1.png'
  Image.open(path).save(path.with_suffix('.jpg'))
  path.unlink()


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (cut_image, r'images/img1\.jpg: damaged .*truncated.*replace the file'),
    (
      bad_value,
      r'labels/img1\.png: label value 200 \(2 pixels\) is neither one of the 3 '
      r'classes of folder nor its ignore label \(11\)',
    ),
    (other_size, r'labels/img1\.png: mask of 40x25 pixels .* of 40x24'),
    (upright_mask, r'mask of 24x40 .* of 40x24 .*; save the image upright'),
    (no_mask, r'images/img1\.png: image without a mask; add .*labels/img1'),
    (no_image, r'labels/img1\.png: mask without an image; add'),
    (empty_split, r"val: split 'val' is empty; put pairs"),
    (missing_split, r"raw: split 'val' is missing; make val/images"),
    (unknown_color, r'labels/img1\.png: colour \(1, 2, 3\) at row 0, column 0'),
    (
      jpeg_mask,
      r'labels/img1\.jpg: a JPEG mask, whose ids .*; save masks as PNG',
    ),
    (twice, r'images/img1\.png: img1\.jpg has the same stem'),
    (bad_line, r'val\.txt: line 1 is not `image label`'),
    (missing_file, r'images/a\.png: no such file, but line 1 of .*val\.txt'),
  ],
)
def test_bad_input_is_one_clear_error(root, config, damage, message):
  damage(root)
  with pytest.raises(ValueError, match=message):
    examples(config)
  assert files_left(config) == []


def test_a_survey_names_every_fault(root):
  (root / 'val/labels/img0.png').unlink()
  (root / 'val/images/img1.png').unlink()
  twice(root)  # in place of the one that is gone
  # A picture beside a mask is no mask.
  Image.new('L', (40, 24)).save(root / 'val/labels/img2.jpg')
  pairs, faults = folder.survey(str(root), 'val')
  assert pairs == (
    (root / 'val/images/img1.jpg', root / 'val/labels/img1.png'),
    (root / 'val/images/img2.png', root / 'val/labels/img2.png'),
  )
  assert [fault.split(';')[0] for fault in faults] == [
    f'{root}/val/images/img0.png: image without a mask'
  ]
  (root / 'val.txt').write_text('a\n\nb.png c.png\n', 'utf-8')
  pairs, faults = folder.survey(str(root), 'val')
  assert pairs == ()
  assert [fault.split(':')[0] for fault in faults] == [
    f'{root}/{name}' for name in ('val.txt', 'b.png', 'c.png')
  ]


def test_an_orientation_tag_turns_nothing(root, config):
  """The mask was drawn on the pixels as they are stored."""
  turned_image(root)
  assert examples(config)[1]['image'].shape == (24, 40, 3)


def test_a_repaired_folder_is_prepared(root, config):
  bad_value(root)
  with pytest.raises(ValueError, match='label value 200'):
    examples(config)
  Image.new('L', (40, 24)).save(root / 'val/labels/img1.png')
  assert (examples(config)[1]['label'] == 0).all()


def test_root_must_be_given(config):
  config.data.root = ''
  with pytest.raises(ValueError, match=r'give --config\.data\.root=FOLDER'):
    examples(config)


def test_camvid(shared, config):
  config.data.root = str(shared / 'camvid')
  config.data.num_classes = 11
  counts = {
    split: len(folder.find_pairs(config.data.root, split))
    for split in ('train', 'val')
  }
  assert counts == {'train': 367, 'val': 101}


def test_camvid_labels(shared, config, tmp_path):
  """Two frames through the builder; pixel counts taken with PIL apart."""
  raw = tmp_path / 'camvid'
  raw.mkdir()
  stems = ('0016E5_07959', '0016E5_07961')
  base = shared / 'camvid/val'
  (raw / 'val.txt').write_text(
    ''.join(f'{base}/images/{s}.jpg {base}/labels/{s}.png\n' for s in stems),
    'utf-8',
  )
  config.data.root = str(raw)
  config.data.num_classes = 11
  got = examples(config)
  assert [example['name'] for example in got] == list(stems)
  counts = np.bincount(got[0]['label'].ravel(), minlength=256)
  assert counts[:11].tolist() == [
    *(15008, 52841, 383, 49063, 15252, 25472, 716, 4141, 6054, 912, 2279)
  ]
  assert counts[255] == 679
  assert counts.sum() == 480 * 360
