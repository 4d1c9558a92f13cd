import numpy as np

from deeplab.quantization import qparams
from deeplab.quantization import rules

RULES = rules.Rules()


def _steps(kernel):
  """Returns the integers of a kernel, with one scale for each channel."""
  scale = np.abs(kernel).max((0, 1, 2)).astype(np.float64) / 127
  steps = kernel.astype(np.float64) / np.float32(scale)
  return np.sign(steps) * np.floor(np.abs(steps) + 0.5)


def _halfway_kernel():
  """Returns a kernel whose weights lie halfway between two steps."""
  rng = np.random.default_rng(0)
  halves = rng.integers(-120, 120, (3, 3, 16, 8)) + 0.5
  halves[0, 0, 0] = 127
  return (halves * rng.uniform(1e-3, 1e-1, 8) / 127).astype(np.float32)


def test_folding_moves_no_rounded_weight():
  kernel = _halfway_kernel()
  factor = np.float32(1) + np.linspace(-0.01, 0.01, 8, dtype=np.float32)
  snapped = qparams.round_kernels(
    {'params': {'conv': {'kernel': kernel}}, 'x': 1}, RULES
  )
  assert snapped['x'] == 1
  found = snapped['params']['conv']['kernel']
  np.testing.assert_array_equal(_steps(found), _steps(kernel))
  np.testing.assert_array_equal(_steps(found * factor), _steps(kernel))
  # Without it some do.
  assert (_steps(kernel * factor) != _steps(kernel)).mean() > 0.01


def test_float_layers_are_not_rounded():
  params = {
    'head': {'kernel': _halfway_kernel(), 'bias': np.ones(8, np.float32)}
  }
  float_head = rules.Rules(float_layers='head')
  found = qparams.round_kernels({'params': params}, float_head)
  np.testing.assert_array_equal(
    found['params']['head']['kernel'], params['head']['kernel']
  )
  found = qparams.round_kernels({'params': params}, RULES)['params']['head']
  assert (found['kernel'] != params['head']['kernel']).any()
  np.testing.assert_array_equal(found['bias'], params['head']['bias'])
