"""The LoveDA builder: genuine samples, no-data, and converted folders."""

import numpy as np
import pytest

from tests.data.builders import layouts

# Pixels by raw id in the genuine masks, counted with PIL; the samples lie in
# these scenes here.
SAMPLES = {
  'Rural/0': {1: 142441, 2: 14427, 3: 19208, 4: 3888, 7: 868612},
  'Rural/1': {1: 226400, 2: 3503, 3: 2485, 4: 244616, 6: 43126, 7: 528446},
  'Urban/2': {1: 8244, 4: 29109, 6: 914057, 7: 97166},
}


@pytest.fixture
def official(shared, tmp_path):
  """The samples in the layout of the official archive."""
  samples = shared / 'samples/loveda'
  for key in SAMPLES:
    scene, stem = key.split('/')
    for name, kind in (('images_png', 'img_dir'), ('masks_png', 'ann_dir')):
      layouts.link(
        tmp_path / 'Train' / scene / name / f'{stem}.png',
        samples / kind / f'{stem}.png',
      )
  return tmp_path


def test_samples(official, config):
  layouts.point(config, 'loveda', official, 'train')
  got = layouts.examples(config)
  assert [example['name'] for example in got] == ['0', '1', '2']
  for example, expected in zip(got, SAMPLES.values(), strict=True):
    assert example['image'].shape == (1024, 1024, 3)
    assert layouts.counts(example['label']) == {
      raw - 1: pixels for raw, pixels in expected.items()
    }
  layouts.check_metadata(config, got)


def test_no_data_is_ignored(config, tmp_path):
  raw = np.arange(8, dtype=np.uint8).reshape(2, 4)
  layouts.save(tmp_path / 'img_dir/val/7.png', layouts.picture(0, 2, 4))
  layouts.save(tmp_path / 'ann_dir/val/7.png', raw)
  layouts.point(config, 'loveda', tmp_path)
  got = layouts.examples(config)
  assert got[0]['label'].tolist() == [[255, 0, 1, 2], [3, 4, 5, 6]]


def test_missing_data_says_what_to_fetch(official, config):
  (official / 'Train/Urban/masks_png/2.png').unlink()
  layouts.point(config, 'loveda', official, 'train')
  remedy = r'fetch Train\.zip and Val\.zip, and unpack both into FOLDER \(http'
  with pytest.raises(
    ValueError, match=rf'Urban/masks_png/2\.png is missing: {remedy}'
  ):
    layouts.examples(config)
  config.data.eval_split = 'val'
  with pytest.raises(
    ValueError, match=rf'Val/Rural/images_png has no images: {remedy}'
  ):
    layouts.examples(config)
  config.data.eval_split = 'test'
  with pytest.raises(ValueError, match='its splits are train, val'):
    layouts.examples(config)
