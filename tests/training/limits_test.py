"""Checks of batch size, steps, intervals and the seed."""

from ml_collections import ConfigDict
import pytest

from configs import common
from deeplab import train
from deeplab.training import limits
from export import source


def config(**fields):
  c = {'batch_size': 7, 'accumulate_steps': 1, 'total_steps': 0, 'epochs': 2.5}
  parts = {
    'data': {'train_split': 'train'},
    'model': {'frozen_norms': False},
    'quantization': {'name': 'none', 'frozen_norms': True},
  }
  return ConfigDict(c | parts | fields)


def test_partial_batches_end_an_epoch():
  assert limits.total_steps(config(), 100) == 35
  assert limits.total_steps(config(), 7) == 2
  assert limits.total_steps(config(total_steps=9), 100) == 9


def test_runs_without_steps_are_refused():
  with pytest.raises(ValueError, match=r"=7 is more than the 6 .* 'train'"):
    limits.total_steps(config(), 6)
  with pytest.raises(ValueError, match=r'epochs=0\.01 of 100 .* less than one'):
    limits.total_steps(config(epochs=0.01), 100)


@pytest.mark.parametrize(
  'name', ['batch_size', 'accumulate_steps', 'eval.every_epochs']
)
def test_counts_are_positive(name):
  c = common.default_config()
  limits.check_positive(c)
  c.update_from_flattened_dict({name: 0})
  with pytest.raises(ValueError, match=rf'^config\.{name}=0(\.0)? must be gr'):
    limits.check_positive(c)


@pytest.mark.parametrize('seed', [-1, 2**63, 12345678901234567890])
def test_seeds_are_those_of_every_generator(seed):
  limits.check_seed(2**63 - 1)
  with pytest.raises(
    ValueError, match=rf'config\.seed={seed} is not in 0\.\.9223372036854775807'
  ):
    limits.check_seed(seed)
  c = common.default_config()
  c.seed = seed
  with pytest.raises(ValueError, match=r'config\.seed='):
    train.check_config(c)
  with pytest.raises(ValueError, match=r'config\.seed='):
    source.init_untrained(c)


def test_batch_norm_needs_two_images():
  limits.check_batch_size(config(batch_size=2), False)
  with pytest.raises(ValueError, match=r'a single image, .* raise batch_size'):
    limits.check_batch_size(config(batch_size=7, accumulate_steps=4), False)
  limits.check_batch_size(config(batch_size=1), True)
