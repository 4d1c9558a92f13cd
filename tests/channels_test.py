"""Every command on TIFF files with four channels of 16 bits."""

import json
import os

import jax
import numpy as np
from PIL import Image
import pytest
import tifffile

from configs import folder_mnv2
from deeplab import describe
from deeplab import evaluate
from deeplab import predict
from deeplab import train
from deeplab.data import image_format
from deeplab.inference import model_card
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from tests import helpers

SIZE = (64, 64)


def write(split, count, seed):
  """Writes pairs whose classes differ in the fourth channel only."""
  rng = np.random.default_rng(seed)
  for name in ('images', 'labels'):
    (split / name).mkdir(parents=True)
  for i in range(count):
    label = np.kron(rng.integers(0, 2, (2, 2)), np.ones((32, 32), int))
    image = rng.integers(0, 40_000, (*SIZE, 4))
    image[..., 3] = image[..., 3] // 4 + 50_000 * label
    tifffile.imwrite(
      split / f'images/{i}.tif',
      image.astype(np.uint16),
      photometric='minisblack',
      planarconfig='contig',
    )
    Image.fromarray(label.astype(np.uint8)).save(split / f'labels/{i}.png')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Trains; returns (folder of run, data and export, metrics)."""
  folder = tmp_path_factory.mktemp('channels')
  write(folder / 'raw/train', 12, 0)
  write(folder / 'raw/val', 4, 1)
  c = folder_mnv2.get_config('smoke').unlock()
  c.data.root, c.data.data_dir = str(folder / 'raw'), str(folder / 'prepared')
  c.data.mean, c.data.std = (20_000.0,) * 4, (15_000.0,) * 4
  c.data.depth = 16
  c.data.augment.ops = ('random_flip',)
  c.total_steps, c.eval.every_epochs = 40, 20.0
  c.ema_decay = 0.0
  c.schedule.warmup_steps = 0
  c.checkpoint.every_steps = c.log_every_steps = 40
  metrics = train.train(c.lock(), str(folder / 'run'))
  return folder, metrics


@pytest.fixture(scope='module')
def exported(run):
  folder, _ = run
  source = source_lib.load_trained(str(folder / 'run'), 'latest')
  formats = 'float32', 'int8', 'int8_litert'
  request = request_lib.make_request(
    formats=formats, input_size=SIZE, num_classes=2
  )
  return pipeline.export_model(
    source,
    request,
    str(folder / 'export'),
    num_calibration_images=12,
    evaluate_files=True,
    eval_limit=0,
  )


def test_training_uses_the_fourth_channel(run):
  folder, metrics = run
  print(f'mIoU {metrics["miou"]:.4f}')
  assert metrics['miou'] > 0.7  # 0.41 if every pixel has the same class
  results = evaluate.evaluate_workdir(str(folder / 'run'), which='latest')
  assert results['checkpoint'].metrics['miou'] == metrics['miou']


def test_prediction_reads_tiff_files(run, tmp_path):
  folder, _ = run
  segmenter = predict.load_segmenter(str(folder / 'run'), 'latest')
  assert segmenter.image_spec == image_format.ImageSpec(4, 16)
  images = folder / 'raw/val/images'
  assert predict.predict_files(segmenter, images, tmp_path, 0.5) == []
  agree = []
  for path in sorted(images.iterdir()):
    mask = np.asarray(Image.open(tmp_path / f'masks/{path.stem}.png'))
    agree.append((mask == (tifffile.imread(path)[..., 3] >= 50_000)).mean())
    with Image.open(tmp_path / f'overlays/{path.stem}.jpg') as overlay:
      assert overlay.size == (64, 64)
      assert np.ptp(np.asarray(overlay).mean(-1)) > 50  # not black
  assert np.mean(agree) > 0.85
  Image.new('RGB', (64, 64)).save(tmp_path / 'photo.png')
  with pytest.raises(ValueError, match=r'photo\.png: image of .* 4 channels'):
    segmenter.predict(tmp_path / 'photo.png')
  with pytest.raises(ValueError, match=r'an image is uint16 \[H, W, 4\], not'):
    segmenter.predict(np.zeros((64, 64, 4), np.uint8))


def test_exported_files_take_four_channels(run, exported):
  folder, metrics = run
  float32, int8 = (exported['formats'][k] for k in ('float32', 'int8'))
  assert float32['miou'] == pytest.approx(metrics['miou'], abs=1e-3)
  assert float32['parity']['max_abs_difference'] < 1e-3
  print(f'int8: {int8["miou_difference_points"]:+.2f} points')
  assert int8['miou_difference_points'] > -5
  assert '256 levels over the whole range' in ' '.join(exported['notes'])
  card = model_card.read_card(folder / 'export/int8.tflite')
  assert (card['channels'], card['depth']) == (4, 16)
  assert card['value_range'] == [0, 65535]
  assert card['mean'] == [20_000.0] * 4
  assert card['input']['shape'] == [1, 64, 64, 4]
  assert card['input']['values'].startswith('4 channels in 0..65535, quantized')
  assert card['input']['quantization'] == {'scale': 257.0, 'zero_point': 0}


def test_simulated_int8_takes_four_channels(exported):
  found = exported['formats']['int8_litert']
  assert found['input']['shape'] == [1, 64, 64, 4]
  assert found['input']['quantization'] == {'scale': 257.0, 'zero_point': 0}
  reference = found['simulation']['beside']['reference']
  assert reference['within_one'] >= 0.998
  assert reference['argmax_agreement'] >= 0.999
  assert found['miou_difference_points'] > -5


@pytest.mark.usefixtures('exported')
def test_exported_files_are_evaluated_and_predict(run):
  folder, _ = run
  file = folder / 'export/int8.tflite'
  results = evaluate.evaluate_workdir(
    str(folder / 'run'), tflite=str(file), which='latest'
  )
  miou = results['int8'].metrics['miou']
  assert miou == json.loads(file.with_suffix('.json').read_text())['miou']
  image = folder / 'raw/val/images/0.tif'
  ours = predict.load_segmenter(str(folder / 'run'), 'latest').predict(image)
  theirs = predict.from_tflite(folder / 'export/float32.tflite').predict(image)
  assert np.mean(ours == theirs) > 0.999
  assert os.listdir(folder / 'run/eval/int8')


def test_gray_images_are_traced_and_exported_untrained(monkeypatch):
  c = folder_mnv2.get_config('smoke').unlock()
  c.data.mean, c.data.std = (120.0,), (60.0,)
  state, batch = describe.abstract_step_inputs(helpers.network(c, 2), (65, 65))
  assert state.params['encoder']['stem']['conv']['kernel'].shape[2] == 1
  assert batch['image'].shape == (4, 65, 65, 1)
  # Shapes are enough.
  jit = lambda f: lambda *arguments: jax.eval_shape(f, *arguments)
  monkeypatch.setattr(source_lib.jax, 'jit', jit)
  source = source_lib.init_untrained(c)
  kernel = source.variables['params']['encoder']['stem']['conv']['kernel']
  assert kernel.shape[2] == 1
  (image,) = source_lib.parity_images(source, SIZE, 1, 'synthetic')
  assert image.shape == (64, 64, 1)
  assert image.dtype == np.uint8
  (image,) = source_lib.calibration_images(source, SIZE, 1)
  assert image.shape == (64, 64, 1)
