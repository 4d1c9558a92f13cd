"""Pictures: exact colors and ids; plots with few and with many classes."""

import numpy as np
from PIL import Image
import pytest

from deeplab import visualize
from tests import helpers

PALETTE = ((0, 0, 0), (128, 0, 0), (0, 128, 0))


def test_colorize_and_overlay():
  ids = np.array([[0, 1, 2, 255]], np.uint8)
  np.testing.assert_array_equal(
    visualize.colorize(ids, PALETTE)[0],
    [(0, 0, 0), (128, 0, 0), (0, 128, 0), visualize.IGNORE_COLOR],
  )
  # Rec. 601 luma of (200, 100, 0) is 118.5.
  image = np.tile(np.array([200, 100, 0], np.uint8), (1, 4, 1))
  np.testing.assert_array_equal(
    visualize.draw_overlay(image, ids, PALETTE, 0.25)[0],
    [(200, 100, 0), (121, 89, 89), (89, 121, 89), (200, 100, 0)],
  )
  with pytest.raises(ValueError, match=r'opacity=1\.5'):
    visualize.draw_overlay(image, ids, PALETTE, 1.5)


def test_to_rgb_of_any_number_of_channels():
  image = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)
  np.testing.assert_array_equal(visualize.to_rgb(image), image[..., :3])
  for channels in (1, 2):
    grey = visualize.to_rgb(image[..., :channels])
    np.testing.assert_array_equal(grey, image[..., :1].repeat(3, -1))
  # The percentiles 1 and 99 of 0, 1, ..., 200 are 2 and 198.
  deep = np.arange(201, dtype=np.uint16).reshape(3, 67, 1) * 100 + 7
  drawn = visualize.to_rgb(deep)
  assert drawn.dtype == np.uint8
  assert drawn.shape == (3, 67, 3)
  assert drawn[0, :4, 0].tolist() == [0, 0, 0, 1]
  assert drawn[1, 33].tolist() == [128, 128, 128]  # of value 100, the middle
  assert drawn[2, -4:, 2].tolist() == [254, 255, 255, 255]
  # One scale for all channels preserves colors.
  deep = np.zeros((2, 2, 4), np.uint16)
  deep[0, :, 0], deep[1, :, 1], deep[..., 3] = 4000, 2000, 60_000
  drawn = visualize.to_rgb(deep)
  assert drawn[0, 0].tolist() == [255, 0, 0]
  assert 120 < drawn[1, 0, 1] < 140
  black = visualize.to_rgb(np.full((2, 2, 1), 999, np.uint16))
  assert (black == 0).all()


def test_overlays_of_any_number_of_channels():
  image = np.full((2, 3, 1), 200, np.uint8)
  ids = np.full((2, 3), 255, np.uint8)
  assert (visualize.draw_overlay(image, ids, PALETTE, 0.5) == 200).all()
  row = visualize.side_by_side(image.astype(np.uint16), ids, ids, PALETTE)
  assert row.shape == (2, 17, 3)
  assert row.dtype == np.uint8


def test_side_by_side():
  image = np.full((2, 3, 3), 7, np.uint8)
  row = visualize.side_by_side(
    image, np.ones((2, 3), int), np.full((2, 3), 2), PALETTE
  )
  assert row.shape == (2, 17, 3)
  assert row[0, 0].tolist() == [7, 7, 7]
  assert row[0, 8].tolist() == [128, 0, 0]
  assert row[1, 16].tolist() == [0, 128, 0]


def test_saved_mask_keeps_ids_and_palette(tmp_path):
  ids = np.array([[0, 1, 2], [255, 2, 1]], np.uint8)
  path = tmp_path / 'deep' / 'mask.png'
  visualize.save_image(ids, path, PALETTE)
  with Image.open(path) as image:
    assert image.mode == 'P'
    np.testing.assert_array_equal(np.asarray(image), ids)
    assert image.convert('RGB').getpixel((1, 0)) == (128, 0, 0)
    assert image.convert('RGB').getpixel((0, 1)) == visualize.IGNORE_COLOR
  assert [p.name for p in path.parent.iterdir()] == ['mask.png']


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / 'mask.png'
  visualize.save_image(np.zeros((2, 2), np.uint8), path, PALETTE)
  old = path.read_bytes()
  with (
    helpers.full_disk(20),
    pytest.raises(OSError, match=f'could not write {path}: File too large'),
  ):
    visualize.save_image(np.ones((2, 2), np.uint8), path, PALETTE)
  assert path.read_bytes() == old
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  ('size', 'small'),
  [((10, 40), (5, 20)), ((40, 10), (20, 5)), ((2, 4), (10, 20))],
)
def test_thumbnail_keeps_the_aspect_ratio(size, small):
  picture = visualize.thumbnail(np.zeros((*size, 3), np.uint8), (20, 20))
  assert picture.shape == (*small, 3)


def test_contact_sheet_holds_all_pictures_and_the_legend():
  red = np.zeros((8, 8, 3), np.uint8)
  red[..., 0] = 255
  footer = visualize.draw_legend(('background', 'a', 'b'), PALETTE, 200)
  assert (footer == (128, 0, 0)).all(axis=-1).any()
  sheet = visualize.contact_sheet([('x' * 99, red)] * 5, 2, (40, 60), footer)
  assert sheet.shape[0] == 3 * (40 + 30) + 8 + footer.shape[0]
  assert (sheet == (255, 0, 0)).all(axis=-1).sum() == 5 * 40 * 40
  with pytest.raises(ValueError, match='at least one'):
    visualize.contact_sheet([], 2, (40, 60))


def test_legend_wraps():
  names = [f'class {i}' for i in range(30)]
  narrow = visualize.draw_legend(names, [(0, 0, 0)] * 30, 150)
  wide = visualize.draw_legend(names, [(0, 0, 0)] * 30, 1500)
  assert narrow.shape[1] == 150
  assert narrow.shape[0] > 5 * wide.shape[0]


@pytest.mark.parametrize('classes', [2, 150])
def test_confusion_plot(classes):
  matrix = np.eye(classes, dtype=np.int64)
  matrix[1] = 0
  names = [f'class {i}' for i in range(classes)]
  plot = visualize.plot_confusion_matrix(matrix, names)
  assert plot.dtype == np.uint8
  assert 200 < plot.shape[0] < 3000
  # The diagonal is drawn in the darkest blue.
  assert (plot == (8, 48, 107)).all(axis=-1).sum() > 100


def test_curves():
  lines = [
    {'step': 1, 'split': 'train', 'loss': 2.0},
    {'step': 2, 'split': 'train', 'loss': 1.0},
    {'step': 2, 'split': 'val', 'miou': 0.5, 'iou/a': None},
    {'step': 3, 'split': 'val', 'miou': None},
  ]
  plot = visualize.plot_training_curves(lines)
  assert plot.shape == (380, 1000, 3)
  with pytest.raises(ValueError, match='no line of the metrics has a loss'):
    visualize.plot_training_curves(lines[3:])
