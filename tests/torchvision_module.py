"""Imports torchvision for the tests that compare with it, or skips them.

torch and torchvision are not required by the project or its tests;
`tests/peers.py` installs them.
"""

import warnings

import pytest

# Compiled operators that a wheel for another torch build cannot load. Declared
# here, torchvision can be imported without them; our networks call none.
_OPERATORS = {
  'nms': 'Tensor dets, Tensor scores, float iou_threshold',
  'roi_align': 'Tensor a',
  'roi_pool': 'Tensor a',
  'ps_roi_align': 'Tensor a',
  'ps_roi_pool': 'Tensor a',
  'deform_conv2d': 'Tensor a',
  'qnms': 'Tensor a',
}
_libraries = []


def load():
  """Returns (torch, torchvision), or skips the calling test."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    torch = pytest.importorskip('torch')
    try:
      import torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
      library = torch.library.Library('torchvision', 'DEF')
      for name, arguments in _OPERATORS.items():
        library.define(f'{name}({arguments}) -> Tensor')
      _libraries.append(library)  # operators live as long as the library
    torchvision = pytest.importorskip('torchvision')
    torch.set_num_threads(1)
  return torch, torchvision
