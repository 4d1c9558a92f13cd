import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import folder_mnv2
from deeplab.models import registry
from experiments import atrous


def test_taps_of_a_pyramid():
  one, near, far = atrous.sampling_masks((0, 1, 6), 11)
  assert np.argwhere(one).tolist() == [[5, 5]]
  assert near[4:7, 4:7].all() and near.sum() == 9
  assert np.argwhere(far).tolist() == [[5, 5]]  # the others lie outside


def test_a_field_is_as_wide_at_every_output_stride():
  # Kernels of 3 whose neighbors lie 1, 2, 4 and 8 pixels away: 31 in all.
  fields = [
    atrous.receptive_field((2, 2, 2, 1), stride, 81) for stride in (4, 8)
  ]
  for line in fields:
    assert line.sum() == pytest.approx(1)
    assert np.flatnonzero(line)[[0, -1]].tolist() == [25, 55]
  np.testing.assert_allclose(*fields)


def test_a_coarse_map_is_every_second_of_the_fine_one():
  config = folder_mnv2.get_config('smoke').model
  with config.unlocked():
    config.encoder.padding = 'symmetric'
  variables = registry.build_model(config, 2).init(
    jax.random.key(0), jnp.zeros((1, 33, 33, 3))
  )
  image = np.random.default_rng(0).normal(size=(33, 33, 3))
  coarse, fine = atrous.encode_at_output_strides(
    config, variables, image.astype(np.float32), (16, 8)
  )
  assert coarse.shape[:2] == (3, 3) and fine.shape[:2] == (5, 5)
  np.testing.assert_allclose(fine[::2, ::2], coarse, atol=1e-5)


def test_heat_is_dark_where_nothing_is():
  picture = atrous.heatmap_colors(np.array([[0.0, 2.0]]))
  assert picture.dtype == np.uint8 and picture.shape == (1, 2, 3)
  assert picture[0, 0].sum() < 30 < picture[0, 1].sum()
