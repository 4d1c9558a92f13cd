"""The command, on a folder with every mistake and on sound data sets."""

import html.parser
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tifffile

from deeplab.data import datasets
from deeplab.data.augmentation import compose
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import report
from deeplab.doctor import scan
from deeplab.doctor import summary
from tests.data import conftest
from tests.data.formats import labelme_test

SIZE = (24, 40)


def examine(config, processes=1):
  dataset = datasets.Dataset(config.data)
  splits, issues = {}, []
  for split in (config.data.train_split, config.data.eval_split):
    splits[split], more = example_loader.list_examples(dataset, split)
    issues += more
  scans = scan.scan_splits(splits, dataset, processes)
  return diagnosis.diagnose(scans, issues, config, dataset)


def add(root, split, stem, image=None, mask=None):
  """Writes a pair; by default noise, and the labels 0, 1 and 2."""
  rng = np.random.default_rng(sum(stem.encode()))
  if image is None:
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
  if mask is None:
    mask = rng.integers(0, 3, SIZE).astype(np.uint8)
  images, labels = root / split / 'images', root / split / 'labels'
  Image.fromarray(image).save(images / f'{stem}.png')
  if isinstance(mask, np.ndarray):
    mask = Image.fromarray(mask)
  mask.save(labels / f'{stem}.png')
  return images / f'{stem}.png', labels / f'{stem}.png'


def palette_mask(colors):
  mask = Image.fromarray(np.tile(np.array([0, 1], np.uint8), (24, 20)))
  mask.putpalette([value for color in colors for value in color])
  return mask


def truncate(path):
  path.write_bytes(path.read_bytes()[:-100])
  return str(path)


@pytest.fixture
def broken_root(root, config):
  """Puts one mistake of each kind into ROOT.

  Returns how the details of the findings begin, by kind.
  """
  config.data.num_classes = 4
  config.data.color_map = ((9, 9, 9), (0, 255, 0), (0, 0, 255), (8, 7, 6))
  expected = {'absent': ['train: class 3', 'val: class 3']}
  image, mask = add(root, 'train', 'cut')
  expected['unreadable'] = [
    f'{truncate(image)}: damaged or not an image',
    f'{truncate(mask)}: damaged or not an image',
  ]
  _, mask = add(root, 'train', 'size', mask=np.zeros((25, 40), np.uint8))
  expected['mismatch'] = [f'{mask}: mask of 40x25 pixels for an image of 40x24']
  wrong = np.ones(SIZE, np.uint8)
  wrong[2:4, 5:8], wrong[9, 9] = 200, 7
  _, mask = add(root, 'train', 'value', mask=wrong)
  expected['value'] = [
    f'{mask}: value 200 (6 pixels), 7 (1 pixels): neither one of the 4 classes'
  ]
  colors = np.array([*config.data.color_map], np.uint8)[np.minimum(wrong, 1)]
  colors[0, :3] = 1, 2, 3
  _, mask = add(root, 'train', 'color', mask=colors)
  expected['color'] = [f'{mask}: color (1, 2, 3) (3 pixels): not in the color']
  expected['mixed'] = ['1 masks by color, 17 by id; the rarer:', str(mask)]
  _, mask = add(root, 'train', 'lossy')
  lossy = mask.with_suffix('.jpg')
  Image.open(mask).save(lossy)
  mask.unlink()
  expected['lossy'] = [f'{lossy}: the mask is a JPEG']
  lone, mask = add(root, 'train', 'lone')
  mask.unlink()
  image, orphan = add(root, 'val', 'orphan')
  image.unlink()
  expected['files'] = [
    f'{lone}: image without a mask',
    f'{orphan}: mask without an image',
  ]
  _, mask = add(root, 'train', 'void', mask=np.full(SIZE, 11, np.uint8))
  expected['unlabelled'] = [str(mask)]
  # One of the 13 examples of the split, at all scales.
  expected['some_empty_crops'] = ['7.7% of the crops', f'{mask}: 100%']
  pixels = np.arange(24 * 40 * 3).reshape(*SIZE, 3)
  same, half = (pixels % 251).astype(np.uint8), (pixels % 97).astype(np.uint8)
  here, _ = add(root, 'train', 'same', same)
  there, _ = add(root, 'val', 'copy', same)
  expected['leak'] = [f'{here} = {there}']
  one, _ = add(root, 'val', 'twice1', half)
  two, _ = add(root, 'val', 'twice2', half)
  expected['repeated'] = [f'{one} = {two}']
  rows, columns = np.mgrid[:24, :40]
  wave = (np.sin(columns / 3 + rows) * 90 + 120).astype(np.uint8)
  wave = np.repeat(wave[..., None], 3, 2)
  here, _ = add(root, 'train', 'wave', wave)
  there, _ = add(root, 'val', 'brighter', wave + 20)
  expected['alike'] = [f'{here} ~ {there} (']
  return expected


def test_palettes_of_ids(root, config):
  masks = [
    add(root, 'train', stem, mask=palette_mask([(0, 0, 0), color]))[1]
    for stem, color in (('map1', (9, 9, 9)), ('map2', (8, 8, 8)))
  ]
  details = {f.kind: f.details for f in examine(config).findings}
  assert details['palettes'] == (
    f'{masks[1]}: id 1 is (8, 8, 8) here, and (9, 9, 9) in {masks[0]}',
  )
  assert details['palette'] == ('2 of 10 masks', *map(str, masks))


def test_one_mistake_of_each_kind_is_reported(broken_root, config):
  result = examine(config)
  got = {finding.kind: finding.details for finding in result.findings}
  assert set(got) == set(broken_root)
  for kind, starts in broken_root.items():
    assert len(got[kind]) == len(starts), got[kind]
    for detail, start in zip(got[kind], starts, strict=True):
      assert detail.startswith(start)
  assert not result.can_train
  assert (
    summary.format_verdict(result)
    == '7 errors, 6 warnings: training would go wrong.'
  )


class Page(html.parser.HTMLParser):
  """The text of a page, the sizes of its pictures, and what it links to."""

  def __init__(self, page):
    super().__init__()
    self.text, self.links, self.open = '', [], []
    self.images = 0
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    if tag == 'img':
      self.images += values['src'].startswith('data:image/jpeg;base64,')
    elif tag != 'meta':
      self.open.append(tag)
    self.links += [v for k, v in attrs if k == 'href']
    self.links += [
      v for k, v in attrs if k == 'src' and not v.startswith('data:')
    ]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def command(config, *flags):
  """Runs the command on a folder's config."""
  data = config.data
  return subprocess.run(
    [
      *(sys.executable, '-m', 'deeplab.doctor'),
      '--config=configs/folder_mnv2.py',
      f'--config.data.root={data.root}',
      f'--config.data.num_classes={data.num_classes}',
      f'--config.data.ignore_label={data.ignore_label}',
      *flags,
    ],
    cwd=os.path.join(os.path.dirname(__file__), '..', '..'),
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.usefixtures('broken_root')
def test_the_command_fails_on_a_folder_with_mistakes(root, config, tmp_path):
  done = command(
    config, f'--output={tmp_path}/deep/report.html', '--processes=2'
  )
  assert done.returncode == 1, done.stderr
  lines = done.stdout.splitlines()
  assert 'errors' in lines[-2]
  assert lines[-2].endswith('training would go wrong.')
  assert f'  {root}/train/labels/value.png: value 200' in done.stdout
  assert sorted(os.listdir(tmp_path / 'deep')) == [
    '.deeplab.jsonl',
    'report.html',
  ]
  page = Page((tmp_path / 'deep/report.html').read_text('utf-8'))
  assert page.open == []
  assert page.links == []  # one file, which needs nothing else
  assert f'{root}/train/labels/value.png: value 200 (6 pixels)' in page.text
  assert page.images >= 20
  # The image without a mask is shown, and the mask without an image.
  files = page.text.partition('A split is incomplete')[2].partition('Error')[0]
  assert files.index('train: lone.png') < files.index('val: orphan')


def test_the_command_passes_a_sound_folder(root, config):
  # Crops of 256 pixels are larger than these images at every scale.
  (root / 'classes.txt').write_text('sky\nroad\ntree\n')
  done = command(config, '--processes=1', '--config.batch_size=4')
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.splitlines()[-1] == (
    '0 errors, 1 warning: training can start.'
  )
  assert done.stdout.startswith('train: 5 pairs, 40x24; pixels ignored: ')


def test_the_command_fails_where_training_could_not_start(root, config):
  """Five sound pairs of two sizes, and an evaluation split without a label."""
  add(root, 'train', 'img0', np.zeros((30, 30, 3), np.uint8), np.eye(30) > 0)
  for i in range(3):
    void = np.full(SIZE, config.data.ignore_label, np.uint8)
    add(root, 'val', f'img{i}', mask=void)
  done = command(
    config, '--processes=1', "--config.data.augment.ops=('random_flip',)"
  )
  assert done.returncode == 1, done.stdout + done.stderr
  lines = done.stdout.splitlines()
  assert lines[-1] == '3 errors, 3 warnings: training would go wrong.'
  details = [
    '  val: all pixels are ignored',
    '  batch_size=8 is more than the 5 examples of split '
    "'train'; lower batch_size",
    '  examples of sizes [(24, 40), (30, 30)] do not make a batch: end '
    'config.data.augment.ops with random_crop or stretch',
  ]
  errors = [i for i, line in enumerate(lines) if line.startswith('error: ')]
  assert [lines[i + 1] for i in errors] == details


def test_camvid_passes(shared, config):
  config.data.root = str(shared / 'camvid')
  config.data.num_classes = 11
  config.data.augment.random_crop.size = (288, 384)
  result = examine(config)
  assert result.findings == ()
  assert result.can_train
  assert {k: len(s.scans) for k, s in result.splits.items()} == {
    'train': 367,
    'val': 101,
  }
  assert result.crop == (352, 480)
  # Pixels of val/0016E5_07959, counted independently with PIL.
  (one,) = (
    s for s in result.splits['val'].scans if '0016E5_07959' in s.ref.image
  )
  assert one.label_counts[:11].tolist() == [
    *(15008, 52841, 383, 49063, 15252, 25472, 716, 4141, 6054, 912, 2279)
  ]
  assert one.label_counts[255] == 679


def test_prepared_data_is_examined_alike_by_one_process_and_two(config):
  config.data.name, config.data.root = 'shapes', ''
  config.data.train_split = 'val'
  results = [examine(config, processes) for processes in (1, 2)]
  for result in results:
    assert result.can_train
    assert len(result.splits['val'].scans) == 100
    assert result.crop == (97, 97)  # the config's crop is odd
  one, two = (r.splits['val'].scans for r in results)
  key = lambda s: (s.ref.position, s.digest, s.label_counts.tobytes())
  assert sorted(map(key, one)) == sorted(map(key, two))


@pytest.mark.parametrize('kind', ['masks', 'labelme'])
def test_a_pool_is_examined_as_it_is_trained_on(tmp_path, config, kind):
  pool = tmp_path / 'raw/all'
  for i in range(16):
    conftest.write_pair(pool, f'img{i:03}', i)
    if kind == 'labelme':
      square = labelme_test.shape('road', [[0, 0], [9, 0], [9, 9], [0, 9]])
      labelme_test.write(pool / f'labels/img{i:03}.json', square, size=SIZE)
      (pool / f'labels/img{i:03}.png').unlink()
  config.data.pool = 'all'
  config.data.class_names = ('background', 'road', 'car')
  splits = examine(config).splits
  stems = {
    name: {pathlib.Path(s.ref.image).stem for s in split.scans}
    for name, split in splits.items()
  }
  expected = {f'img{i:03}' for i in (2, 14)}  # as folder_test has them
  assert stems['val'] == expected
  assert stems['train'] == {f'img{i:03}' for i in range(16)} - expected
  digests = [{s.digest for s in split.scans} for split in splits.values()]
  assert not digests[0] & digests[1]


@pytest.mark.parametrize('rest', ['pavement', 'background'])
def test_unannotated_pixels_get_a_hint(tmp_path, config, rest):
  shapes = [
    labelme_test.shape(name, [[x, 0], [x + 5, 0], [x + 5, 9], [x, 9]])
    for name, x in (('road', 0), ('car', 9))
  ]
  for split, count in (('train', 4), ('val', 1)):
    for i in range(count):
      conftest.write_pair(tmp_path / 'raw' / split, f'img{i}', 10 * count + i)
      (tmp_path / f'raw/{split}/labels/img{i}.png').unlink()
      path = tmp_path / f'raw/{split}/labels/img{i}.json'
      labelme_test.write(path, *shapes, size=SIZE)
  (tmp_path / 'raw/classes.txt').write_text(f'{rest}\nroad\ncar\n')
  # Crops of 3x3 pixels, at scales from 1/2 to 2.
  config.data.augment.random_crop.size = (3, 3)
  meanings = {f.kind: f.meaning for f in examine(config).findings}
  if rest == 'background':
    assert meanings == {}
    return
  assert set(meanings) == {'empty_crops', 'absent', 'ignored'}
  remedy = 'add the name `background` to classes.txt, and 1 to config.data.num'
  assert remedy in meanings['ignored']
  assert remedy in meanings['empty_crops']
  assert remedy not in meanings['absent']


def test_images_of_many_channels(root, config):
  """Images of five 16-bit channels, in files and prepared; then one of four."""
  config.data.mean, config.data.std = (2047.0,) * 5, (1182.0,) * 5
  config.data.depth = 16
  rng = np.random.default_rng(0)
  images = []
  for path in sorted(root.glob('*/images/*')):
    path.unlink()
    image = rng.integers(0, 4096, (*SIZE, 5)).astype(np.uint16)
    tifffile.imwrite(
      path.with_suffix('.tif'),
      image,
      photometric='minisblack',
      planarconfig='contig',
    )
    images.append(path.with_suffix('.tif'))
  config.data.augment.random_crop.size = (16, 16)
  result = examine(config)
  assert result.findings == ()
  assert {s.size for s in result.splits['train'].scans} == {SIZE}
  dataset = datasets.Dataset(config.data)
  page = Page(report.render_html(result, dataset))
  assert page.images == 8  # a sample of each
  prepared = [*example_loader.load_prepared_shard('train', 0, 1, dataset)]
  assert [one.image.shape for one in prepared] == [(*SIZE, 5)] * 5
  ops = compose.compose_known_ops(config.data.augment)
  assert all(scan.scan_example(one, ops).perceptual_hash for one in prepared)
  shutil.copy(images[0], images[-1])
  np.save(images[1].with_suffix('.npy'), image[..., :4])
  images[1].unlink()
  details = {f.kind: f.details for f in examine(config).findings}
  assert set(details) == {'leak', 'unreadable'}
  assert 'image of shape [24, 40, 4] for 5 channels' in details['unreadable'][0]
