"""mmsegmentation for the tests that compare with it; they skip without it.

It needs mmsegmentation, mmengine and mmcv-lite besides torch
(`tests/requirements-torch.txt`); of mmcv's compiled operators, which mmcv-lite
lacks, none is called.
"""

import sys
import types
import warnings

import pytest

from tests import torchvision_module


class _Operators(types.ModuleType):
  """Stands for mmcv's compiled operators."""

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return None


def load(monkeypatch, module='mmseg.models'):
  """Returns a module of mmsegmentation, or skips the test that asks."""
  torchvision_module.load()
  monkeypatch.setitem(sys.modules, 'mmcv._ext', _Operators('mmcv._ext'))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return pytest.importorskip(module)
