"""The published networks are one function at output strides 8, 16 and 32.

The same weights give the same features where the grids meet: see
`encoders/contract.py`. Each family's own test says so of a tiny one.
"""

import pytest

from deeplab.models import registry
from tests.models.encoders import encoder_cases

# Where padding is not symmetric, sizes must be 1 modulo 32.
ODD, ANY = (33, 65), (50, 64)
SLIM = {'alpha': 0.5, 'rounding': 'slim', 'padding': 'same'}
BETA = {'stem': 'beta', 'stride_unit': 'last'}


@pytest.mark.full
@pytest.mark.parametrize(
  ('name', 'fields', 'size'),
  [
    ('mobilenet_v2', SLIM, ODD),
    ('mobilenet_v2', {'padding': 'keras'}, ODD),
    ('mobilenet_v2', {}, ANY),
    ('mobilenet_v3_large', {}, ANY),
    ('mobilenet_v3_large_seg', {}, ODD),
    ('mobilenet_v3_small', {}, ANY),
    ('mobilenet_v3_small_seg', {}, ODD),
    ('regnetx_400mf', {}, ANY),
    ('regnetx_3_2gf', {}, ANY),
    ('resnet_18', {}, ANY),
    ('resnet_18', {'stem': 'v1c', 'stride_unit': 'last'}, ANY),
    ('resnet_50', {}, ANY),
    ('resnet_50', {'stem': 'v1c'}, ANY),
    ('resnet_50', {'stem': 'beta'}, ANY),
    ('resnet_50', BETA, ANY),
    ('shufflenet_v2', {}, ANY),
    ('ghostnet', {}, ANY),
    ('xception_41', {}, ANY),
    ('xception_65', {}, ANY),
    ('xception_71', {}, ANY),
    ('xception_keras', {}, ODD),
    ('xception_keras', {'padding': 'symmetric'}, ANY),
  ],
)
def test_published(name, fields, size):
  """Gates are constant, since the means of other grids differ."""
  encoder = lambda output_stride: registry.ENCODERS[name](
    output_stride, **fields
  )
  weights = encoder_cases.constant_gates(encoder_cases.variables(encoder(32)))
  x = encoder_cases.images(*size)
  coarse = encoder_cases.features(encoder(32), weights, x)
  assert all(f.std() > 1e-2 for f in coarse)
  for output_stride in (8, 16):
    fine = encoder_cases.features(encoder(output_stride), weights, x)
    encoder_cases.assert_subsampled(fine, coarse, output_stride, atol=1e-4)
