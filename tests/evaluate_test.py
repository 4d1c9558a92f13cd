"""The evaluator: every pixel once, exact counts, strict JSON."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest

from configs import common
from configs import voc_resnet
from deeplab import evaluate
from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.data import image_format
from deeplab.inference import predictors
from tests.inference import views_test

INFO = dataset_info.DatasetInfo(
  name='toy',
  class_names=('red', 'green', 'blue', 'never'),
  palette=((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)),
  ignore_label=255,
)


def examples(sizes=views_test.SIZES):
  """Yields images labeled by brightest channel, with errors and void."""
  rng = np.random.default_rng(7)
  for i, image in enumerate(views_test.random_images(sizes)):
    label = image.argmax(-1).astype(np.uint8)
    wrong = rng.random(label.shape) < 0.2
    label[wrong] = rng.integers(0, 3, np.count_nonzero(wrong))
    label[rng.random(label.shape) < 0.1] = 255
    yield {'image': image, 'label': label, 'name': f'image {i}'}


def by_hand(items):
  """Counts the confusion matrix pixel by pixel."""
  matrix = np.zeros((4, 4), np.int64)
  for item in items:
    guess = item['image'].argmax(-1)
    for label, prediction in zip(item['label'].flat, guess.flat, strict=True):
      if label != 255:
        matrix[label, prediction] += 1
  return matrix


@pytest.mark.parametrize(
  'changes',
  [{}, {'batch_size': 1}, {'mode': 'slide'}, {'pad_multiple': 32}],
)
def test_every_pixel_counts_once(changes):
  fake = views_test.FakePredictor(views_test.channels)
  result = evaluate.evaluate_predictor(
    fake, examples(), INFO, views_test.eval_config(**changes)
  )
  np.testing.assert_array_equal(result.confusion, by_hand(examples()))
  assert result.examples == 5
  assert math.isnan(result.metrics['iou/never'])
  assert 0.5 < result.metrics['miou'] < 1
  assert 0 < result.metrics['boundary_iou'] < 1
  # 0.8 to 0.9 of an image is right; every image has the same weight.
  assert 0.5 < result.metrics['image_iou'] < 1
  assert result.metrics['image_iou'] != result.metrics['miou']


def test_miou_scored_leaves_out_unscored_classes():
  info = dataclasses.replace(INFO, unscored=('blue', 'never'))
  items = list(examples())
  result = evaluate.evaluate_predictor(
    views_test.FakePredictor(views_test.channels),
    items,
    info,
    views_test.eval_config(),
  )
  matrix = by_hand(items)[:2]
  ious = [
    matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum() - matrix[k, k])
    for k in range(2)
  ]
  assert result.metrics['miou_scored'] == pytest.approx(np.mean(ious))
  assert result.metrics['miou_scored'] > result.metrics['miou']


def test_hosts_add_up_exactly():
  config = views_test.eval_config()
  fake = views_test.FakePredictor(views_test.channels)
  items = list(examples())
  whole = evaluate.evaluate_predictor(fake, items, INFO, config)
  shares = []

  def collect(counts):
    shares.append(counts)
    return {k: sum(share[k] for share in shares) for k in counts}

  for host in range(2):
    both = evaluate.evaluate_predictor(
      fake, items[host::2], INFO, config, sum_counts=collect
    )
  assert all(x.dtype == np.int64 for share in shares for x in share.values())
  np.testing.assert_array_equal(both.confusion, whole.confusion)
  np.testing.assert_array_equal(both.boundary, whole.boundary)
  assert both.metrics == pytest.approx(whole.metrics, rel=0, nan_ok=True)
  assert both.examples == 5


def test_samples_are_the_first_images_in_order():
  result = evaluate.evaluate_predictor(
    views_test.FakePredictor(views_test.channels),
    examples(),
    INFO,
    views_test.eval_config(),
    keep_samples=2,
  )
  assert [sample.name for sample in result.samples] == ['image 0', 'image 1']
  sample = result.samples[0]
  assert sample.image.shape == (20, 31, 3)
  np.testing.assert_array_equal(sample.prediction, sample.image.argmax(-1))


def test_fixed_size_is_scored_at_the_resolution_of_the_label():
  config = views_test.eval_config()
  image = np.zeros((30, 42, 3), np.uint8)
  image[:, :21, 0] = image[:, 21:, 2] = 99
  label = image.argmax(-1).astype(np.uint8)
  item = {'image': image, 'label': label, 'name': 'halves'}
  for output in predictors.OUTPUTS:
    fake = views_test.FakePredictor(views_test.channels, output)
    predictor = predictors.fixed_size_predictor(fake, (8, 8), output)
    result = evaluate.evaluate_predictor(predictor, [item], INFO, config)
    assert result.confusion.sum() == 30 * 42
    assert result.metrics['miou'] == 1.0
    assert fake.shapes[-1] == (1, 8, 8, 3)
    fake = views_test.FakePredictor(views_test.channels, output)
    own = views_test.eval_config(mode='static', static_size=(8, 8))
    result = evaluate.evaluate_predictor(fake, [item], INFO, own)
    assert result.confusion.sum() == 30 * 42
    assert result.metrics['miou'] == 1.0
    assert fake.shapes[-1] == (1, 8, 8, 3)


@pytest.mark.parametrize(
  ('changes', 'size'),
  [
    ({'mode': 'static', 'static_size': (8, 12)}, (8, 12)),
    ({'fit': (64, 15)}, (15, 21)),
    ({}, (30, 42)),
  ],
)
def test_labels_are_resized_with_images(changes, size):
  image = np.zeros((30, 42, 3), np.uint8)
  image[:, :21, 0] = image[:, 21:, 2] = 99
  label = image.argmax(-1).astype(np.uint8)
  fake = views_test.FakePredictor(views_test.channels)
  result = evaluate.evaluate_predictor(
    fake,
    [{'image': image, 'label': label, 'name': 'halves'}],
    INFO,
    views_test.eval_config(resize_labels=True, pad_multiple=1, **changes),
    keep_samples=1,
  )
  assert fake.shapes == [(1, *size, 3)]
  assert result.confusion.sum() == size[0] * size[1]
  assert result.samples[0].label.shape == size
  assert result.samples[0].image.dtype == np.uint8
  assert result.metrics['miou'] > 0.9


@pytest.mark.parametrize(
  'changes',
  [{}, {'mode': 'slide'}, {'flip': True}, {'mode': 'static'}],
)
def test_loss_of_a_softmax(changes):
  # The true class has the logit 2, the others 0: log(1 + 2 exp(-2)).
  image = np.zeros((16, 16, 3), np.uint8)
  image[:, :8, 0] = image[:, 8:, 1] = 2
  label = image.argmax(-1).astype(np.uint8)
  label[0] = 255
  result = evaluate.evaluate_predictor(
    views_test.FakePredictor(views_test.channels),
    [{'image': image, 'label': label, 'name': 'a'}],
    INFO,
    views_test.eval_config(loss=True, **changes),
  )
  assert result.metrics['loss'] == pytest.approx(0.2395448, abs=1e-5)
  assert result.metrics['miou'] == 1.0


def _two_classes(output='logits', **changes):
  """Evaluates logits (2, 0) and (0, 2), labeled with the first class."""
  image = np.zeros((16, 16, 3), np.uint8)
  image[:, :8, 0] = image[:, 8:, 1] = 2
  label = np.zeros((16, 16), np.uint8)
  label[0] = 255
  two = dataclasses.replace(
    INFO, class_names=INFO.class_names[:2], palette=INFO.palette[:2]
  )
  fake = views_test.FakePredictor(lambda x: np.float32(x[..., :2]), output)
  return evaluate.evaluate_predictor(
    fake,
    [{'image': image, 'label': label, 'name': 'a'}],
    two,
    views_test.eval_config(loss=True, **changes),
    loss_terms=('sigmoid_cross_entropy',),
  )


@pytest.mark.parametrize('changes', [{}, {'mode': 'slide'}, {'mode': 'static'}])
def test_loss_of_sigmoids(changes):
  # (log(1 + e^-2) + log 2) / 2 in one half, (log 2 + log(1 + e^2)) / 2 in the
  # other.
  expected = (0.126928 + 2 * 0.693147 + 2.126928) / 4
  loss = _two_classes(**changes).metrics['loss']
  assert loss == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'flip': True}, r'eval.flip=True .* use \(1.0,\), False and \(\)'),
    ({'fit': (32, 16)}, r'views are averaged as probabilities'),
    ({'output': 'softmax'}, 'the model has probabilities: use eval.loss=False'),
  ],
)
def test_loss_of_sigmoids_needs_logits_of_one_view(fields, message):
  with pytest.raises(ValueError, match=message):
    _two_classes(**fields)


@pytest.mark.parametrize(
  ('item', 'message'),
  [
    (
      {'label': np.full((4, 4), 200, np.uint8)},
      'bad one: a label holds the value 200',
    ),
    (
      {'label': np.zeros((4, 5), np.uint8)},
      r'bad one: labels \(4, 5\) and predictions \(4, 4\)',
    ),
  ],
)
def test_bad_label_names_the_example(item, message):
  item = {'image': np.zeros((4, 4, 3), np.uint8), 'name': 'bad one', **item}
  fake = views_test.FakePredictor(views_test.channels)
  with pytest.raises(ValueError, match=message):
    evaluate.evaluate_predictor(fake, [item], INFO, views_test.eval_config())


def test_empty_split_is_an_error():
  fake = views_test.FakePredictor(views_test.channels)
  with pytest.raises(ValueError, match='split of toy is empty'):
    evaluate.evaluate_predictor(fake, [], INFO, views_test.eval_config())


def test_written_files_are_strict_json(tmp_path):
  result = evaluate.evaluate_predictor(
    views_test.FakePredictor(views_test.channels),
    examples(),
    INFO,
    views_test.eval_config(),
  )
  evaluate.write_result(result, tmp_path / 'eval', INFO)

  def refuse(constant):
    raise AssertionError(constant)

  read = {
    name: json.loads(
      (tmp_path / 'eval' / f'{name}.json').read_text(), parse_constant=refuse
    )
    for name in ('metrics', 'confusion')
  }
  assert read['metrics']['miou'] == result.metrics['miou']
  assert read['metrics']['iou/never'] is None
  assert read['metrics']['examples'] == 5
  assert read['confusion']['confusion'] == result.confusion.tolist()
  assert read['confusion']['class_names'] == list(INFO.class_names)
  assert sorted(p.name for p in (tmp_path / 'eval').iterdir()) == [
    'confusion.json',
    'confusion.png',
    'metrics.json',
  ]


def test_summary_is_one_line():
  result = evaluate.Result(
    {
      'miou': 0.5,
      'pixel_accuracy': 0.75,
      'mean_accuracy': 0.25,
      'boundary_iou': math.nan,
    },
    np.eye(2),
    np.ones((2, 2)),
    7,
  )
  assert evaluate.summarize_result(result) == (
    'miou 0.5000, pixel_accuracy 0.7500, mean_accuracy 0.2500, '
    'boundary_iou nan (7 images)'
  )


class FakeDataset:
  """A data set of five examples in memory."""

  info = INFO
  spec = image_format.RGB

  def prepare(self, *splits):
    del splits

  def num_examples(self, split):
    del split
    return 5

  def examples(self, split, *, host_index, host_count):
    del split, host_index, host_count
    return examples()

  def image_sizes(self, split, *, host_index, host_count):
    del split, host_index, host_count
    return views_test.SIZES


class Run:
  """Replaces loading of a run, so that none need be trained."""

  def __init__(self, monkeypatch, classes=INFO.class_names, loss=None):
    fake = views_test.FakePredictor(views_test.channels)
    self.tflite = views_test.FakePredictor(
      views_test.channels, input_size=(16, 16)
    )
    self.tflite.card = {'classes': list(classes)}
    self.tflite.path = pathlib.Path('x/int8.tflite')
    config = views_test.ConfigDict(
      {
        'eval': views_test.eval_config(loss=loss is not None),
        'loss': {'terms': (loss or 'cross_entropy',)},
        'data': {'eval_split': 'val'},
      }
    )
    loaded = evaluate.workdir_lib.TrainedModel(
      config, FakeDataset(), {}, 3, 0.5
    )
    patch = monkeypatch.setattr
    patch(
      evaluate.workdir_lib, 'load_trained_model', lambda workdir, which: loaded
    )
    patch(evaluate, 'checkpoint_predictor', lambda loaded, stride=0: fake)
    patch(evaluate.load, 'load_predictor', lambda path: self.tflite)


def test_a_run_is_evaluated_into_its_folder(monkeypatch, tmp_path):
  Run(monkeypatch)
  results = evaluate.evaluate_workdir(str(tmp_path))
  np.testing.assert_array_equal(
    results['checkpoint'].confusion, by_hand(examples())
  )
  assert (tmp_path / 'eval' / 'checkpoint' / 'metrics.json').is_file()


def test_another_protocol_has_a_folder_of_its_own(tmp_path):
  run = voc_resnet.get_config('r50').unlock()
  run.data.root, run.data.eval_split = '/VOC', 'mine'
  page = voc_resnet.get_config('r50,ms').unlock()
  page.data.augment.fill = (1.0, 2.0, 3.0)
  config = evaluate._override_eval_and_data(run, page, ())
  assert (config.data.root, config.data.eval_split) == ('/VOC', 'mine')
  assert config.eval.flip and len(config.eval.scales) == 6
  assert evaluate._protocol_suffix(config, run) == (
    '_x0.5_0.75_1_1.25_1.5_1.75_flip'
  )
  assert evaluate._protocol_suffix(run, run) == ''
  # Overrides of the command line apply.
  config = evaluate._override_eval_and_data(
    run, page, {'data.eval_split', 'seed'}
  )
  assert (config.data.root, config.data.eval_split) == ('/VOC', 'val')
  assert evaluate._protocol_suffix(config, run).startswith('_val_x0.5')
  # Another data set comes from the given config.
  page.data.root, page.data.name = str(tmp_path), 'shapes'
  config = evaluate._override_eval_and_data(run, page, ())
  assert config.data.root == str(tmp_path)
  assert evaluate._protocol_suffix(config, run).startswith('_shapes_val_x0.5')


def test_a_run_is_evaluated_with_the_loss_of_its_training(
  monkeypatch, tmp_path
):
  losses = {}
  for name in ('cross_entropy', 'focal', 'sigmoid_cross_entropy'):
    Run(monkeypatch, loss=name)
    results = evaluate.evaluate_workdir(str(tmp_path))
    losses[name] = results['checkpoint'].metrics['loss']
  assert losses['focal'] == losses['cross_entropy']
  logits = np.concatenate(
    [
      views_test.channels(x['image'][None])[0][x['label'] != 255]
      for x in examples()
    ]
  ).astype(np.float64)
  labels = np.concatenate([x['label'][x['label'] != 255] for x in examples()])
  signs = np.where(labels[:, None] == np.arange(3), -1.0, 1.0)
  by_hand = np.log1p(np.exp(np.minimum(signs * logits, 500))).mean()
  assert losses['sigmoid_cross_entropy'] == pytest.approx(by_hand, rel=1e-5)
  assert losses['cross_entropy'] != pytest.approx(by_hand, rel=1e-2)


def test_a_file_is_compared_at_its_size_and_output(monkeypatch, tmp_path):
  run = Run(monkeypatch)
  for run.tflite.output in ('logits', 'argmax'):
    results = evaluate.evaluate_workdir(str(tmp_path), tflite='x/int8.tflite')
    assert list(results) == ['checkpoint_16x16', 'int8']
    # The same function in both: only one protocol gives equal counts.
    np.testing.assert_array_equal(
      results['checkpoint_16x16'].confusion, results['int8'].confusion
    )
    assert (tmp_path / 'eval' / 'int8' / 'confusion.png').is_file()


def test_a_file_with_other_classes_is_rejected(monkeypatch, tmp_path):
  Run(monkeypatch, classes=('cat', 'dog'))
  with pytest.raises(ValueError, match='was not exported from it'):
    evaluate.evaluate_workdir(str(tmp_path), tflite='int8.tflite')


def test_another_data_set_keeps_the_normalization():
  run, other = common.default_config(), common.default_config()
  other.data.mean, other.data.eval_split = (1.0, 2.0, 3.0), 'test'
  other.data.depth = 16
  other.eval.flip = True
  run.data.name, other.data.name = 'folder', 'shapes'
  run.data.root = other.data.root = '/there'
  both = evaluate._override_eval_and_data(run.lock(), other.lock(), ())
  assert both.data.mean == (123.675, 116.28, 103.53)
  assert both.data.depth == 8
  assert (both.data.eval_split, both.eval.flip) == ('test', True)
  assert (run.data.eval_split, run.eval.flip) == ('val', False)
  assert other.data.mean == (1.0, 2.0, 3.0)


def test_single_view_config():
  config = common.default_config().eval
  config.flip, config.mode, config.scales = True, 'slide', (0.5, 1.0)
  config.fit = (2048, 512)
  one = evaluate.single_view_config(config)
  assert (one.flip, one.mode, one.scales) == (False, 'whole', (1.0,))
  assert one.fit == ()
  assert config.mode == 'slide'


def test_an_exported_file_is_evaluated_alone(tmp_path, monkeypatch):
  """At its own size, in one view; results are named after the file."""
  run = Run(monkeypatch)
  run.tflite.image_spec = image_format.RGB
  monkeypatch.setattr(datasets, 'resolve_config', lambda config: config)
  monkeypatch.setattr(datasets, 'Dataset', lambda data: FakeDataset())
  config = views_test.ConfigDict(
    {
      'eval': views_test.eval_config(scales=(0.5, 1.0), flip=True),
      'data': {'eval_split': 'val'},
      'loss': {'terms': ('cross_entropy',)},
    }
  )
  results = evaluate.evaluate_file('x/int8.tflite', str(tmp_path), config)
  assert list(results) == ['int8']
  assert results['int8'].examples == 5
  written = json.loads((tmp_path / 'eval/int8/metrics.json').read_text())
  assert written['miou'] == results['int8'].metrics['miou']
  run.tflite.card = {'classes': ['a', 'b', 'c', 'd', 'e', 'f', 'g']}
  with pytest.raises(ValueError, match=r'int8\.tflite has 7 classes and takes'):
    evaluate.evaluate_file('x/int8.tflite', str(tmp_path), config)


@pytest.mark.parametrize('max_padding', [0.0, 0.15])
def test_two_hundred_sizes_run_exactly_or_in_few_canvases(max_padding, caplog):
  """Like VOC at a fifth, without padding to the stride."""
  shorter = np.random.default_rng(0).integers(60, 101, 200).tolist()
  sizes = [(n, 100) if n % 4 else (100, n) for n in shorter]
  items = list(examples(sizes))
  fake = views_test.FakePredictor(views_test.channels)
  with caplog.at_level('INFO'):
    result = evaluate.evaluate_predictor(
      fake,
      items,
      INFO,
      views_test.eval_config(pad_multiple=1, max_padding=max_padding),
      image_sizes=lambda: sizes,
    )
  computed = {shape[1:3] for shape in fake.shapes}
  if max_padding:
    assert len(computed) <= 4
    assert '--config.eval.max_padding' not in caplog.text
  else:
    assert computed == set(sizes)
    assert caplog.text.count('--config.eval.max_padding=0.15 makes them') == 1
  assert f'The network ran at {len(computed)} sizes' in caplog.text
  # The network looks at single pixels: padding changes nothing.
  guesses = np.concatenate([x['image'].argmax(-1).ravel() for x in items])
  labels = np.concatenate([x['label'].ravel() for x in items])
  counts = np.bincount((4 * labels.astype(int) + guesses)[labels != 255])
  np.testing.assert_array_equal(
    result.confusion, np.pad(counts, (0, 16 - len(counts))).reshape(4, 4)
  )
