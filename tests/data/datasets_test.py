"""The data set of a config: fallback, preparation, class frequencies."""

import os
import pathlib
import pickle

import numpy as np
import pytest

from deeplab.data import catalog
from deeplab.data import datasets
from deeplab.data import image_format
from deeplab.data.builders import folder


@pytest.mark.usefixtures('root')
def test_class_frequencies(config):
  dataset = datasets.Dataset(config.data)
  info = dataset.info
  examples = []
  for example in dataset.examples(config.data.train_split):
    examples.append(example['label'].ravel())
  labels = np.concatenate(examples)
  valid = labels[labels != 255]
  shares = dataset.class_frequencies()
  assert shares.shape == (info.num_classes,)
  for i in range(info.num_classes):
    np.testing.assert_allclose(shares[i], (valid == i).mean())
  counts = dataset.count_class_pixels()
  assert counts.shape == (len(examples), info.num_classes)
  np.testing.assert_array_equal(
    sorted(counts.tolist()),
    sorted([(x == i).sum() for i in range(info.num_classes)] for x in examples),
  )


@pytest.mark.usefixtures('root')
def test_prepare(config):
  dataset = datasets.Dataset(config.data)
  folder_path = pathlib.Path(config.data.data_dir) / 'folder'
  dataset.prepare('val')
  assert [path.name[:4] for path in folder_path.iterdir()] == ['val_']
  dataset.prepare()
  assert sorted(path.name[:4] for path in folder_path.iterdir()) == [
    'trai',
    'val_',
  ]
  assert dataset.spec == image_format.RGB


@pytest.mark.usefixtures('root')
def test_a_data_set_can_be_pickled(config):
  dataset = datasets.Dataset(config.data)
  names = [example['name'] for example in dataset.examples('val')]
  other = pickle.loads(pickle.dumps(dataset))
  assert other.info == dataset.info
  examples = list(other.examples('val', threads=1))
  assert [example['name'] for example in examples] == names
  assert list(other.image_sizes('val')) == [
    example['label'].shape for example in examples
  ]


def test_every_data_set_has_a_builder():
  assert {*catalog.INFOS, 'folder'} == set(datasets.BUILDERS)


@pytest.mark.parametrize(
  'name', ['voc', 'cityscapes', 'cocoseg21', 'oxford_iiit_pet']
)
def test_the_fallback_replaces_an_absent_data_set(config, tmp_path, name):
  config.data.name, config.data.root = name, ''
  config.data.train_split = 'trainaug'
  assert datasets.resolve_config(config) is config
  config.data.fallback = 'shapes'
  resolved = datasets.resolve_config(config.lock())
  assert resolved.data.name == 'shapes'
  assert (resolved.data.train_split, resolved.data.eval_split) == (
    'train',
    'val',
  )
  assert config.data.name == name
  with config.unlocked():
    config.data.root = str(tmp_path)
  assert (
    datasets.resolve_config(config) is config
  )  # an error later, not other data


def test_a_folders_class_table_becomes_part_of_the_config(root, config):
  (root / 'classes.txt').write_text('sky 1 2 3\nroad 4 5 6\nold town 7 8 9\n')
  resolved = datasets.resolve_config(config)
  (root / 'classes.txt').unlink()
  info = catalog.info_for(resolved.data)
  assert info.class_names == ('sky', 'road', 'old town')
  assert info.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.mark.usefixtures('root')
def test_two_processes_may_prepare_at_once(config, monkeypatch):
  generate = folder.Folder._generate_examples
  nested = []
  dataset = datasets.Dataset(config.data)

  def overtaken(self):
    if not nested:
      nested.append(True)
      dataset.num_examples('train')  # the other one finishes first
    return generate(self)

  monkeypatch.setattr(folder.Folder, '_generate_examples', overtaken)
  assert dataset.num_examples('train') == 5
  assert nested
  left = [
    name
    for _, folders, _ in os.walk(config.data.data_dir)
    for name in folders
    if name.startswith('incomplete')
  ]
  assert left == []
