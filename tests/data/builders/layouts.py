"""Writes small data sets in their official layouts, and reads the records."""

import pathlib

import numpy as np
from PIL import Image
import scipy.io

from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data.preparation import records


def point(config, name, root, split='val'):
  """Makes `config` evaluate a split of the data set `name` at `root`."""
  config.data.name = name
  config.data.root = str(root)
  config.data.eval_split = split
  return config


def examples(config):
  """Returns the examples of the evaluation split."""
  dataset = datasets.Dataset(config.data)
  return list(dataset.examples(config.data.eval_split))


def metadata(config):
  """Returns the prepared counts: pixels of each class, and ignored pixels."""
  builder = datasets.BUILDERS[config.data.name](
    config.data, config.data.eval_split
  )
  return (
    list(builder.info.metadata[records.CLASS_PIXELS]),
    builder.info.metadata[records.IGNORED_PIXELS],
  )


def counts(label):
  """Returns the number of pixels by id."""
  numbers = np.bincount(label.ravel(), minlength=256)
  return {int(i): int(numbers[i]) for i in np.flatnonzero(numbers)}


def make_voc(base, stems, official, **lists):
  """Writes VOC2012 with grey masks of value 1 for the official stems."""
  (base / 'ImageSets/Segmentation').mkdir(parents=True)
  (base / 'JPEGImages').mkdir()
  (base / 'SegmentationClass').mkdir()
  for stem in stems:
    Image.new('RGB', (8, 6)).save(base / f'JPEGImages/{stem}.jpg')
  for stem in official:
    Image.new('L', (8, 6), 1).save(base / f'SegmentationClass/{stem}.png')
  for name, words in lists.items():
    path = base / f'ImageSets/Segmentation/{name}.txt'
    path.write_text('\n'.join(words), 'utf-8')


def make_sbd(base, stems, train, val):
  """Writes SBD masks of value 2, and SBD's lists."""
  (base / 'cls').mkdir(parents=True)
  for stem in stems:
    mask = {'Segmentation': np.full((6, 8), 2, np.uint8)}
    scipy.io.savemat(base / f'cls/{stem}.mat', {'GTcls': mask})
  (base / 'train.txt').write_text('\n'.join(train), 'utf-8')
  (base / 'val.txt').write_text('\n'.join(val), 'utf-8')


def check_metadata(config, got):
  """Checks the prepared counts against the labels of all examples."""
  pixels = np.concatenate([example['label'].ravel() for example in got])
  classes = catalog.info_for(config.data).num_classes
  assert metadata(config) == (
    [np.count_nonzero(pixels == i) for i in range(classes)],
    np.count_nonzero(pixels == dataset_info.IGNORE),
  )


def save(path: pathlib.Path, array: np.ndarray) -> np.ndarray:
  """Writes an image in the format of its suffix, and returns it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path)
  return array


def picture(seed, height, width):
  """Returns an image [height, width, 3] of noise."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def link(path: pathlib.Path, target: pathlib.Path):
  """Links a genuine sample to its path in the official layout."""
  assert target.is_file()
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(target)
