"""Conclusions about whole splits, from handmade scans."""

import dataclasses
import html
import importlib

import numpy as np
import pytest

from deeplab.data import datasets
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import report
from deeplab.doctor import scan
from deeplab.doctor import summary


def make_scan(counts, split='train', size=(40, 40), empty=0.0):
  """Returns a scan with the given number of pixels by train id."""
  pixels = np.zeros(256, np.int64)
  for train_id, count in counts.items():
    pixels[train_id] = count
  ref = example_loader.ExampleRef(split, f'{split}.png', 'mask.png')
  return scan.ExampleScan(
    ref, size=size, label_counts=pixels, empty_crop_share=empty
  )


def diagnose(config, *scans):
  """Diagnoses scans, each twice, so that the training ones fill a batch."""
  dataset = datasets.Dataset(config.data)
  config.batch_size = 2
  scans = [s for s in scans for _ in range(2)]
  return diagnosis.diagnose(scans, (), config, dataset)


GOOD = make_scan({0: 50, 1: 30, 2: 20})


def test_a_sound_data_set_has_weights_and_one_absent_class(config):
  result = diagnose(config, GOOD, make_scan({0: 5, 1: 0, 2: 5}, 'val'))
  (finding,) = result.findings
  assert (finding.kind, finding.details) == ('absent', ('val: class 1',))
  assert result.can_train
  # Share ** -1/2, over its mean over the pixels.
  assert result.weights == (0.831, 1.07, 1.31)
  assert summary.make_class_rows(result) == [
    ('class 0', '50.0 %', '50.0 %', '0.831'),
    ('class 1', '30.0 %', '-', '1.07'),
    ('class 2', '20.0 %', '50.0 %', '1.31'),
  ]
  assert (
    summary.format_verdict(result) == '0 errors, 1 warning: training can start.'
  )
  config.loss.balance = 1.0
  assert diagnose(config, GOOD).weights == (0.667, 1.11, 1.67)


def test_suggestions_have_reasons_and_follow_the_config(config):
  config.loss.balance = 0.0
  config.data.augment.random_crop.size = (64, 64)
  balance, crop = diagnose(config, GOOD).suggestions
  assert balance == (
    '--config.loss.balance=0.5',
    'class 2 has 20 % of the labelled pixels, class 0 50 %; this gives the '
    'weights above',
  )
  assert crop == (
    '--config.data.augment.random_crop.size="(32,32)"',
    'the largest crop, up to 512 pixels per side, that half of the training '
    'images fill (median height 40, width 40); the config has (64, 64), so a '
    'step would take 0.25 times as many pixels',
  )
  config.loss.balance = 0.5
  assert diagnose(config, GOOD).suggestions == (crop,)
  config.data.augment.random_crop.size = (32, 32)
  assert diagnose(config, GOOD).suggestions == ()
  config.data.augment.random_crop.size = (16, 16)
  ((_, reason),) = diagnose(config, GOOD).suggestions
  assert reason.endswith(
    'the config has (16, 16), so a step would take 4.0 times as many pixels'
  )
  config.data.augment.random_crop.size = (64, 64)
  config.data.augment.ops = ('stretch',)
  assert diagnose(config, GOOD).suggestions == ()


def test_a_number_of_classes_that_includes_all_ids_is_suggested(config):
  config.data.augment.ops = ('stretch',)
  config.loss.balance = 0.5
  config.data.ignore_label = 255
  beyond = [dataclasses.replace(GOOD, max_unknown_id=i) for i in (3, 6, -1)]
  reason = 'masks contain ids up to 6: if all of them are classes'
  assert diagnose(config, *beyond).suggestions == (
    ('--config.data.num_classes=7', reason),
  )
  config.data.ignore_label = 5
  extra = ', with a config.data.ignore_label outside 0 to 6'
  assert diagnose(config, *beyond).suggestions == (
    ('--config.data.num_classes=7', reason + extra),
  )


@pytest.mark.parametrize(
  ('loss', 'ending'),
  [
    (
      {'balance': 0.0},
      'that --config.loss.balance=0.5 would set; now 1 for all.',
    ),
    ({'balance': 0.7}, 'as config.loss.balance=0.7 sets it (0: 1 for all).'),
    (
      {'class_weights': (1.0, 2.0, 1.0)},
      'not used, because config.loss.class_weights is set.',
    ),
  ],
)
def test_the_weights_of_the_table_are_explained(config, loss, ending):
  config.loss.update(loss)
  result = diagnose(config, GOOD)
  lines = summary.format_summary(result).splitlines()
  last = next(i for i, line in enumerate(lines) if line.startswith('class 2'))
  assert lines[last + 1].startswith('weight: ')
  assert lines[last + 1].endswith(f' {ending}')
  escaped = html.escape(lines[last + 1])
  page = report.render_html(result, datasets.Dataset(config.data))
  assert f'</table><p>{escaped}</p>' in page


@pytest.mark.parametrize(
  ('counts', 'kinds'),
  [
    ({0: 50, 1: 30, 255: 99}, ['absent', 'ignored']),
    ({0: 50, 255: 50}, ['one_class', 'absent']),
    ({255: 50}, ['one_class', 'blank', 'unlabelled', 'absent', 'ignored']),
  ],
)
def test_labels_that_the_training_masks_lack(config, counts, kinds):
  result = diagnose(
    config, make_scan(counts), make_scan({0: 1, 1: 1, 2: 1}, 'val')
  )
  assert [finding.kind for finding in result.findings] == kinds
  assert result.can_train == ('one_class' not in kinds)


def test_binary_masks_of_0_and_255_get_a_hint(config):
  config.data.num_classes, config.data.ignore_label = 2, 255
  (finding,) = (
    f
    for f in diagnose(config, make_scan({0: 50, 255: 50})).findings
    if f.kind == 'one_class'
  )
  assert finding.details == (
    'labelled: class 0; the value 255 is the ignore label: if it is meant as a '
    'class, give --config.data.id_map=0:0,255:1',
  )


@pytest.mark.parametrize(
  ('counts', 'kinds', 'details'),
  [
    ({0: 60, 1: 30, 2: 10}, [], []),
    ({0: 5, 1: 5, 255: 5}, ['absent'], [('val: class 2',)]),
    (
      {0: 5, 1: 5, 2: 5, 255: 45},
      ['ignored'],
      [('val: 75% of the pixels',)],
    ),
    (
      {255: 50},
      ['blank', 'unlabelled', 'absent', 'ignored'],
      [
        ('val: all pixels are ignored',),
        ('mask.png', 'mask.png'),
        ('val: class 0, class 1, class 2',),
        ('val: 100% of the pixels',),
      ],
    ),
  ],
)
def test_labels_that_the_evaluation_masks_lack(config, counts, kinds, details):
  result = diagnose(config, GOOD, make_scan(counts, 'val'))
  assert [f.kind for f in result.findings] == kinds
  assert [f.details for f in result.findings] == details
  assert result.can_train == ('blank' not in kinds)


@pytest.mark.parametrize(
  ('empty', 'kind'),
  [(0.01, None), (0.04, 'some_empty_crops'), (1.0, 'empty_crops')],
)
def test_crops_without_a_label(config, empty, kind):
  scans = GOOD, make_scan({0: 5, 1: 5, 2: 5}, empty=empty)
  other = make_scan({0: 1, 1: 1, 2: 1}, 'val', empty=1.0)
  result = diagnose(config, *scans, other)
  assert [f.kind for f in result.findings] == ([kind] if kind else [])
  assert result.splits['train'].empty_crop_share == empty / 2
  assert result.can_train == (kind != 'empty_crops')


def test_images_smaller_than_the_crop(config):
  config.data.augment.random_crop.size = (100, 64)
  sizes = (49, 99), (49, 200), (1500, 1600)
  result = diagnose(
    config, *(make_scan({0: 5, 1: 5, 2: 5}, size=s) for s in sizes)
  )
  (finding,) = result.findings
  assert (finding.kind, finding.details) == (
    'padded',
    ('4 of 6 training images',),
  )
  assert result.crop == (32, 192)
  assert summary.format_size_range(result.splits['train'].sizes) == (
    '3 sizes (heights 49 to 1500, median 49; widths 99 to 1600, median 200)'
  )
  # Scaled twice as large, images of 50 fill a crop of 100.
  large = [make_scan({0: 5, 1: 5, 2: 5}, size=(50, 32))] * 3
  assert diagnose(config, *large).findings == ()


def test_weights_follow_the_rule_of_the_config(config):
  config.loss.balance = 1.0
  config.loss.balance_rule = 'median'
  result = diagnose(config, make_scan({0: 6, 1: 2}), make_scan({0: 8}))
  # Shares 7/8 and 1/8 of pixels; of images 1 and 1/2: 0.875, 0.25; 0.5625.
  assert result.weights == (0.643, 2.25, 0.0)


def test_no_example_at_all(config):
  issue = example_loader.Issue('files', 'raw: split is missing')
  dataset = datasets.Dataset(config.data)
  result = diagnosis.diagnose((), (issue,), config, dataset)
  assert [f.kind for f in result.findings] == ['files']
  assert not result.can_train
  assert result.crop is None
  assert summary.format_summary(result).splitlines()[0] == (
    'train: 0 pairs, no image; pixels ignored: none'
  )


@pytest.mark.parametrize(
  'page',
  [
    'voc_resnet:r50,20k',
    'cocoseg21_torchvision:lraspp_mnv3',
    'cocoseg21_lite:deeplab',
  ],
)
def test_crops_of_the_recipes_fit_a_photograph(page):
  """Photographs of 500x375, the size of most of VOC's and many of COCO's."""
  name, _, variant = page.partition(':')
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(variant)
  dataset = datasets.Dataset(config.data)
  one = make_scan(dict.fromkeys(range(21), 5), size=(375, 500))
  one = dataclasses.replace(
    one, ref=one.ref._replace(split=config.data.train_split)
  )
  scans = [one] * config.batch_size
  assert diagnosis.diagnose(scans, (), config, dataset).findings == ()
  small = [dataclasses.replace(one, size=(37, 50))] * config.batch_size
  config.data.augment.ops = ('random_crop',)
  (finding,) = diagnosis.diagnose(small, (), config, dataset).findings
  assert finding.kind == 'padded'


def with_statistics(config, mean, std):
  """The findings of training images of these values, and the suggestions."""
  scan_ = dataclasses.replace(
    GOOD, channel_mean=np.array(mean, float), channel_std=np.array(std, float)
  )
  result = diagnose(config, scan_)
  flags = [flag for flag, _ in result.suggestions if 'data.mean' in flag]
  return {f.kind: f.details for f in result.findings}, flags


@pytest.mark.parametrize(
  ('mean', 'std', 'kind'),
  [
    # Pictures for values of 8-bit pictures: CamVid, X-rays, blank ones.
    ((105, 110, 112), (75, 77, 78), ''),
    ((40, 40, 40), (30, 30, 30), ''),
    ((0, 0, 0), (0, 0, 0), ''),
    # Far off: 10 bits in 16, and one channel of little contrast.
    ((500, 510, 495), (200, 200, 200), 'units_off'),
    ((120, 120, 120), (57, 57, 5), 'units_off'),
    # Other units: 16 bits, 12 bits, and values in 0..1.
    ((30000, 30000, 30000), (12000, 12000, 12000), 'units'),
    ((2000, 2000, 2000), (800, 800, 800), 'units'),
    ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 'units'),
  ],
)
def test_mean_and_std_are_compared_with_the_images(config, mean, std, kind):
  found, flags = with_statistics(config, mean, std)
  kinds = {'units', 'units_off'} & found.keys()
  assert kinds == ({kind} if kind else set())
  assert bool(flags) == bool(kind)


def test_the_flags_of_mean_and_std(config):
  found, flags = with_statistics(config, (16412.7, 9, 3), (8391.2, 2, 1))
  assert found['units'] == (
    'the training images have mean (1.641e+04, 9, 3), std (8391, 2, 1)',
    'the config has mean (123.675, 116.28, 103.53), std (58.395, 57.12, '
    '57.375)',
  )
  assert flags == [
    '--config.data.mean="(1.641e+04,9,3,)" --config.data.std="(8391,2,1,)"'
  ]


def test_statistics_are_pooled_over_images_of_any_size():
  rng = np.random.default_rng(0)
  for channels, dtype in ((3, np.uint8), (1, np.uint16), (5, np.uint16)):
    images = [
      rng.integers(0, 60 * (i + 1), (h, w, channels)).astype(dtype)
      for i, (h, w) in enumerate([(3, 5), (7, 2), (11, 13)])
    ]
    scans = []
    for image in images:
      mean, std = scan.compute_channel_statistics(image)
      scans.append(
        scan.ExampleScan(
          example_loader.ExampleRef('train', 'a'),
          size=image.shape[:2],
          channel_mean=mean,
          channel_std=std,
        )
      )
    got = scan.summarize_split(scans)
    pixels = np.concatenate([x.reshape(-1, channels) for x in images]) * 1.0
    np.testing.assert_allclose(got.channel_mean, pixels.mean(0))
    np.testing.assert_allclose(got.channel_std, pixels.std(0))


def test_orientations_are_counted_and_unclear_masks_named(config):
  turned = [
    dataclasses.replace(
      GOOD, ref=GOOD.ref._replace(mask=f'm{i}.png'), orientation=i
    )
    for i in (1, 3, 6)
  ]
  found = {f.kind: f.details for f in diagnose(config, *turned).findings}
  assert found['upright'] == (
    *('4 of 6 images', 'orientation 3: 2', 'orientation 6: 2'),
  )
  # The images are squares, so that no size tells.
  assert found['turned'] == (
    *('m3.png (orientation 3)', 'm3.png (orientation 3)'),
    *('m6.png (orientation 6)', 'm6.png (orientation 6)'),
  )
  turned[2] = dataclasses.replace(
    turned[2], size=(40, 60), painted_on_stored=True
  )
  found = {f.kind: f.level for f in diagnose(config, *turned).findings}
  assert found['turned_both'] == 'error'


@pytest.mark.parametrize(
  ('values', 'count', 'flags'),
  [
    ((0, 255), 2, ['--config.data.id_map=0:0,255:1']),
    (
      (0, 255),
      3,
      ['--config.data.num_classes=2 --config.data.id_map=0:0,255:1'],
    ),
    (
      (0, 128, 255),
      2,
      ['--config.data.num_classes=3 --config.data.id_map=0:0,128:1,255:2'],
    ),
    ((0, 1, 2), 2, ['--config.data.id_map=reduce_zero']),
    ((0, 1, 2, 255), 2, ['--config.data.id_map=reduce_zero']),
    ((0, 7, 26, 33), 19, ['--config.data.id_map=cityscapes']),
    ((0, 1, 255), 2, []),
    ((0, 1), 2, []),
    ((), 2, []),
  ],
)
def test_the_flags_of_common_masks(config, values, count, flags):
  """Instead of asking to rewrite files."""
  config.data.num_classes, config.data.ignore_label = count, 255
  result = diagnose(config, dataclasses.replace(GOOD, raw_ids=values))
  got = [flag for flag, _ in result.suggestions if 'id_map' in flag]
  assert got == flags
  config.data.id_map = '0:0'
  result = diagnose(config, dataclasses.replace(GOOD, raw_ids=values))
  assert not any('id_map' in flag for flag, _ in result.suggestions)
