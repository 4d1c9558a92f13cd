"""Logits equal torchvision's under a strict mapping of random weights."""

import re

import flax
import jax
import numpy as np
import pytest

from deeplab.models.heads import deeplabv3
from deeplab.models.heads import fcn
from deeplab.models.heads import lraspp
from tests import torchvision_module
from tests.models.heads import cases

BN = {
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


@pytest.fixture(scope='module')
def torch():
  return torchvision_module.load()[0]


def modules(torch):
  del torch  # a test that asks for it has been skipped where it is absent
  from torchvision.models import segmentation

  return segmentation


def name_of(path, names):
  """Returns torch's name of a variable.

  Args:
    path: ours, without the collection.
    names: pairs of a pattern for the path of one of our modules and the names
      of torch's convolution and BatchNorm.
  """
  *module, leaf = path
  norm = module[-2:] == ['norm', 'bn']
  kind = '/norm/bn' if norm else '/conv'
  module = '/'.join(module).removesuffix(kind)
  for pattern, conv, bn in names:
    match = re.fullmatch(pattern, module)
    if match:
      torch_name = match.expand(bn if norm else conv)
      return f'{torch_name}.{BN[leaf] if norm else LEAVES[leaf]}'
  raise ValueError(f'{"/".join(path)} has no counterpart')


LEAVES = {'kernel': 'weight', 'bias': 'bias'}


def load(torch, module, variables, names, pooled_last=None):
  """Copies every variable; raises unless both sides are used up."""
  state = {
    name: value
    for name, value in module.state_dict().items()
    if name.endswith('num_batches_tracked')
  }
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    name = name_of(path[1:], names)
    assert name not in state
    projection = path[1:] == ('aspp', 'projection', 'conv', 'kernel')
    if projection and pooled_last is not None:
      # Ours reads the pooled branch first.
      value = np.roll(value, -pooled_last, axis=2)
    if path[-1] == 'kernel':
      value = value.transpose(3, 2, 0, 1)
    state[name] = torch.from_numpy(np.ascontiguousarray(value))
  module.load_state_dict(state, strict=True)
  return module.eval()


def nchw(torch, x):
  return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def compare(torch, head, variables, maps, module, inputs):
  """Asserts equal logits; `inputs` goes to torch's module."""
  with torch.no_grad():
    expected = module(inputs).numpy().transpose(0, 2, 3, 1)
  (actual,) = jax.jit(head.apply, static_argnums=2)(variables, maps, False)
  assert expected.std() > 1e-2
  np.testing.assert_allclose(
    actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
  )


def test_deeplabv3(torch, random_variables):
  head = deeplabv3.DeepLabV3(
    num_classes=5, rates=(12, 24, 36), refine='dense', aspp_dropout=0.5
  )
  # Large enough for each rate to have taps inside, and others outside.
  maps = cases.features((1, 12), [(8, 8), (41, 39)], seed=0)
  variables = random_variables(head, maps, False)
  names = (
    ('aspp/conv', '0.convs.0.0', '0.convs.0.1'),
    ('aspp/atrous0', '0.convs.1.0', '0.convs.1.1'),
    ('aspp/atrous1', '0.convs.2.0', '0.convs.2.1'),
    ('aspp/atrous2', '0.convs.3.0', '0.convs.3.1'),
    ('aspp/pool', '0.convs.4.1', '0.convs.4.2'),
    ('aspp/projection', '0.project.0', '0.project.1'),
    ('aspp/refine', '1', '2'),
    ('classifier', '4', ''),
  )
  module = modules(torch).deeplabv3.DeepLabHead(12, 5)
  load(torch, module, variables, names, pooled_last=256)
  compare(torch, head, variables, maps, module, nchw(torch, maps[-1]))


@pytest.mark.parametrize(('channels', 'width'), [(40, 10), (12, 3)])
def test_fcn(channels, width, torch, random_variables):
  head = fcn.FCN(num_classes=5, stage=0, channels=width)
  maps = cases.features((channels,), [(11, 7)], seed=0)
  variables = random_variables(head, maps, False)
  module = modules(torch).fcn.FCNHead(channels, 5)
  names = (('conv0', '0', '1'), ('classifier', '4', ''))
  load(torch, module, variables, names)
  compare(torch, head, variables, maps, module, nchw(torch, maps[0]))


def test_lraspp(torch, random_variables):
  head = lraspp.LRASPP(num_classes=5, channels=8)
  maps = cases.features((1, 1, 7, 1, 12), seed=0)
  variables = random_variables(head, maps, False)
  module = modules(torch).lraspp.LRASPPHead(7, 12, 5, 8)
  names = (
    ('conv', 'cbr.0', 'cbr.1'),
    ('gate', 'scale.1', ''),
    ('classifier', 'high_classifier', ''),
    ('low_level_classifier', 'low_classifier', ''),
  )
  load(torch, module, variables, names)
  inputs = {'low': nchw(torch, maps[2]), 'high': nchw(torch, maps[-1])}
  compare(torch, head, variables, maps, module, inputs)
