"""Imports mmsegmentation for the tests that compare with it, or skips them.

It needs mmsegmentation, mmengine, mmcv-lite and torch (`tests/peers.py`). The
compiled operators of mmcv, which mmcv-lite lacks, are not called.
"""

import sys
import types
import warnings

import pytest

from tests import torchvision_module


class _Operators(types.ModuleType):
  """Replaces mmcv's compiled operators."""

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)
    return None


def load(monkeypatch, module='mmseg.models'):
  """Returns a module of mmsegmentation, or skips the calling test."""
  torchvision_module.load()
  monkeypatch.setitem(sys.modules, 'mmcv._ext', _Operators('mmcv._ext'))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return pytest.importorskip(module)
