import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.models import resizing


def random(*shape, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal(shape).astype(np.float32)


def interpolate(x, size, align_corners):
  """Bilinear interpolation by its definition, in float64."""

  def positions(n_in, n_out):
    for i in range(n_out):
      if align_corners:
        at = i * (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
      else:
        at = (i + 0.5) * n_in / n_out - 0.5
      at = min(max(at, 0.0), n_in - 1.0)
      low = int(at)
      yield i, low, min(low + 1, n_in - 1), at - low

  x = x.astype(np.float64)
  out = np.zeros((x.shape[0], *size, x.shape[3]))
  for i, top, bottom, v in positions(x.shape[1], size[0]):
    for j, left, right, h in positions(x.shape[2], size[1]):
      above = (1 - h) * x[:, top, left] + h * x[:, top, right]
      below = (1 - h) * x[:, bottom, left] + h * x[:, bottom, right]
      out[:, i, j] = (1 - v) * above + v * below
  return out


def test_literal():
  x = np.array([0, 4], np.float32).reshape(1, 1, 2, 1)
  half = np.asarray(resizing.resize(x, (1, 4))).ravel().tolist()
  assert half == [0, 1, 3, 4]
  corners = np.asarray(resizing.resize(x, (1, 5), align_corners=True))
  assert corners.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('size', [(9, 14), (3, 2), (1, 1)])
def test_equals_the_definition(size, align_corners):
  x = random(2, 5, 7, 3)
  y = resizing.resize(jnp.asarray(x), size, align_corners)
  assert y.shape == (2, *size, 3)
  np.testing.assert_allclose(
    y, interpolate(x, size, align_corners), rtol=0, atol=1e-6
  )


def test_same_size_returns_the_input():
  x = jnp.ones((1, 3, 4, 1))
  assert resizing.resize(x, (3, 4)) is x


@pytest.mark.parametrize('align_corners', [False, True])
def test_gradient_is_the_transpose(align_corners):
  x, cotangent = random(1, 3, 4, 2), random(1, 7, 6, 2, seed=1)
  loss = lambda x: jnp.vdot(
    resizing.resize(x, (7, 6), align_corners), cotangent
  )
  gradient = jax.jit(jax.grad(loss))(x)
  basis = np.eye(x.size, dtype=np.float32).reshape(x.size, 3, 4, 2)
  expected = [
    (interpolate(unit[None], (7, 6), align_corners) * cotangent).sum()
    for unit in basis
  ]
  np.testing.assert_allclose(gradient.ravel(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
  ('start', 'end', 'ratio', 'aligned', 'expected'),
  [
    (16, 256, 0, False, [256]),
    (16, 256, 16, False, [256]),
    (16, 256, 8, False, [64, 256]),
    (16, 256, 4, False, [64, 256]),
    (16, 256, 2, False, [32, 64, 128, 256]),
    (64, 256, 2, False, [128, 256]),
    (17, 257, 2, True, [33, 65, 129, 257]),
    (65, 257, 2, True, [129, 257]),
    (17, 257, 4, False, [66, 257]),
    (17, 257, 8, False, [66, 257]),
    (16, 24, 2, False, [24]),
    (1, 16, 2, True, [16]),
    (9, 1, 2, True, [1]),
    (5, 5, 2, False, [5]),
  ],
)
def test_sizes(start, end, ratio, aligned, expected):
  actual = resizing.stage_sizes((start, 7), (end, 7), aligned, ratio)
  assert actual == [(size, 7) for size in expected]
  actual = resizing.stage_sizes((7, start), (7, end), aligned, ratio)
  assert actual == [(7, size) for size in expected]


def test_the_largest_ratio_decides_the_stages():
  assert resizing.stage_sizes((4, 4), (8, 64), False, 4) == [(6, 16), (8, 64)]


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('limit', [2, 4])
def test_no_stage_exceeds_the_limit(limit, aligned):
  """The number of stages is minimal; an axis of one pixel does not count."""
  for start in range(1, 30):
    for end in (*range(start, 40), *range(40, 700, 13), 458, 248, 317, 185):
      other = 40
      found = resizing.stage_sizes((start, other), (end, other), aligned, limit)
      before = (start, other)
      for size in found:
        grown = resizing.axis_ratios(before, size, aligned)
        assert max(grown) <= limit, (start, end, found)
        before = size
      assert before == (end, other)
      offset = int(aligned)
      reach = (start - offset) * limit ** (len(found) - 1) + offset
      assert len(found) == 1 or reach < end


def test_one_pixel_axis_beside_a_growing_axis():
  assert resizing.stage_sizes((1, 8), (32, 64), False, 2) == [
    *((32, 16), (32, 32), (32, 64)),
  ]


def test_resize_in_stages():
  """Half-pixel centers, from 2 pixels to 4 to 8, by hand."""
  x = jnp.array([0.0, 8.0]).reshape(1, 1, 2, 1)
  once = resizing.resize_in_stages(x, (1, 8), False, 0).ravel().tolist()
  assert once == [0, 0, 1, 3, 5, 7, 8, 8]
  twice = resizing.resize_in_stages(x, (1, 8), False, 2).ravel().tolist()
  # 0 2 6 8, and quarters between them.
  assert twice == [0, 0.5, 1.5, 3, 5, 6.5, 7.5, 8]
