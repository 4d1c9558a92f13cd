"""PaddleSeg for the tests that compare with it; they skip where it is absent.

paddlepaddle and paddleseg are no requirement of the project or its tests. They
run in a process of their own, of the environment that `tests/peers.py` makes.
"""

import json
import pathlib
import subprocess

import flax
import numpy as np

from tests import peers

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
  arrays = {'images': x.transpose(0, 3, 1, 2)}
  for path, value in flax.traverse_util.flatten_dict(variables).items():
    _, *modules, leaf = path
    name = module_name([part for part in modules if part != 'norm'])
    value = value.transpose(3, 2, 0, 1) if leaf == 'kernel' else value
    arrays[f'{name}.{LEAVES[leaf]}'] = value
  return run(request, arrays, folder)


def run(request, arrays, folder):
  """Returns the outputs of one of PaddleSeg's networks, as `features` does.

  Args:
    request: as for `features`; with 'save' the network gets random variables
      and is saved as this .pdparams file.
    arrays: 'images' [B, 3, H, W], and all variables without 'save'; more images
      of other sizes as 'images1' and so on give further maps.
    folder: for temporary files.
  """
  python = peers.find_python('paddle')
  source, target = folder / 'weights.npz', folder / 'maps.npz'
  np.savez(source, **arrays)
  script = pathlib.Path(__file__).with_name('paddle_process.py')
  done = subprocess.run(
    [python, script, json.dumps(request), source, target],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  maps = np.load(target)
  return [maps[name].transpose(0, 2, 3, 1) for name in maps.files]
