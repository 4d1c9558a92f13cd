"""The iSAID builder: colors, overlapping patches, padding, missing files."""

import numpy as np
import pytest

from deeplab.data.builders import isaid
from deeplab.data.builders import tiles
from tests.data.builders import layouts

# RGB colors of the ids 0..15 (the data set's own table).
COLORS = np.array(
  [
    *([0, 0, 0], [0, 0, 63], [0, 63, 63], [0, 63, 0], [0, 63, 127]),
    *([0, 63, 191], [0, 63, 255], [0, 127, 63], [0, 127, 127], [0, 0, 127]),
    *([0, 0, 191], [0, 0, 255], [0, 191, 127], [0, 127, 191]),
    *([0, 127, 255], [0, 100, 155]),
  ],
  np.uint8,
)


def write(root, stem, ids, seed=0):
  """Writes an image and its mask in the layout of the archives."""
  image = layouts.picture(seed, *ids.shape)
  layouts.save(root / f'val/images/images/{stem}.png', image)
  masks = root / 'val/Semantic_masks/images/images'
  layouts.save(masks / f'{stem}_instance_color_RGB.png', COLORS[ids])
  return image


def reference_starts(length, size, overlap):
  """Returns the starts by the converters' rule, independently written."""
  found = []
  for start in range(0, max(length, size), size - overlap):
    start = min(start, max(length, size) - size)
    if start not in found:
      found.append(start)
  return found


@pytest.mark.parametrize(
  'length', [1, 895, 896, 897, 1408, 1409, 1500, 4000, 13000]
)
def test_patches_overlap_by_384(length):
  starts = tiles.patch_starts(length, isaid._PATCH_GRID)
  assert starts == reference_starts(length, 896, 384)
  if length == 1500:
    assert starts == [0, 512, 604]


def test_every_colour_and_patch(config, tmp_path):
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 16, (1000, 1500))
  image = write(tmp_path, 'P0003', ids)
  layouts.point(config, 'isaid', tmp_path)
  got = layouts.examples(config)
  assert [example['name'] for example in got] == [
    *('P0003_0_896_0_896', 'P0003_0_896_512_1408', 'P0003_0_896_604_1500'),
    'P0003_104_1000_0_896',
    'P0003_104_1000_512_1408',
    'P0003_104_1000_604_1500',
  ]
  for example in got:
    _, top, bottom, left, right = example['name'].split('_')
    place = slice(int(top), int(bottom)), slice(int(left), int(right))
    np.testing.assert_array_equal(example['label'], ids[place])
    np.testing.assert_array_equal(example['image'], image[place])
  layouts.check_metadata(config, got)


def test_a_small_image_is_padded(config, tmp_path):
  ids = np.full((600, 900), 14)
  image = write(tmp_path, 'P0007', ids)
  layouts.point(config, 'isaid', tmp_path)
  first, second = layouts.examples(config)
  assert first['name'] == 'P0007_0_896_0_896'
  assert second['name'] == 'P0007_0_896_4_900'
  assert second['image'].shape == (896, 896, 3)
  np.testing.assert_array_equal(second['image'][:600], image[:, 4:])
  assert (second['image'][600:] == 0).all()
  assert layouts.counts(second['label']) == {14: 600 * 896, 255: 296 * 896}
  assert (second['label'][600:] == 255).all()


def test_patches_cut_by_a_converter(config, tmp_path):
  ids = np.arange(18, dtype=np.uint8).reshape(3, 6).clip(max=15)
  ids[2, 4:] = 255
  image = layouts.picture(0, 3, 6)
  layouts.save(tmp_path / 'img_dir/val/P0003_0_3_0_6.png', image)
  layouts.save(
    tmp_path / 'ann_dir/val/P0003_0_3_0_6_instance_color_RGB.png', ids
  )
  layouts.point(config, 'isaid', tmp_path)
  (example,) = layouts.examples(config)
  assert example['name'] == 'P0003_0_3_0_6'
  np.testing.assert_array_equal(example['label'], ids)
  np.testing.assert_array_equal(example['image'], image)


def test_bad_input_says_what_to_fetch(config, tmp_path):
  layouts.point(config, 'isaid', tmp_path)
  remedy = r'fetch the images of DOTA-v1\.0 and the semantic masks of iSAID'
  with pytest.raises(ValueError, match=f'val has no images: {remedy}'):
    layouts.examples(config)
  write(tmp_path, 'P0001', np.zeros((4, 4), int))
  masks = tmp_path / 'val/Semantic_masks/images/images'
  mask = masks / 'P0001_instance_color_RGB.png'
  layouts.save(mask, np.full((4, 4, 3), 63, np.uint8))
  with pytest.raises(ValueError, match=r'RGB\.png: color \(63, 63, 63\) at'):
    layouts.examples(config)
  mask.rename(masks / 'P0002_instance_color_RGB.png')
  with pytest.raises(ValueError, match=rf'P0001\.png has no mask .* {remedy}'):
    layouts.examples(config)
  (tmp_path / 'val/images/images/P0001.png').unlink()
  with pytest.raises(ValueError, match=rf'P0002_.*png has no image .*{remedy}'):
    layouts.examples(config)
