"""PaddleSeg for the tests that compare with it; they skip where it is absent.

paddlepaddle (3.3.1) and paddleseg (2.8.0) are no requirement of the project or
its tests; the versions are those that were compared with. They run in a process
of their own: with TensorFlow in the same one Paddle crashes.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys

import flax
import numpy as np
import pytest

LEAVES = {
  'kernel': 'weight',
  'scale': 'weight',
  'bias': 'bias',
  'mean': '_mean',
  'var': '_variance',
}


def features(request, variables, module_name, x, folder):
  """Returns the outputs of one of PaddleSeg's networks.

  Args:
    request: {'backbone': name, 'fields': of it}, and with 'head' the fields of
      a MobileSeg on it.
    variables: ours; a strict mapping takes each to one of theirs.
    module_name: function from the modules of a path but 'norm' to Paddle's
      name.
    x: [B, H, W, 3].
    folder: for temporary files.

  Returns:
    Maps [B, h, w, C].
  """
  for package in ('paddle', 'paddleseg'):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f'{package} is not installed')
  arrays = {'images': x.transpose(0, 3, 1, 2)}
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    _, *modules, leaf = path
    name = module_name([part for part in modules if part != 'norm'])
    value = value.transpose(3, 2, 0, 1) if leaf == 'kernel' else value
    arrays[f'{name}.{LEAVES[leaf]}'] = value
  source, target = folder / 'weights.npz', folder / 'maps.npz'
  np.savez(source, **arrays)
  script = pathlib.Path(__file__).with_name('paddle_process.py')
  done = subprocess.run(
    [sys.executable, script, json.dumps(request), source, target],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  maps = np.load(target)
  return [maps[name].transpose(0, 2, 3, 1) for name in maps.files]
