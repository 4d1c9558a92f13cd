"""Masks of every kind: ids, palettes, grey levels and colors of the classes."""

import dataclasses
import io
import itertools

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import records

IDS = np.array([[0, 20, 255], [20, 0, 255]], np.uint8)


def decode(data, channels):
  feature = tfds.features.Image(shape=(None, None, channels))
  return feature.decode_example_np(data)


def save_palette(path, ids):
  image = Image.fromarray(ids).convert('L')
  image = Image.frombytes('P', image.size, ids.tobytes())
  palette = np.array(dataset_info.voc_palette(256), np.uint8)
  image.putpalette(palette.tobytes())
  image.save(path)


def test_palette_masks_keep_their_indices(tmp_path):
  save_palette(tmp_path / 'mask.png', IDS)
  grey = np.asarray(Image.open(tmp_path / 'mask.png').convert('L'))
  assert grey.tolist() != IDS.tolist()  # the file does hold a trap
  Image.new('RGB', (3, 2)).save(tmp_path / 'image.jpg')
  record = records.read_record(
    tmp_path / 'image.jpg', tmp_path / 'mask.png', 'x', catalog.INFOS['voc']
  )
  assert decode(record['label'], 1)[..., 0].tolist() == IDS.tolist()
  with Image.open(io.BytesIO(record['label'])) as stored:
    assert stored.mode == 'L'


@pytest.mark.parametrize('mode', ['L', 'LA', 'I;16', 'I'])
def test_masks_of_other_depths(tmp_path, mode):
  if mode == 'I;16':
    image = Image.fromarray(IDS.astype(np.uint16))
  else:
    image = Image.fromarray(IDS).convert(mode)
  path = tmp_path / ('mask.tif' if mode == 'I' else 'mask.png')
  image.save(path)
  with Image.open(path) as stored:
    assert stored.mode == mode
  assert mask_files.read_mask(path).tolist() == IDS.tolist()


def test_bilevel_masks(tmp_path):
  Image.fromarray(IDS > 100).save(tmp_path / 'mask.png')
  mask = mask_files.read_mask(tmp_path / 'mask.png')
  assert mask.dtype == np.uint8
  assert mask.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_colored_masks(tmp_path):
  colors = np.array(dataset_info.voc_palette(256), np.uint8)[IDS]
  for mode in ('RGB', 'RGBA'):
    path = tmp_path / f'{mode}.png'
    Image.fromarray(colors).convert(mode).save(path)
    mask = mask_files.read_mask(path)
    got = mask_files.colors_to_train_ids(mask, catalog.INFOS['voc'])
    assert got.dtype == np.uint8
    assert got.tolist() == IDS.tolist()


def test_unknown_colour_is_named():
  mask = np.zeros((2, 3, 3), np.uint8)
  mask[1, 2] = (1, 2, 3)
  with pytest.raises(ValueError, match=r'\(1, 2, 3\) at row 1, column 2'):
    mask_files.colors_to_train_ids(mask, catalog.INFOS['voc'])


def test_unknown_colours_are_ignored_up_to_a_share():
  mask = np.zeros((2, 3, 3), np.uint8)
  mask[1, 2] = (1, 2, 3)
  mask[0, 1] = catalog.INFOS['voc'].ignore_color
  got = mask_files.colors_to_train_ids(
    mask, catalog.INFOS['voc'], max_unknown_share=1 / 6
  )
  assert got.tolist() == [[0, 255, 0], [0, 0, 255]]
  mask[1, 1] = (1, 2, 3)
  with pytest.raises(ValueError, match=r'at row 1, column 1 \(and 1 more pix'):
    mask_files.colors_to_train_ids(
      mask, catalog.INFOS['voc'], max_unknown_share=1 / 6
    )


# Three classes with colors, and void.
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142))
LABEL = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)


def make_info(colors=COLORS, ignore_color=(9, 9, 9), **fields):
  return dataset_info.DatasetInfo(
    'folder',
    tuple('abc'[: len(colors)]),
    colors,
    fields.pop('ignore_label', 255),
    ignore_color,
    has_user_colors=fields.pop('has_user_colors', True),
    **fields,
  )


def to_colors(label, info):
  table = np.zeros((256, 3), np.uint8)
  table[: len(info.palette)] = info.palette
  table[255] = info.ignore_color
  return table[label]


@pytest.mark.parametrize('order', itertools.permutations(range(4)))
@pytest.mark.parametrize('suffix', ['png', 'gif', 'bmp', 'tif'])
def test_palette_masks_are_read_by_color(tmp_path, suffix, order):
  """Entries in any order, as paint programs write them."""
  info = make_info()
  stored = np.zeros(256, np.uint8)
  palette = np.full((256, 3), 77, np.uint8)
  for entry, value in zip(order, (0, 1, 2, 255), strict=True):
    stored[value] = entry
    palette[entry] = to_colors(np.array(value), info)
  image = Image.frombytes('P', (3, 2), stored[LABEL].tobytes())
  image.putpalette(palette.tobytes())
  path = tmp_path / f'mask.{suffix}'
  image.save(path)
  np.testing.assert_array_equal(mask_files.read_train_ids(path, info), LABEL)
  plain = dataclasses.replace(info, has_user_colors=False, ignore_label=3)
  got = mask_files.read_stored_mask(path)
  if suffix != 'gif':  # which has its own order
    expected = {**{i: i for i in range(3)}, 3: 255}
    by_id = np.vectorize(expected.get)(stored[LABEL])
    assert mask_files.read_train_ids(path, plain).tolist() == by_id.tolist()
  assert mask_files.find_train_ids(got, info).by_color


@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_color_masks(tmp_path, mode):
  info = make_info()
  path = tmp_path / 'mask.png'
  Image.fromarray(to_colors(LABEL, info)).convert(mode).save(path)
  assert mask_files.read_train_ids(path, info).tolist() == LABEL.tolist()


def test_an_ignored_entry_of_another_color_stays_ignored(tmp_path):
  """VOC's void has the index 255, and a color that classes.txt lacks."""
  save_palette(tmp_path / 'mask.png', np.array([[0, 2, 1, 255]], np.uint8))
  colors = dataset_info.voc_palette(3)
  info = make_info((colors[0], colors[2], colors[1]), ignore_color=None)
  got = mask_files.read_train_ids(tmp_path / 'mask.png', info)
  assert got.tolist() == [[0, 1, 2, 255]]


def test_a_palette_that_contradicts_the_classes_is_an_error(tmp_path):
  save_palette(tmp_path / 'mask.png', np.array([[0, 2, 2]], np.uint8))
  message = (
    r'mask\.png: palette entry 2 \(0, 128, 0\) is no color of the classes '
    r'\(2 pixels\): correct config\.data\.color_map or classes\.txt, or take'
  )
  with pytest.raises(ValueError, match=message):
    mask_files.read_train_ids(tmp_path / 'mask.png', make_info())


BLACK, WHITE, GREY = ((v, v, v) for v in (0, 255, 128))


@pytest.mark.parametrize(
  ('colors', 'values', 'expected'),
  [
    # Values that are no ids are colors.
    ((BLACK, WHITE), [0, 255], [0, 1]),
    ((WHITE, BLACK), [0, 255], [1, 0]),
    ((BLACK, GREY, WHITE), [0, 128, 255], [0, 1, 2]),
    # Ids stay ids, whatever the colors are for.
    ((BLACK, WHITE), [0, 1], [0, 1]),
    ((BLACK, WHITE), [0, 0], [0, 0]),
    (COLORS, [0, 1, 2], [0, 1, 2]),
    (COLORS, [2, 255], [2, 255]),
    ((COLORS[1], COLORS[0]), [0, 1], [0, 1]),
  ],
)
@pytest.mark.parametrize('mode', ['L', 'RGB', 'I;16', 'P'])
def test_grey_masks(tmp_path, mode, colors, values, expected):
  """One channel, three equal ones, 16 bits, and a palette of grey levels."""
  array = np.array([values], np.uint8)
  if mode == 'P':
    image = Image.frombytes('P', array.shape[::-1], array.tobytes())
    image.putpalette([v for i in range(256) for v in (i, i, i)])
  elif mode == 'I;16':
    image = Image.fromarray(array.astype(np.uint16))
  else:
    image = Image.fromarray(array).convert(mode)
  image.save(tmp_path / 'mask.png')
  info = make_info(colors, ignore_color=None)
  got = mask_files.read_train_ids(tmp_path / 'mask.png', info)
  assert got.tolist() == [expected]


@pytest.mark.parametrize(
  ('colors', 'expected'),
  [((BLACK, WHITE), [0, 1]), ((WHITE, BLACK), [1, 0]), (COLORS[:2], [0, 1])],
)
def test_masks_of_one_bit(tmp_path, colors, expected):
  Image.fromarray(np.array([[False, True]])).save(tmp_path / 'mask.png')
  info = make_info(colors, ignore_color=None)
  got = mask_files.read_train_ids(tmp_path / 'mask.png', info)
  assert got.tolist() == [expected]


def test_an_ambiguous_grey_mask_is_an_error(tmp_path):
  Image.new('L', (2, 2)).save(tmp_path / 'mask.png')
  info = make_info((WHITE, BLACK), ignore_color=None)
  with pytest.raises(ValueError, match=r'value 0 of a grey mask is both'):
    mask_files.read_train_ids(tmp_path / 'mask.png', info)


@pytest.mark.parametrize(
  'dtype', ['?', 'u1', 'i2', 'u2', 'i4', 'i8', 'f4', 'f8']
)
def test_arrays(tmp_path, dtype):
  ids = np.array([[0, 1], [1, 0]], dtype)
  info = make_info(has_user_colors=False)
  for array in (ids, ids[..., None]):
    np.save(tmp_path / 'mask.npy', array)
    got = mask_files.read_train_ids(tmp_path / 'mask.npy', info)
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (np.array([[0.5, 1]]), r'value 0\.5 at row 0, column 0 is no whole number'),
    (np.array([[0, np.nan]]), r'value nan at row 0, column 1'),
    (np.zeros((2, 2, 4)), r'mask of shape \[2, 2, 4\] and type float64'),
    (np.array([['a']]), 'mask of <U1'),
    (np.array([[7, 7]]), r'label value 7 \(2 pixels\) is neither'),
  ],
)
def test_bad_arrays(tmp_path, array, message):
  np.save(tmp_path / 'mask.npy', array)
  info = make_info(has_user_colors=False)
  with pytest.raises(ValueError, match=rf'mask\.npy: {message}'):
    mask_files.read_train_ids(tmp_path / 'mask.npy', info)


@pytest.mark.parametrize(
  ('suffix', 'options'),
  [
    ('tif', {}),
    ('gif', {}),
    ('pgm', {}),
    ('webp', {'lossless': True}),
    ('jp2', {'irreversible': False}),
  ],
)
def test_other_formats_keep_ids(tmp_path, suffix, options):
  ids = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 4, 0)
  path = tmp_path / f'mask.{suffix}'
  Image.fromarray(ids).save(path, **options)
  info = make_info(has_user_colors=False)
  np.testing.assert_array_equal(mask_files.read_train_ids(path, info), ids)


def test_float_rasters(tmp_path):
  path = tmp_path / 'mask.tif'
  Image.fromarray(np.array([[0, 1], [2, 255]], np.float32)).save(path)
  info = make_info(has_user_colors=False)
  got = mask_files.read_train_ids(path, info)
  assert got.tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize('suffix', ['jpg', 'webp'])
def test_lossy_masks_are_refused(tmp_path, suffix):
  path = tmp_path / f'mask.{suffix}'
  Image.new('RGB', (8, 8)).save(path)
  with pytest.raises(mask_files.LossyMaskError, match='changes ids'):
    mask_files.read_mask(path)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_orientation_of_a_mask_is_applied(tmp_path, orientation):
  """As of an image: an editor that copies the tag shows the mask turned."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  ids = np.arange(6, dtype=np.uint8).reshape(2, 3)
  expected = {
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[3, 0], [4, 1], [5, 2]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[2, 5], [1, 4], [0, 3]],
  }[orientation]
  for suffix in ('png', 'tif'):
    path = tmp_path / f'mask.{suffix}'
    Image.fromarray(ids).save(path, exif=exif)
    assert mask_files.read_mask(path).tolist() == expected
