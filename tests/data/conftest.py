"""A small folder data set and the config that reads it."""

import pathlib

import numpy as np
from PIL import Image
import pytest

from configs import common
from configs.recipes import folder
from tests.shared import SHARED

DATA = SHARED / 'data'


def write_pair(split: pathlib.Path, stem: str, seed: int, size=(24, 40)):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
  label = rng.integers(0, 4, size).astype(np.uint8)
  label[label == 3] = 11
  (split / 'images').mkdir(parents=True, exist_ok=True)
  (split / 'labels').mkdir(exist_ok=True)
  Image.fromarray(image).save(split / 'images' / f'{stem}.png')
  Image.fromarray(label).save(split / 'labels' / f'{stem}.png')
  return image, label


@pytest.fixture
def root(tmp_path):
  """ROOT with 5 training and 3 validation pairs, 24x40, 3 classes, void 11."""
  for split, count, first in (('train', 5, 0), ('val', 3, 100)):
    for i in range(count):
      write_pair(tmp_path / 'raw' / split, f'img{i}', first + i)
  return tmp_path / 'raw'


@pytest.fixture
def config(tmp_path):
  """The defaults, reading `root` as a folder of 3 classes."""
  c = common.base()
  c.batch_size = 4
  folder.data(c)
  c.data.root = str(tmp_path / 'raw')
  c.data.data_dir = str(tmp_path / 'prepared')
  c.data.num_classes = 3
  c.data.ignore_label = 11
  c.data.augment.random_crop.size = (17, 33)
  c.data.augment.random_crop.max_class_share = 1.0
  return c


@pytest.fixture
def shared():
  """The folder of real samples; tests that need it skip without it."""
  if not DATA.is_dir():
    pytest.skip(f'no real data at {DATA}')
  return DATA
