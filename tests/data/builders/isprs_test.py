"""Potsdam and Vaihingen: raw tiles, colors, patches, published counts."""

import numpy as np
from PIL import Image
import pytest

from deeplab.data import catalog
from deeplab.data.builders import isprs
from deeplab.data.builders import tiles
from tests.data.builders import layouts

# RGB colors of the raw ids: 0 is the boundary, 1..6 are the classes.
COLORS = np.array(
  [
    *([0, 0, 0], [255, 255, 255], [0, 0, 255], [0, 255, 255]),
    *([0, 255, 0], [255, 255, 0], [255, 0, 0]),
  ],
  np.uint8,
)
# (width, height) of Vaihingen's areas.
AREAS = (
  {1: (1919, 2569), 2: (2428, 2767), 3: (2006, 3007), 4: (1887, 2557)}
  | {5: (1887, 2557), 6: (1887, 2557), 7: (1887, 2557), 8: (1887, 2557)}
  | {10: (1887, 2557), 11: (1893, 2566), 12: (1922, 2575), 13: (2818, 2558)}
  | {14: (1919, 2565), 15: (1919, 2565), 16: (1919, 2565), 17: (2336, 1281)}
  | {20: (1866, 2315), 21: (1903, 2546), 22: (1903, 2546), 23: (1903, 2546)}
  | {24: (1903, 2546), 26: (2995, 1783), 27: (1917, 3313), 28: (1917, 2567)}
  | {29: (1917, 2563), 30: (1934, 2563), 31: (1980, 2555), 32: (1980, 2555)}
  | {33: (1581, 2555), 34: (1388, 2555), 35: (2805, 1884), 37: (1996, 1995)}
  | {38: (3816, 2550)}
)
# By raw id in the genuine patches, counted with PIL.
SAMPLES = {
  'potsdam': {0: 24696, 1: 100557, 2: 64023, 3: 34357, 4: 30670, 5: 7841},
  'vaihingen': {0: 21283, 1: 135362, 2: 79847, 3: 16532, 4: 4908, 5: 4212},
}
PATCH = {
  'potsdam': '2_10_0_0_512_512',
  'vaihingen': 'area1_0_0_512_512',
}
TILE = {'potsdam': '2_10', 'vaihingen': 'area1'}
# Official names of an image and of its labels.
RAW_NAMES = {
  'potsdam': (
    '2_Ortho_RGB/top_potsdam_{}_RGB.tif',
    '5_Labels_all_noBoundary/top_potsdam_{}_label_noBoundary.tif',
  ),
  'vaihingen': (
    'top/top_mosaic_09cm_{}.tif',
    'eroded/top_mosaic_09cm_{}_noBoundary.tif',
  ),
}


@pytest.fixture
def one_tile(monkeypatch):
  monkeypatch.setattr(isprs, 'POTSDAM_TILES', {'train': ('2_10',)})
  monkeypatch.setattr(isprs, 'VAIHINGEN_TILES', {'train': ('area1',)})


def write_tile(root, name, image, mask):
  for path, array in zip(RAW_NAMES[name], (image, mask), strict=True):
    layouts.save(root / path.format(TILE[name]), array)


def patches(width, height):
  grid = isprs._PATCH_GRID
  return len(tiles.patch_starts(width, grid)) * len(
    tiles.patch_starts(height, grid)
  )


def test_published_counts():
  for split, tiles_of_split in isprs.POTSDAM_TILES.items():
    count = len(tiles_of_split) * patches(6000, 6000)
    assert count == catalog.INFOS['potsdam'].splits[split]
    assert count == {'train': 3456, 'val': 2016}[split]
  for split, areas in isprs.VAIHINGEN_TILES.items():
    count = sum(patches(*AREAS[int(a.removeprefix('area'))]) for a in areas)
    assert count == catalog.INFOS['vaihingen'].splits[split]
    assert count == {'train': 344, 'val': 398}[split]


def test_splits_have_no_tile_in_common():
  for splits, sizes in (
    (isprs.POTSDAM_TILES, (24, 14)),
    (isprs.VAIHINGEN_TILES, (16, 17)),
  ):
    assert (len(set(splits['train'])), len(set(splits['val']))) == sizes
    assert not {*splits['train']} & {*splits['val']}


@pytest.mark.parametrize('name', SAMPLES)
@pytest.mark.parametrize('raw', [True, False])
def test_samples(shared, config, tmp_path, one_tile, name, raw):
  """A genuine patch gives the same label from ids and from colors."""
  image = shared / f'samples/{name}/img_dir/{PATCH[name]}.png'
  mask = shared / f'samples/{name}/ann_dir/{PATCH[name]}.png'
  ids = np.asarray(Image.open(mask))
  if raw:
    write_tile(tmp_path, name, np.asarray(Image.open(image)), COLORS[ids])
  else:
    layouts.link(tmp_path / 'img_dir/train' / image.name, image)
    layouts.link(tmp_path / 'ann_dir/train' / mask.name, mask)
  layouts.point(config, name, tmp_path, 'train')
  got = layouts.examples(config)
  assert [example['name'] for example in got] == [PATCH[name]]
  np.testing.assert_array_equal(got[0]['image'], np.asarray(Image.open(image)))
  assert layouts.counts(got[0]['label']) == {
    (raw_id - 1) % 256: pixels for raw_id, pixels in SAMPLES[name].items()
  }
  np.testing.assert_array_equal(got[0]['label'], ids - np.uint8(1))
  layouts.check_metadata(config, got)


@pytest.mark.parametrize('name', SAMPLES)
def test_a_tile_is_cut_into_patches(config, tmp_path, one_tile, name):
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 7, (600, 1030)).astype(np.uint8)
  image = layouts.picture(1, 600, 1030)
  write_tile(tmp_path, name, image, COLORS[ids])
  layouts.point(config, name, tmp_path, 'train')
  got = {example['name']: example for example in layouts.examples(config)}
  stem = TILE[name]
  assert list(got) == [
    f'{stem}_0_0_512_512',
    f'{stem}_512_0_1024_512',
    f'{stem}_518_0_1030_512',
    f'{stem}_0_88_512_600',
    f'{stem}_512_88_1024_600',
    f'{stem}_518_88_1030_600',
  ]
  expected = np.where(ids == 0, 255, ids - 1)
  for patch, example in got.items():
    left, top, right, bottom = map(int, patch.split('_')[-4:])
    np.testing.assert_array_equal(
      example['image'], image[top:bottom, left:right]
    )
    np.testing.assert_array_equal(
      example['label'], expected[top:bottom, left:right]
    )


def test_folders_may_be_symbolic_links(config, tmp_path, one_tile):
  mask = COLORS[np.full((512, 512), 6)]
  write_tile(tmp_path / 'disk', 'potsdam', layouts.picture(0, 512, 512), mask)
  for name in ('2_Ortho_RGB', '5_Labels_all_noBoundary'):
    (tmp_path / 'root/a').mkdir(parents=True, exist_ok=True)
    (tmp_path / 'root/a' / name).symlink_to(tmp_path / 'disk' / name)
  layouts.point(config, 'potsdam', tmp_path / 'root', 'train')
  (example,) = layouts.examples(config)
  assert layouts.counts(example['label']) == {5: 512 * 512}


def test_unknown_colours_in_tiles(config, tmp_path, one_tile):
  """Up to 1 % of a tile is ignored; more is an error."""
  mask = COLORS[np.full((520, 512), 2)]
  mask[:5, :] = (252, 255, 0)
  write_tile(tmp_path, 'potsdam', layouts.picture(0, 520, 512), mask)
  layouts.point(config, 'potsdam', tmp_path, 'train')
  first, second = layouts.examples(config)
  assert layouts.counts(first['label']) == {1: 507 * 512, 255: 5 * 512}
  assert layouts.counts(second['label']) == {1: 512 * 512}
  mask[5] = (252, 255, 0)
  write_tile(tmp_path, 'potsdam', layouts.picture(0, 520, 512), mask)
  with pytest.raises(
    ValueError,
    match=r'noBoundary\.tif: color \(252, 255, 0\) at row 0, column 0 \(and '
    '3071 more pixels',
  ):
    layouts.examples(config)


def test_image_and_mask_must_have_the_same_size(config, tmp_path, one_tile):
  write_tile(
    tmp_path,
    'potsdam',
    layouts.picture(0, 520, 512),
    np.zeros((519, 512, 3), np.uint8),
  )
  layouts.point(config, 'potsdam', tmp_path, 'train')
  with pytest.raises(ValueError, match='mask of 512x519 pixels for an image'):
    layouts.examples(config)


@pytest.mark.parametrize(
  ('name', 'missing', 'remedy'),
  [
    ('potsdam', 'top_potsdam_2_10_RGB.tif', 'fetch 2_Ortho_RGB.zip and 5_Lab'),
    ('vaihingen', 'top/top_mosaic_09cm_area1.tif', 'fetch ISPRS_semantic_lab'),
  ],
)
def test_missing_data_says_what_to_fetch(
  config, tmp_path, name, missing, remedy
):
  layouts.point(config, name, tmp_path, 'train')
  with pytest.raises(ValueError, match=f'{missing} is missing: {remedy}'):
    layouts.examples(config)
  image, mask = (path.format(TILE[name]) for path in RAW_NAMES[name])
  layouts.save(tmp_path / image, layouts.picture(0, 2, 2))
  with pytest.raises(
    ValueError, match=f'{mask.split("/")[1]} is missing: {remedy}'
  ):
    layouts.examples(config)
  config.data.eval_split = 'test'
  with pytest.raises(ValueError, match='its splits are train, val'):
    layouts.examples(config)
