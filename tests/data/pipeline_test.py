"""Batches depend on (seed, step) alone, and hosts share them exactly."""

import hashlib
import itertools
import os
import subprocess
import sys
import threading

import numpy as np
from PIL import Image
import pytest

from deeplab.data import datasets
from deeplab.data import decoding
from deeplab.data import image_format
from deeplab.data import pipeline
from deeplab.data.augmentation import geometric
from tests.data import decoding_test


def batches(config, count, start=0, host_index=0, host_count=1):
  iterator = datasets.Dataset(config.data).train_batches(
    seed=config.seed,
    batch_size=config.batch_size,
    start_step=start,
    host_index=host_index,
    host_count=host_count,
  )
  result = list(itertools.islice(iterator, count))
  iterator.close()
  return result


def assert_equal(got, expected):
  assert len(got) == len(expected)
  for a, b in zip(got, expected, strict=True):
    assert set(a) == set(b) == {'image', 'label', 'index'}
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.usefixtures('root')
def test_a_batch_depends_only_on_seed_and_step(config):
  first = batches(config, 6)
  assert first[0]['image'].shape == (4, 17, 33, 3)
  assert first[0]['image'].dtype == np.float32
  assert first[0]['label'].shape == (4, 17, 33)
  assert first[0]['label'].dtype == np.uint8
  assert first[2]['index'].tolist() == [8, 9, 10, 11]
  assert first[2]['index'].dtype == np.uint32
  assert set(np.unique(first[0]['label'])) <= {0, 1, 2, 255}
  config.data.threads, config.data.prefetch = 5, 3
  assert_equal(batches(config, 6), first)
  assert_equal(batches(config, 2, start=4), first[4:])
  config.data.cache = True
  assert_equal(batches(config, 6), first)
  config.seed = 1
  assert (batches(config, 1)[0]['image'] != first[0]['image']).any()


@pytest.mark.usefixtures('root')
@pytest.mark.parametrize('threads', [0, 1, 2, 5])
@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_and_threads_share_each_batch(config, hosts, threads):
  config.batch_size = 8
  whole = batches(config, 5)
  config.data.threads = threads
  # Every host starts anew at step 2.
  parts = [
    batches(config, 3, start=2, host_index=h, host_count=hosts)
    for h in range(hosts)
  ]
  assert parts[0][0]['image'].shape == (8 // hosts, 17, 33, 3)
  joined = [
    {key: np.concatenate([part[key] for part in same]) for key in same[0]}
    for same in zip(*parts, strict=True)
  ]
  assert_equal(joined, whole[2:])


def test_batches_of_partly_decoded_jpegs(root, config, monkeypatch):
  """Batches are the same across restarts, threads and hosts, or cached."""
  image = decoding_test.photograph()
  for i in range(5):
    data = decoding_test.jpeg(np.roll(image, 50 * i, 1))
    (root / f'train/images/img{i}.png').unlink()
    (root / f'train/images/img{i}.jpg').write_bytes(data)
    label = np.full(image.shape[:2], i % 3, np.uint8)
    Image.fromarray(label).save(root / f'train/labels/img{i}.png')
  config.data.cache = True
  cached = batches(config, 4)
  config.data.cache = False
  datasets.Dataset(config.data).prepare('train')
  monkeypatch.setattr(
    decoding, 'decode_image', None
  )  # the whole is not decoded
  first = batches(config, 4)
  assert_equal(first, cached)
  assert_equal(batches(config, 2, start=2), first[2:])
  config.data.threads = 3
  for hosts in (2, 4):
    shares = [
      batches(config, 4, host_index=i, host_count=hosts) for i in range(hosts)
    ]
    union = [
      {key: np.concatenate([share[key] for share in step]) for key in step[0]}
      for step in zip(*shares, strict=True)
    ]
    assert_equal(union, first)


@pytest.mark.usefixtures('root')
def test_hosts_must_divide_the_batch(config):
  with pytest.raises(ValueError, match='batch_size=4 is not a multiple of the'):
    batches(config, 1, host_count=3)


@pytest.mark.usefixtures('root')
def test_all_threads_work_at_once(config, monkeypatch):
  """There are more threads than `prefetch`; each waits for the others."""
  config.data.augment.ops = ('random_flip',)
  config.data.threads, config.data.prefetch = 3, 1
  config.batch_size = 1
  barrier = threading.Barrier(3, timeout=30)

  def meet(self, example, rng):
    barrier.wait()
    return example

  monkeypatch.setattr(geometric.RandomFlip, '__call__', meet)
  assert len(batches(config, 1)) == 1


def digest(batch):
  data = b''.join(batch[key].tobytes() for key in sorted(batch))
  return hashlib.sha256(data).hexdigest()


def in_new_process(config, body):
  """Runs code in a new process and returns the last line that it prints.

  `config` and `batches(start)` are defined for it.
  """
  program = f"""
import hashlib, sys
from ml_collections import ConfigDict
from deeplab.data import datasets
config = ConfigDict({config.to_dict()!r})
def batches(start):
  return datasets.Dataset(config.data).train_batches(
    seed=config.seed, batch_size=config.batch_size, start_step=start)
{body}
"""
  root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
  result = subprocess.run(
    [sys.executable, '-c', program],
    check=True,
    cwd=root,
    capture_output=True,
    text=True,
  )
  return result.stdout.splitlines()[-1]


@pytest.mark.usefixtures('root')
def test_a_restarted_run_gets_the_same_batches(config):
  expected = digest(batches(config, 5)[4])
  config.data.threads, config.data.cache = 3, True
  got = in_new_process(
    config,
    """
stream = batches(4)
batch = next(stream)
stream.close()
data = b''.join(batch[key].tobytes() for key in sorted(batch))
print(hashlib.sha256(data).hexdigest())
""",
  )
  assert got == expected


@pytest.mark.usefixtures('root')
def test_each_epoch_holds_every_example_once(config):
  config.batch_size = 5
  config.data.augment.ops = ()
  builder = datasets.prepare_builder(config.data, 'train')
  reader = pipeline._ExampleReader(config.data, builder)
  originals = [reader(i) for i in range(5)]
  orders = []
  for batch in batches(config, 6):
    order = [
      next(
        i
        for i, original in enumerate(originals)
        if (original['label'] == label).all()
      )
      for label in batch['label']
    ]
    assert sorted(order) == [0, 1, 2, 3, 4]
    orders.append(order)
    expected = image_format.normalize_image(
      np.stack([originals[i]['image'] for i in order]),
      config.data.mean,
      config.data.std,
    )
    np.testing.assert_array_equal(batch['image'], expected)
  assert len(set(map(tuple, orders))) > 1


@pytest.mark.usefixtures('root')
def test_repeats_of_an_example_are_augmented_differently(config):
  config.batch_size = 5
  config.data.augment.ops = ('random_crop',)
  first, second = (
    {label.tobytes() for label in batch['label']}
    for batch in batches(config, 2)
  )
  assert len(first | second) > 5


@pytest.mark.usefixtures('root')
def test_images_smaller_than_the_crop_are_padded(config):
  config.data.augment.ops = ('random_crop',)
  config.data.augment.random_crop.size = (64, 80)
  batch = batches(config, 1)[0]
  assert batch['label'].shape == (4, 64, 80)
  assert (batch['label'][:, 24:] == 255).all()
  assert (batch['label'][:, :, 40:] == 255).all()
  assert abs(batch['image'][:, 24:]).max() < 0.01
  assert (batch['label'][:, :24, :40] != 255).any()


@pytest.mark.usefixtures('root')
@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_evaluation_sees_every_example_once(config, hosts):
  dataset = datasets.Dataset(config.data)
  names = [
    [
      example['name']
      for example in dataset.examples('train', host_index=h, host_count=hosts)
    ]
    for h in range(hosts)
  ]
  assert sorted(itertools.chain(*names)) == [f'img{i}' for i in range(5)]
  assert max(map(len, names)) - min(map(len, names)) <= 1


@pytest.mark.usefixtures('root')
def test_calibration_images(config):
  dataset = datasets.Dataset(config.data)
  first, again, few = (
    list(dataset.calibration_images(count, config.seed))
    for count in (99, 99, 2)
  )
  assert len(first) == 5
  assert first[0].shape == (24, 40, 3)
  assert first[0].dtype == np.uint8
  assert len({image.tobytes() for image in first}) == 5
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a, b)
  assert len(few) == 2
  np.testing.assert_array_equal(few[1], first[1])


@pytest.mark.usefixtures('root')
def test_errors_in_threads_are_raised_to_the_caller(config, monkeypatch):
  def fail(self, example, rng):
    raise RuntimeError('broken op')

  monkeypatch.setattr(geometric.RandomFlip, '__call__', fail)
  with pytest.raises(RuntimeError, match='broken op'):
    batches(config, 1)


@pytest.mark.usefixtures('root')
def test_settings_are_checked(config):
  config.data.augment.ops = ('random_scale',)
  with pytest.raises(ValueError, match='do not make a batch: end'):
    batches(config, 1)
  config.data.threads = -1
  with pytest.raises(ValueError, match='threads=-1 must be at least 0'):
    batches(config, 1)
  config.data.name = 'vok'
  with pytest.raises(ValueError, match="'vok' is not one of ade20k"):
    datasets.Dataset(config.data).prepare('val')


@pytest.mark.usefixtures('root')
def test_reading_prepared_data_imports_no_jax_and_no_tensorflow(config):
  datasets.Dataset(config.data).prepare()
  first = in_new_process(
    config,
    """
stream = batches(80000)
print(next(stream)['index'][0])
stream.close()
bad = {'jax', 'flax', 'tensorflow'} & set(sys.modules)
sys.exit(str(bad) if bad else 0)
""",
  )
  assert first == '320000'  # 80,000 batches of 4


@pytest.mark.usefixtures('root')
def test_records_decode_as_by_tfds(root, config):
  """A JPEG with an EXIF orientation, and PNG files."""
  exif = Image.Exif()
  exif[0x0112] = 6
  image = root / 'train/images/img1.png'
  Image.open(image).save(image.with_suffix('.jpg'), exif=exif)
  image.unlink()
  builder = datasets.prepare_builder(config.data, 'train')
  read = pipeline._ExampleReader(config.data, builder)
  source = builder.as_data_source('examples')
  assert read.count == len(source) == 5
  for i in range(5):
    for key, expected in (
      ('image', source[i]['image']),
      ('label', source[i]['label'][..., 0]),
    ):
      got = read(i)[key]
      assert got.dtype == np.uint8
      np.testing.assert_array_equal(got, expected)
