"""Masks of every depth, with values of all classes and of none."""

import types

import numpy as np
from PIL import Image
import pytest

from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records
from deeplab.doctor import example_loader

INFO = dataset_info.DatasetInfo(
  name='plain',
  class_names=('sky', 'road'),
  palette=((1, 2, 3), (4, 5, 6)),
  ignore_label=300,
  ignore_color=(9, 9, 9),
)


def load_mask(folder, mask, info=INFO):
  """Writes a black image and a mask, and loads both."""
  shape = mask.shape[:2]
  Image.new('RGB', shape[::-1]).save(folder / 'image.png')
  Image.fromarray(mask).save(folder / 'mask.png')
  ref = example_loader.ExampleRef(
    'train', f'{folder}/image.png', f'{folder}/mask.png'
  )
  dataset = types.SimpleNamespace(info=info, spec=image_format.RGB)
  return example_loader.load_example(ref, dataset)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_ids(tmp_path, dtype):
  got = load_mask(tmp_path, np.array([[0, 1, 1], [7, 7, 5]], dtype))
  assert got.label.tolist() == [[0, 1, 1], [0, 0, 0]]
  assert got.invalid.tolist() == [[0, 0, 0], [1, 1, 1]]
  assert got.max_unknown_id == 7
  assert np.flatnonzero(got.label_counts).tolist() == [0, 1]
  assert got.label_counts[:2].tolist() == [1, 2]
  assert got.issues == (
    example_loader.Issue(
      'value',
      f'{tmp_path}/mask.png: value 7 (2 pixels), 5 (1 pixels): neither one of '
      'the 2 classes nor the ignore label (300)',
    ),
  )


def test_ids_of_255_and_more_are_no_possible_classes(tmp_path):
  got = load_mask(tmp_path, np.array([[0, 1, 255], [9, 300, 999]], np.uint16))
  assert got.max_unknown_id == 9
  assert (
    load_mask(tmp_path, np.array([[0, 255]], np.uint8)).max_unknown_id == -1
  )
  assert load_mask(tmp_path, np.array([[0, 1]], np.uint8)).max_unknown_id == -1


def test_masks_are_read_as_the_builders_read_them(tmp_path):
  ids = np.random.default_rng(0).choice([0, 1, 300], (9, 7)).astype(np.uint16)
  colors = np.array([[1, 2, 3], [4, 5, 6], [9, 9, 9]], np.uint8)
  for mask in (ids, colors[np.minimum(ids, 2)]):
    got = load_mask(tmp_path, mask)
    expected = np.where(ids == 300, 255, ids)
    np.testing.assert_array_equal(got.label, expected)
    assert got.label.dtype == np.uint8
    assert got.issues == ()
    assert got.invalid is None
    np.testing.assert_array_equal(
      got.label_counts, np.bincount(expected.ravel(), minlength=256)
    )
    record = records.read_record(
      tmp_path / 'image.png', tmp_path / 'mask.png', 'x', INFO
    )
    assert raw_files.encode_png(got.label) == record['label']


def test_many_unknown_colours_are_counted_and_five_listed(tmp_path):
  mask = np.zeros((1, 9, 3), np.uint8)
  mask[0, :, 2] = (3, 10, 11, 12, 13, 14, 15, 16, 16)
  mask[0, 0] = 1, 2, 3
  got = load_mask(tmp_path, mask)
  assert got.issues[0].kind == 'color'
  assert got.issues[0].text == (
    f'{tmp_path}/mask.png: color (0, 0, 16) (2 pixels), (0, 0, 10) (1 pixels),'
    ' (0, 0, 11) (1 pixels), (0, 0, 12) (1 pixels), (0, 0, 13) (1 pixels) and 2'
    ' more: not in the color map of 3'
  )
  assert got.label_counts[:2].tolist() == [1, 0]
