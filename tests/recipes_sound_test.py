"""What every recipe computes with: sizes, pixels, losses and rates."""

import numpy as np
import pytest

from deeplab.data import catalog
from deeplab.data.augmentation import compose
from deeplab.inference import views
from deeplab.training import losses
from deeplab.training import optimizers
from tests import configs_test


class Watcher:
  """A predictor of nothing, which keeps what it is asked about."""

  input_size = batch_size = None
  mean = (0.0, 0.0, 0.0)
  output = 'logits'

  def with_output(self, output):
    del output
    return self

  def __call__(self, images):
    self.images = images
    return np.zeros((*images.shape[:3], 2), np.float32)


@pytest.mark.parametrize(
  ('module', 'variant'),
  [
    ('cityscapes_erfnet', ''),
    ('cityscapes_lite', ''),
    ('person_mnv2', ''),
    ('voc_mnv2_cut', ''),
  ],
)
def test_static_sizes_show_the_same_pixels_to_training(module, variant):
  config = configs_test.get(module, variant).unlock()
  image = np.random.default_rng(0).integers(0, 256, (1200, 1700, 3), np.uint8)
  watcher = Watcher()
  views.segment_images(watcher, [image], config.eval)
  augmented = config.data.augment
  augmented.ops = ('stretch',)

  def distance():
    transform = compose.compose_ops(augmented, config.data.mean)
    example = {'image': image, 'label': np.zeros(image.shape[:2], np.uint8)}
    made = transform(example, np.random.default_rng(0))
    return np.abs(made['image'] - watcher.images[0]).max()

  assert distance() <= 1.0  # levels; OpenCV rounds those of uint8
  augmented.shrink = 'area'
  assert distance() > 20.0


@pytest.mark.parametrize(('module', 'variant'), configs_test.CASES)
def test_examples_have_the_size_that_the_step_is_traced_at(module, variant):
  config = configs_test.get(module, variant)
  size = compose.fixed_output_size(config.data.augment)
  transform = compose.compose_ops(config.data.augment, config.data.mean)
  rng = np.random.default_rng(0)
  example = {
    'image': rng.integers(0, 256, (90, 131, 3)).astype(np.uint8),
    'label': rng.integers(0, 2, (90, 131)).astype(np.uint8),
  }
  made = transform(example, rng)
  if config.data.name == 'shapes' and size is None:
    size = 90, 131  # all are drawn at one size
  assert made['label'].shape == size
  assert made['image'].shape == (*size, 3)
  assert made['image'].dtype == made['label'].dtype == np.uint8


@pytest.mark.parametrize(('module', 'variant'), configs_test.CASES)
def test_lengths_losses_and_rates_are_sound(module, variant):
  config = configs_test.get(module, variant)
  info = catalog.info_for(config.data)
  losses.build_loss(config.loss, info.num_classes, 255)
  total = config.total_steps or round(config.epochs * 100)
  warmup = optimizers.warmup_steps(config, total)
  assert warmup <= total // 2
  rate = optimizers.build_schedule(
    config.schedule, config.optimizer.learning_rate, total, warmup
  )
  top = max(float(rate(t)) for t in range(0, total, max(total // 50, 1)))
  assert top <= config.optimizer.learning_rate * (1 + 1e-6)
  assert top > 0.5 * config.optimizer.learning_rate
  assert float(rate(total - 1)) <= top
