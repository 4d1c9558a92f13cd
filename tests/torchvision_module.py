"""torchvision for the tests that compare with it; they skip where it is absent.

torch and torchvision are no requirement of the project or its tests:
`tests/requirements-torch.txt` lists them.
"""

import warnings

import pytest

# Compiled operators that a wheel for another torch build cannot load; declared
# here, torchvision imports without them. No network of ours calls one.
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
  """Returns (torch, torchvision), or skips the test that asks."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    torch = pytest.importorskip('torch')
    try:
      import torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
      library = torch.library.Library('torchvision', 'DEF')
      for name, arguments in _OPERATORS.items():
        library.define(f'{name}({arguments}) -> Tensor')
      _libraries.append(library)  # they live as long as it
    torchvision = pytest.importorskip('torchvision')
    torch.set_num_threads(1)
  return torch, torchvision
