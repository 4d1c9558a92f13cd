"""Both sides of the input benchmark make batches of the same files."""

import sys

import numpy as np
from PIL import Image
import pytest

from configs import camvid_mnv2
from experiments.benchmarks import input as benchmark
from tests import torchvision_module


@pytest.fixture
def config(tmp_path):
  """Six pairs of 48x64, to be cropped to 32x40."""
  rng = np.random.default_rng(0)
  for folder in ('images', 'labels'):
    (tmp_path / 'raw/train' / folder).mkdir(parents=True)
  for i in range(6):
    image = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
    label = rng.integers(0, 11, (48, 64)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / f'raw/train/images/{i}.jpg')
    Image.fromarray(label).save(tmp_path / f'raw/train/labels/{i}.png')
  c = camvid_mnv2.get_config()
  with c.unlocked():
    c.data.root = str(tmp_path / 'raw')
    c.data.data_dir = str(tmp_path / 'prepared')
    c.data.augment.random_crop.size = (32, 40)
    c.batch_size = 3
  return c


@pytest.mark.parametrize('cache', [False, True])
def test_ours(config, cache):
  side = benchmark.DeeplabInput(config, 2, cache)
  assert 0 < side.run_round() < 30
  assert ('cached' in side.name) == cache


def test_photographs(config, tmp_path, monkeypatch):
  """Made up, of the benchmark's size; nothing of the config's own is read."""
  config.data.root = str(tmp_path / 'nowhere')
  monkeypatch.setattr(benchmark, '_PHOTOGRAPH_SIZE', (600, 800))
  made = benchmark.write_photographs(config, tmp_path / 'made', 3)
  assert made.data.augment.random_crop.size == (512, 512)
  side = benchmark.DeeplabInput(made, 1, cache=False)
  assert next(side._stream)['image'].shape == (3, 512, 512, 3)
  with Image.open(tmp_path / 'made/train/images/2.jpg') as image:
    assert image.size == (800, 600)
  side._stream.close()


def test_torchvision(config):
  torchvision_module.load()
  side = benchmark.TorchvisionInput(config, 2, sys.executable)
  assert 'v2 transforms' in side.name
  assert 0 < side.run_round() < 60  # it raises where the shape is another


def test_a_python_without_torch_is_told(config):
  with pytest.raises(
    RuntimeError, match='torchvision did not run in /bin/false'
  ):
    benchmark.TorchvisionInput(config, 2, '/bin/false')


def test_rounds_are_taken_in_turn():
  calls = []

  class Side:
    def __init__(self, name, seconds):
      self.name, self.seconds = name, iter(seconds)

    def step(self):
      calls.append(self.name)
      return next(self.seconds)

  sides = [Side('a', [9, 1, 3, 2]), Side('b', [9, 4, 4, 8])]
  assert benchmark.measure_rounds(sides, 3) == [2, 4]
  assert calls == ['a', 'b'] * 4
