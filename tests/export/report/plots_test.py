import numpy as np
import pytest

from export.report import plots

TIMELINE = {
  'bytes': [1024, 4096, 2048],
  'operators': ['CONV_2D', 'ADD'],
}


def test_memory_plot_has_a_line_for_small_ram():
  free = plots.plot_memory(TIMELINE, 4096, None)
  full = plots.plot_memory(TIMELINE, 4096, 6000)
  roomy = plots.plot_memory(TIMELINE, 4096, 10**9)
  assert free.shape == full.shape == (400, 1000, 3)
  assert (free != full).any()
  np.testing.assert_array_equal(free, roomy)  # far above the plot


@pytest.mark.parametrize('scores', [True, False])
def test_error_plots_of_scores_and_class_ids(scores):
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (24, 32, 3)).astype(np.float32)] * 2
  shape = (24, 32, 4) if scores else (24, 32)
  kind = np.float32 if scores else np.uint8
  expected = [rng.integers(0, 4, shape).astype(kind) for _ in images]
  same = plots.plot_errors(images, expected, expected)
  other = plots.plot_errors(images, expected, expected[::-1])
  assert same.shape == other.shape
  assert (same != other).mean() > 0.01


def test_overlays_have_one_row_per_image():
  image = np.full((40, 60, 3), 90, np.uint8)
  mask = np.zeros((40, 60), np.uint8)
  mask[:, 30:] = 1
  rows = [(image, [('JAX', mask), ('label', 1 - mask)])]
  palette = [(255, 0, 0), (0, 0, 255)]
  one = plots.draw_overlays(rows, ['a', 'b'], palette)
  two = plots.draw_overlays(rows * 2, ['a', 'b'], palette)
  assert one.shape[1] == two.shape[1] == 2 * 328 + 8
  assert two.shape[0] - one.shape[0] == 240 + 30
  left, right = one[120, 60], one[120, 260]
  assert left[0] > left[2]  # red
  assert right[2] > right[0]  # blue
