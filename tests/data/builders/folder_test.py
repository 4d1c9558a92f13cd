"""The folder builder: layouts, masks, errors, pools, and edited files."""

import json
import os

import numpy as np
from PIL import Image
import pytest

from deeplab.data import datasets
from deeplab.data.builders import folder
from tests.data import conftest
from tests.data.builders import layouts


def files_left(config):
  return [
    name for _, _, names in os.walk(config.data.data_dir) for name in names
  ]


def test_folders(root, config):
  got = layouts.examples(config)
  assert [example['name'] for example in got] == ['img0', 'img1', 'img2']
  layouts.check_metadata(config, got)
  for example in got:
    image = Image.open(root / 'val/images' / f'{example["name"]}.png')
    label = np.array(Image.open(root / 'val/labels' / f'{example["name"]}.png'))
    label[label == 11] = 255
    np.testing.assert_array_equal(example['image'], np.asarray(image))
    np.testing.assert_array_equal(example['label'], label)
    assert example['image'].dtype == example['label'].dtype == np.uint8
  assert datasets.Dataset(config.data).num_examples('train') == 5


def test_list_files(root, config):
  (root / 'small-val.txt').write_text(
    'train/images/img1.png train/labels/img1.png\n\n'
    'val/images/img0.png\tval/labels/img0.png\n',
    'utf-8',
  )
  config.data.eval_split = 'small-val'
  assert [example['name'] for example in layouts.examples(config)] == [
    'img1',
    'img0',
  ]


def test_a_split_may_have_any_name(root, config):
  (root / 'val').rename(root / 'all')
  config.data.eval_split = 'all'
  assert len(layouts.examples(config)) == 3


def test_colored_masks(root, config):
  config.data.color_map = ((9, 9, 9), (0, 255, 0), (0, 0, 255), (255, 0, 0))
  path = root / 'val/labels/img1.png'
  ids = np.asarray(Image.open(path))
  colors = np.array([*config.data.color_map], np.uint8)
  Image.fromarray(colors[np.where(ids == 11, 3, ids)]).save(path)
  label = layouts.examples(config)[1]['label']
  np.testing.assert_array_equal(label, np.where(ids == 11, 255, ids))


def test_an_edited_mask_is_never_served_stale(root, config):
  before = layouts.examples(config)[0]['label']
  (root / 'val/labels/img0.png').unlink()
  path = root / 'val/labels/img0.bmp'  # not compressed: one size for all
  Image.fromarray(np.full_like(before, 2)).save(path)
  assert (layouts.examples(config)[0]['label'] == 2).all()
  # The same size in bytes and other pixels: the time tells.
  size, time = path.stat().st_size, path.stat().st_mtime_ns
  Image.fromarray(np.full_like(before, 1)).save(path)
  assert path.stat().st_size == size
  os.utime(path, ns=(time + 1000, time + 1000))
  assert (layouts.examples(config)[0]['label'] == 1).all()
  # So do other info about the same files.
  config.data.ignore_label = 12
  with pytest.raises(ValueError, match='label value 11 '):
    layouts.examples(config)


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


def long_name(root):
  (root / 'val.txt').write_text(f'{"a" * 300}.png b.png\n', 'utf-8')


def other_encoding(root):
  (root / 'val.txt').write_text('val/images/ä.png val/labels/a.png', 'latin-1')


def no_pixels(root):
  (root / 'val/images/img1.png').unlink()
  np.save(root / 'val/images/img1.npy', np.zeros((24, 0, 3), np.uint8))


def folder_as_image(root):
  (root / 'val/images/img1.png').unlink()
  (root / 'val/images/img1.png').mkdir()


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
      r'classes of folder nor the ignore label \(11\)',
    ),
    (other_size, r'labels/img1\.png: mask of 40x25 pixels .* of 40x24'),
    (no_mask, r'images/img1\.png: image without a mask; add .*labels/img1'),
    (no_image, r'labels/img1\.png: mask without an image; add'),
    (empty_split, r"val: split 'val' is empty; put pairs"),
    (
      missing_split,
      r"raw: split 'val' is missing; make val/images.*data\.pool",
    ),
    (unknown_color, r'labels/img1\.png: color \(1, 2, 3\) at row 0, column 0'),
    (
      jpeg_mask,
      r'labels/img1\.jpg: the mask is a JPEG, .*; export it as PNG',
    ),
    (twice, r'images/img1\.png: img1\.jpg has the same stem'),
    (bad_line, r'val\.txt: line 1 is not `image label`'),
    (missing_file, r'images/a\.png: no such file, but line 1 of .*val\.txt'),
    (long_name, r'a{300}\.png: no such file, but line 1 of .*val\.txt'),
    (other_encoding, r'val\.txt: not a text in UTF-8 \(byte 11\); save it as'),
    (no_pixels, r'images/img1\.npy: an image of 0x24 pixels .* has no pixels'),
    (folder_as_image, r'labels/img1\.png: mask without an image; add'),
  ],
)
def test_bad_input_raises_a_clear_error(root, config, damage, message):
  damage(root)
  with pytest.raises(ValueError, match=message):
    layouts.examples(config)
  assert files_left(config) == []


def test_a_missing_root_is_an_error(tmp_path, config):
  config.data.root = str(tmp_path / 'nowhere')
  message = rf'^there is no folder {tmp_path}/nowhere: set --config\.data\.root'
  for look in (folder.find_examples, folder.find_pairs_and_issues):
    with pytest.raises(ValueError, match=message):
      look(config.data, 'train')


def test_pairs_and_issues_of_masks(root, config):
  (root / 'val/labels/img0.png').unlink()
  (root / 'val/images/img1.png').unlink()
  twice(root)  # in place of the one that is gone
  # A picture beside a mask is no mask.
  Image.new('L', (40, 24)).save(root / 'val/labels/img2.jpg')
  pairs, faults = folder.find_pairs_and_issues(config.data, 'val')
  assert pairs == (
    (root / 'val/images/img1.jpg', root / 'val/labels/img1.png'),
    (root / 'val/images/img2.png', root / 'val/labels/img2.png'),
  )
  assert [fault.text.split(';')[0] for fault in faults] == [
    f'{root}/val/images/img0.png: image without a mask'
  ]
  missing = root / 'val/labels/img0.png'
  assert faults[0].pair == (root / 'val/images/img0.png', missing)
  (root / 'val.txt').write_text('a\n\nb.png c.png\n', 'utf-8')
  pairs, faults = folder.find_pairs_and_issues(config.data, 'val')
  assert pairs == ()
  assert [fault.text.split(':')[0] for fault in faults] == [
    f'{root}/{name}' for name in ('val.txt', 'b.png', 'c.png')
  ]
  both = root / 'b.png', root / 'c.png'
  assert [fault.pair for fault in faults] == [None, both, both]


def turned_image(root, orientation):
  """Gives img1 of `val` an EXIF orientation; returns pixels and ids."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = root / 'val/images/img1.png'
  with Image.open(path) as image:
    image.save(path, exif=exif)
    return np.asarray(image), np.asarray(
      Image.open(root / 'val/labels/img1.png')
    )


# How PIL makes the stored pixels upright, from the specification of EXIF 2.32.
TRANSPOSED = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize('orientation', TRANSPOSED)
def test_images_are_turned_upright(root, config, orientation):
  """A mask of the upright image fits; one of the stored pixels is turned."""
  pixels, stored = turned_image(root, orientation)
  upright = Image.fromarray(pixels).transpose(TRANSPOSED[orientation])
  ids = np.asarray(Image.fromarray(stored).transpose(TRANSPOSED[orientation]))
  masks = {'upright': ids, 'stored': stored}
  for kind in ('upright', 'stored') if orientation > 4 else ('upright',):
    Image.fromarray(masks[kind]).save(root / 'val/labels/img1.png')
    got = layouts.examples(config)[1]
    np.testing.assert_array_equal(got['image'], np.asarray(upright))
    np.testing.assert_array_equal(got['label'], np.where(ids == 11, 255, ids))


def test_a_mask_of_no_size_of_a_turned_image_is_an_error(root, config):
  turned_image(root, 6)
  Image.new('L', (40, 25)).save(root / 'val/labels/img1.png')
  with pytest.raises(
    ValueError, match=r'mask of 40x25 .* of 24x40 .*, 40x24 as'
  ):
    layouts.examples(config)


def earlier_builder(config, monkeypatch):
  """Prepares `val` under the name that earlier versions gave it."""
  with monkeypatch.context() as patch:
    patch.setattr(folder, 'describe_settings', folder.describe_earlier_settings)
    layouts.examples(config)
    return folder.make_builder(config.data, 'val').data_path


def test_data_of_earlier_versions_is_used_unless_files_are_read_anew(
  root, config, monkeypatch
):
  earlier = earlier_builder(config, monkeypatch)
  assert folder.make_builder(config.data, 'val').data_path == earlier
  turned_image(root, 3)
  earlier = earlier_builder(config, monkeypatch)
  now = folder.make_builder(config.data, 'val').data_path
  assert now != earlier
  layouts.examples(config)
  assert folder.make_builder(config.data, 'val').data_path == now


def test_data_of_earlier_versions_is_stale_with_colors(
  root, config, monkeypatch
):
  """Masks of one channel may be read by color today."""
  config.data.color_map = ((9, 9, 9), (0, 255, 0), (0, 0, 255))
  earlier = earlier_builder(config, monkeypatch)
  assert folder.make_builder(config.data, 'val').data_path != earlier


def test_a_corrected_folder_is_prepared(root, config):
  bad_value(root)
  with pytest.raises(ValueError, match='label value 200'):
    layouts.examples(config)
  Image.new('L', (40, 24)).save(root / 'val/labels/img1.png')
  assert (layouts.examples(config)[1]['label'] == 0).all()


def test_root_must_be_given(config):
  config.data.root = ''
  with pytest.raises(ValueError, match=r'give --config\.data\.root=FOLDER'):
    layouts.examples(config)


def test_camvid(shared, config):
  config.data.root = str(shared / 'camvid')
  config.data.num_classes = 11
  counts = {
    split: len(folder.find_examples(config.data, split))
    for split in ('train', 'val')
  }
  assert counts == {'train': 367, 'val': 101}


def test_camvid_labels(shared, config, tmp_path):
  """Two frames; pixel counts were taken with PIL."""
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
  got = layouts.examples(config)
  assert [example['name'] for example in got] == list(stems)
  counts = np.bincount(got[0]['label'].ravel(), minlength=256)
  assert counts[:11].tolist() == [
    *(15008, 52841, 383, 49063, 15252, 25472, 716, 4141, 6054, 912, 2279)
  ]
  assert counts[255] == 679
  assert counts.sum() == 480 * 360


@pytest.fixture
def pool(tmp_path, config):
  """A pool of 200 pairs in one folder."""
  for i in range(200):
    conftest.write_pair(tmp_path / 'raw/all', f'img{i:03}', i, size=(2, 2))
  config.data.pool = 'all'
  return tmp_path / 'raw'


def names(config, split):
  return [one.image.stem for one in folder.find_examples(config.data, split)]


def test_a_pool_is_split_by_name_and_seed(pool, config):
  train, val = names(config, 'train'), names(config, 'val')
  assert not set(train) & set(val)
  assert len(train) + len(val) == 200
  assert len(val) == 45  # of 200 at 0.2
  assert val[:3] == ['img002', 'img014', 'img016']
  # Other images may go, and the rest stays where it is.
  for path in [*pool.rglob('img01*')]:
    path.unlink()
  assert names(config, 'val') == [n for n in val if not n.startswith('img01')]
  config.data.pool_seed = 1
  assert names(config, 'val') != val
  config.data.pool_share = 0.5
  assert 80 < len(names(config, 'val')) < 115


def test_a_pool_may_be_outside_the_root(pool, config):
  (pool / 'all').rename(pool.parent / 'moved')
  lines = [
    f'../moved/images/img{i:03}.png\t../moved/labels/img{i:03}.png'
    for i in range(200)
  ]
  (pool / 'all.txt').write_text('\n'.join(lines), 'utf-8')
  assert len(names(config, 'train')) + len(names(config, 'val')) == 200


def test_a_pool_may_be_the_root(pool, config):
  (pool / 'all').rename(pool.parent / 'moved')
  config.data.root, config.data.pool = str(pool.parent / 'moved'), '.'
  assert len(names(config, 'train')) + len(names(config, 'val')) == 200


@pytest.mark.usefixtures('pool')
def test_a_pool_has_two_splits_without_lists(config):
  with pytest.raises(
    ValueError, match=r"test\.txt: no such list; .* splits 'train' and 'val'"
  ):
    names(config, 'test')
  config.data.pool_share = 0.0
  with pytest.raises(ValueError, match="split 'val' is empty"):
    names(config, 'val')


def test_a_pool_is_split_by_lists(pool, config):
  (pool / 'val.txt').write_text(
    'img007\nall/images/img003.png\n\nimg005.png\n', 'utf-8'
  )
  assert names(config, 'val') == ['img003', 'img005', 'img007']
  (pool / 'val.txt').write_text('img007\nimg999\n', 'utf-8')
  with pytest.raises(
    ValueError, match=r"val\.txt: 'img999' is not an image of the pool 'all'"
  ):
    names(config, 'val')


def test_a_pool_in_one_annotation_file(pool, config):
  """A pool in a COCO JSON file, split by lists of names."""
  entries = [
    {'id': i, 'file_name': f'img{i:03}.png', 'height': 2, 'width': 2}
    for i in range(3)
  ]
  content = {'images': entries, 'annotations': [], 'categories': []}
  (pool / 'all.json').write_text(json.dumps(content), 'utf-8')
  (pool / 'images').mkdir()
  for i in range(3):
    path = pool / f'all/images/img{i:03}.png'
    path.rename(pool / 'images' / path.name)
  (pool / 'val.txt').write_text('img002\nimg000\n', 'utf-8')
  got = layouts.examples(config)
  assert [e['name'] for e in got] == ['img000', 'img002']


def test_shapes_without_a_background_class(root, config):
  assert not folder.ignores_unannotated_pixels(config.data)
  content = {'images': [], 'annotations': [], 'categories': []}
  (root / 'val.json').write_text(json.dumps(content), 'utf-8')
  assert not folder.ignores_unannotated_pixels(
    config.data
  )  # no image is in there
  content['images'] = [
    {'id': 1, 'file_name': 'img0.png', 'height': 24, 'width': 40}
  ]
  (root / 'val.json').write_text(json.dumps(content), 'utf-8')
  assert folder.ignores_unannotated_pixels(config.data)
  config.data.class_names = ('road', 'background', 'car')
  assert not folder.ignores_unannotated_pixels(config.data)


def bands(root, config, channels, depth):
  """Replaces the images of `val` by .npy files of that many channels."""
  config.data.mean = tuple(range(1, channels + 1))
  config.data.std = (1.0,) * channels
  config.data.depth = depth
  rng = np.random.default_rng(0)
  images = {}
  for path in sorted((root / 'val/images').iterdir()):
    path.unlink()
    image = rng.integers(0, 2**depth, (24, 40, channels))
    images[path.stem] = image.astype(f'uint{depth}')
    np.save(path.with_suffix('.npy'), images[path.stem])
  return images


@pytest.mark.parametrize(
  ('channels', 'depth'), [(1, 8), (3, 16), (4, 8), (6, 16)]
)
def test_images_of_many_channels(root, config, channels, depth):
  images = bands(root, config, channels, depth)
  got = layouts.examples(config)
  assert [e['name'] for e in got] == list(images)
  for example in got:
    np.testing.assert_array_equal(example['image'], images[example['name']])
    assert example['image'].dtype == np.dtype(f'uint{depth}')


def test_the_number_of_channels_is_part_of_the_name(root, config):
  bands(root, config, 4, 8)
  layouts.examples(config)
  config.data.mean = (1.0, 2.0)
  with pytest.raises(
    ValueError, match=r'img0\.npy: image of shape \[24, 40, 4\] for 2 channels'
  ):
    layouts.examples(config)


def test_the_depth_of_prepared_data_is_checked(config):
  """A config of 16 bits for a data set that has 8."""
  config.data.name, config.data.depth = 'shapes', 16
  message = (
    r'3 channels of 16 bits, but images of shapes have 3 channels of uint8'
  )
  with pytest.raises(ValueError, match=message):
    layouts.examples(config)


def test_batches_of_many_channels(root, config):
  """Five channels of 16 bits go through every op that accepts them."""
  images = bands(root, config, 5, 16)
  config.data.train_split = 'val'
  config.batch_size = 3
  config.data.augment.ops = ('random_flip',)
  config.data.augment.random_flip.probability = 0.0
  batch = one_batch(config)
  expected = {
    (image[0, 0].astype(np.float32) - (1, 2, 3, 4, 5)).tobytes()
    for image in images.values()
  }
  assert batch['image'].shape == (3, 24, 40, 5)
  assert batch['image'].dtype == np.float32
  corners = batch['image'][:, 0, 0].astype(np.float64)
  assert {corner.tobytes() for corner in corners} == expected
  config.data.augment.ops = ('random_scale', 'random_rotate', 'random_crop')
  assert one_batch(config)['image'].shape == (3, 17, 33, 5)
  config.data.augment.ops = ('photometric',)
  with pytest.raises(ValueError, match=r'photometric distorts .* 5 channels'):
    one_batch(config)


def one_batch(config):
  iterator = datasets.Dataset(config.data).train_batches(
    seed=config.seed, batch_size=config.batch_size
  )
  batch = next(iterator)
  iterator.close()
  return batch


def test_classes_are_counted_without_images(root, config):
  bands(root, config, 4, 16)
  config.data.train_split = 'val'
  shares = datasets.Dataset(config.data).class_frequencies()
  assert shares.shape == (3,)
  assert abs(shares.sum() - 1) < 1e-12


def test_drawn_labels_have_no_pairs_and_issues(root, config):
  """Labels that are drawn are checked when they are prepared."""
  assert folder.find_pairs_and_issues(config.data, 'val') is not None
  content = {'images': [], 'annotations': [], 'categories': []}
  (root / 'val.json').write_text(json.dumps(content), 'utf-8')
  assert folder.find_pairs_and_issues(config.data, 'val') is None
  config.data.pool = 'val'
  assert folder.find_pairs_and_issues(config.data, 'train') is None


def test_pairs_and_issues_of_a_pool(pool, config):
  for split in ('train', 'val'):
    pairs, faults = folder.find_pairs_and_issues(config.data, split)
    assert faults == []
    assert [image.stem for image, _ in pairs] == names(config, split)
    assert all(mask.parent.name == 'labels' for _, mask in pairs)
  (pool / 'val.txt').write_text('img007\nimg999\n', 'utf-8')
  (pool / 'all/labels/img003.png').unlink()
  pairs, faults = folder.find_pairs_and_issues(config.data, 'val')
  assert [image.stem for image, _ in pairs] == ['img007']
  assert [fault.text.split(';')[0] for fault in faults] == [
    f'{pool}/all/images/img003.png: image without a mask',
    f"{pool}/val.txt: 'img999' is not an image of the pool 'all'",
  ]


RAW = np.array([[0, 0, 255], [255, 0, 0]], np.uint8)


def save_mask(path, raw, kind):
  """Writes raw ids as a file of some kind, and returns the path."""
  if kind == 'npy':
    np.save(path.with_suffix('.npy'), raw)
    return
  if kind == 'P':
    image = Image.frombytes('P', raw.shape[::-1], raw.tobytes())
    image.putpalette([*(0, 0, 0), *(128, 0, 0) * 255])
  elif kind == 'I;16':
    image = Image.fromarray(raw.astype(np.uint16))
  elif kind == 'F':
    path = path.with_suffix('.tif')
    image = Image.fromarray(raw.astype(np.float32))
  else:
    image = Image.fromarray(raw).convert(kind)
  image.save(path)


@pytest.mark.parametrize(
  'kind', ['L', 'LA', 'P', 'I;16', 'RGB', 'RGBA', 'F', 'npy']
)
@pytest.mark.parametrize('layout', ['folders', 'voc'])
def test_id_maps_apply_to_every_kind_of_mask(tmp_path, config, kind, layout):
  """The commonest mask there is: 0 and 255."""
  root = tmp_path / 'raw'
  config.data.num_classes, config.data.id_map = 2, '0:0,255:1'
  config.data.ignore_label = 255
  images, masks = root / 'val/images', root / 'val/labels'
  if layout == 'voc':
    images, masks = root / 'JPEGImages', root / 'SegmentationClass'
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    (root / 'ImageSets/Segmentation/val.txt').write_text('a b\n')
  for folder_ in (images, masks):
    folder_.mkdir(parents=True)
  Image.new('RGB', (3, 2)).save(images / 'a b.JPG')
  save_mask(masks / 'a b.png', RAW, kind)
  (example,) = layouts.examples(config)
  assert example['label'].tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
  ('raw', 'table', 'expected'),
  [
    ([[0, 255]], '0: background\n255: person\n', [[0, 1]]),
    ([[0, 4, 9]], '0,4: background\n9: person\n', [[0, 0, 1]]),
    ([[0, 1, 2]], '1: a\n2: b\n0: void\n', [[255, 0, 1]]),
  ],
)
def test_classes_txt_gives_ids(tmp_path, config, raw, table, expected):
  root = tmp_path / 'raw'
  conftest.write_pair(root / 'val', 'a', 0, (1, len(raw[0])))
  Image.fromarray(np.array(raw, np.uint8)).save(root / 'val/labels/a.png')
  (root / 'classes.txt').write_text(table, 'utf-16')
  config.data.num_classes = 2
  (example,) = layouts.examples(config)
  assert example['label'].tolist() == expected
  resolved = datasets.resolve_config(config)
  assert (
    resolved.data.id_map
    == {
      '0: b': '0:0,255:1',
      '0,4:': '0:0,4:0,9:1',
      '1: a': '1:0,2:1,0:ignore',
    }[table[:4]]
  )
  (root / 'classes.txt').unlink()  # the run has it in its config
  (example,) = layouts.examples(resolved)
  assert example['label'].tolist() == expected


def test_an_id_map_does_not_touch_drawn_labels(tmp_path, config):
  root = tmp_path / 'raw'
  config.data.num_classes, config.data.id_map = 2, 'reduce_zero'
  config.data.class_names = ('background', 'road')
  (root / 'val').mkdir(parents=True)
  Image.new('RGB', (4, 3)).save(root / 'val/a.jpg')
  points = [[0, 0], [2, 0], [2, 3], [0, 3]]
  shape = {'label': 'road', 'shape_type': 'rotation', 'points': points}
  (root / 'val/a.json').write_text(json.dumps({'shapes': [shape]}))
  (example,) = layouts.examples(config)
  assert example['label'].tolist() == [[1, 1, 0, 0]] * 3


def test_roboflow_exports_masks(tmp_path, config):
  root = tmp_path / 'raw'
  config.data.num_classes = 2
  for split in ('train', 'val'):
    (root / split).mkdir(parents=True)
    (root / split / '_classes.csv').write_text('Pixel Value, Class\n0, a\n1, b')
    Image.new('RGB', (2, 1)).save(root / split / 'x.rf.123.jpg')
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(
      root / split / 'x.rf.123_mask.png'
    )
  (example,) = layouts.examples(config)
  assert example['label'].tolist() == [[0, 1]]
  assert datasets.Dataset(config.data).info.class_names == ('a', 'b')


def test_two_folders_are_a_pool(tmp_path, config):
  root = tmp_path / 'raw'
  for i in range(10):
    conftest.write_pair(root / 'x', f'img{i}', i)
  (root / 'x/images').rename(root / 'Photos')
  (root / 'x/labels').rename(root / 'Truth')
  config.data.images, config.data.labels = 'Photos', 'Truth'
  dataset = datasets.Dataset(config.data)
  counts = [dataset.num_examples(split) for split in ('train', 'val')]
  assert sum(counts) == 10
  assert all(counts)
  for name in ('Photos', 'Truth'):
    for split, first in (('train', 0), ('val', 7)):
      (root / name / split).mkdir()
      for path in sorted((root / name).glob('*.png'))[: 7 - first or None]:
        path.rename(root / name / split / path.name)
  dataset = datasets.Dataset(config.data)
  counts = [dataset.num_examples(split) for split in ('train', 'val')]
  assert counts == [7, 3]
  config.data.labels = ''
  with pytest.raises(ValueError, match=r"data\.labels='' is not a folder in"):
    datasets.Dataset(config.data).prepare()


@pytest.mark.parametrize('name', ['background', '_background_', 'Background'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_the_background_of_tools(tmp_path, config, name, encoding, end):
  root = tmp_path / 'raw'
  config.data.num_classes = 2
  (root / 'val').mkdir(parents=True)
  (root / 'classes.txt').write_bytes(f'{name}{end}road{end}'.encode(encoding))
  Image.new('RGB', (4, 3)).save(root / 'val/a.jpg')
  shapes = [
    {'label': label, 'shape_type': 'rectangle', 'points': points}
    for label, points in (
      ('road', [[0, 0], [4, 3]]),
      ('__background__', [[2, 0], [4, 3]]),
      ('__ignore__', [[3, 0], [4, 3]]),
    )
  ]
  content = {'imageHeight': 3, 'imageWidth': 4, 'shapes': shapes}
  (root / 'val/a.json').write_bytes(json.dumps(content).encode(encoding))
  (example,) = layouts.examples(config)
  assert example['label'].tolist() == [[1, 1, 0, 255]] * 3


def test_an_unwritable_folder_of_prepared_data_names_its_flag(root, config):
  (root / 'file').write_text('')
  config.data.data_dir = str(root / 'file')
  message = (
    rf'^could not write the prepared data to {root}/file/folder/\w+: Not a '
    r'directory; give a folder .* by --config\.data\.data_dir=FOLDER$'
  )
  with pytest.raises(OSError, match=message):
    datasets.Dataset(config.data).prepare()
