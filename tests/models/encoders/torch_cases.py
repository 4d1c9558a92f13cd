"""What the tests against torch's modules share."""

import flax
import numpy as np

LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': 'running_mean',
  'var': 'running_var',
}


def numbered(conv, norm, kind):
  """Returns the index of the convolution, or of its BatchNorm."""
  return norm if kind == 'bn' else conv


def assign(model, variables, module_name, unused):
  """Copies every variable; raises unless both sides are used up.

  Args:
    model: the torch module.
    variables: of ours.
    module_name: function from (modules of a path but 'norm', params).
    unused: prefixes of the modules that ours has not, the classifier's.
  """
  import torch

  state = model.state_dict()
  left = {
    key
    for key in state
    if not key.startswith(unused) and not key.endswith('num_batches_tracked')
  }
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    _, *modules, leaf = path
    modules = [name for name in modules if name != 'norm']
    key = f'{module_name(modules, variables["params"])}.{LEAVES[leaf]}'
    if leaf == 'kernel':
      value = value.transpose(3, 2, 0, 1)
    left.remove(key)
    if tuple(state[key].shape) != value.shape:
      raise ValueError(f'{key} is {state[key].shape}, not {value.shape}')
    state[key] = torch.from_numpy(np.ascontiguousarray(value))
  if left:
    raise ValueError(f'weights without a source: {sorted(left)}')
  model.load_state_dict(state)
