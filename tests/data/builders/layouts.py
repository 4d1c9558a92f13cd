"""Small data sets in their official layouts, and what becomes of them."""

import numpy as np
from PIL import Image
import scipy.io

from deeplab.data import catalog
from deeplab.data import pipeline


def examples(config):
  """Returns the examples of the evaluation split."""
  facts = catalog.info_for(config.data)
  return list(pipeline.eval_examples(config, facts, host_index=0, host_count=1))


def counts(label):
  """Returns the number of pixels by id."""
  numbers = np.bincount(label.ravel(), minlength=256)
  return {int(i): int(numbers[i]) for i in np.flatnonzero(numbers)}


def make_voc(base, stems, official, **lists):
  """Writes a VOC2012 with grey masks of value 1 for the official stems."""
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
  """Writes SBD masks of value 2."""
  (base / 'cls').mkdir(parents=True)
  for stem in stems:
    mask = {'Segmentation': np.full((6, 8), 2, np.uint8)}
    scipy.io.savemat(base / f'cls/{stem}.mat', {'GTcls': mask})
  (base / 'train.txt').write_text('\n'.join(train), 'utf-8')
  (base / 'val.txt').write_text('\n'.join(val), 'utf-8')
