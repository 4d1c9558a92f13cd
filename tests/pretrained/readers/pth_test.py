"""PyTorch's files, made without PyTorch, and by it where it is installed."""

import argparse
from collections import OrderedDict
import io
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from deeplab.pretrained.readers import pth
from tests import torchvision_module

VALUES = np.arange(12, dtype=np.float32)
MAGIC = 0x1950A86A20F9469CFC6C


class Storage:
  """A fake storage, pickled as a persistent id."""

  def __init__(self, kind, key, count, view=()):
    self.pid = ('storage', kind, key, 'cpu', count, *view)


class Tensor:
  """A fake tensor, pickled as the call that rebuilds it."""

  def __init__(self, rebuild, storage, offset, shape, strides):
    self.call = rebuild, (storage, offset, shape, strides, False, OrderedDict())

  def __reduce__(self):
    return self.call


@pytest.fixture
def torch(monkeypatch):
  """A fake module `torch` that pickles can refer to."""
  module, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in ('FloatStorage', 'LongStorage', 'OtherStorage'):
    setattr(module, name, type(name, (), {'__module__': 'torch'}))

  def _rebuild_tensor_v2():
    raise AssertionError

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  module._utils = utils
  monkeypatch.setitem(sys.modules, 'torch', module)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)
  return module


def pickled(value):
  class Pickler(pickle.Pickler):
    def persistent_id(self, value):
      return value.pid if isinstance(value, Storage) else None

  f = io.BytesIO()
  Pickler(f, protocol=2).dump(value)
  return f.getvalue()


def tensor(torch, offset=1, shape=(2, 3), strides=(4, 1), count=12, view=()):
  """Rows 1, 2, 3 and 5, 6, 7 of `VALUES`."""
  storage = Storage(torch.FloatStorage, '0', count, view)
  rebuild = torch._utils._rebuild_tensor_v2
  return Tensor(rebuild, storage, offset, shape, strides)


def write_zip(path, value, data=None, byteorder=b'little'):
  data = VALUES.tobytes() if data is None else data
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('model/data.pkl', pickled(value))
    archive.writestr('model/byteorder', byteorder)
    archive.writestr('model/data/0', data)
  return str(path)


def write_legacy(path, value, data=None):
  data = VALUES.tobytes() if data is None else data
  path.write_bytes(
    pickled(MAGIC)
    + pickled(1001)
    + pickled({'little_endian': True, 'protocol_version': 1001})
    + pickled(value)
    + pickled(['0'])
    + struct.pack('<q', 12)
    + data
  )
  return str(path)


EXPECTED = [[1, 2, 3], [5, 6, 7]]


def test_zip(tmp_path, torch):
  state = OrderedDict({'conv.weight': tensor(torch)})
  read = pth.read_pth(write_zip(tmp_path / 'a.pth', state))
  assert list(read) == ['conv.weight']
  assert read['conv.weight'].tolist() == EXPECTED


def test_legacy(tmp_path, torch):
  path = write_legacy(tmp_path / 'a.pth', {'w': tensor(torch, view=(None,))})
  assert pth.read_pth(path)['w'].tolist() == EXPECTED


def test_big_endian(tmp_path, torch):
  data = VALUES.astype('>f4').tobytes()
  path = write_zip(tmp_path / 'a', {'w': tensor(torch)}, data, b'big')
  assert pth.read_pth(path)['w'].tolist() == EXPECTED


@pytest.mark.parametrize(
  'key',
  [
    *('state_dict', 'model', 'state_dict_ema', 'model_state'),
    *('model_state_dict', 'net', 'ema'),
  ],
)
def test_checkpoints_are_unwrapped(tmp_path, torch, key):
  saved = {'epoch': 3, key: {'w': tensor(torch)}, 'args': [1.5, 'x']}
  assert list(pth.read_pth(write_zip(tmp_path / 'a', saved))) == ['w']
  nested = {'model': {'epoch': 3, key: {'w': tensor(torch)}}}
  if key != 'model':
    assert list(pth.read_pth(write_zip(tmp_path / 'a', nested))) == ['w']


@pytest.mark.parametrize(
  ('plain', 'average'),
  [('state_dict', 'state_dict_ema'), ('model', 'model_ema'), ('net', 'ema')],
)
def test_a_moving_average_is_preferred(tmp_path, torch, plain, average):
  saved = {plain: {'w': tensor(torch)}}
  saved[average] = {'w': tensor(torch, offset=0), 'n_averaged': tensor(torch)}
  read = pth.read_pth(write_zip(tmp_path / 'a', saved))
  assert {name: x.tolist() for name, x in read.items()} == {
    'w': [[0, 1, 2], [4, 5, 6]]
  }


def test_the_state_dict_of_mmengine_is_the_average(tmp_path, torch):
  saved = {
    'meta': {'epoch': 3},
    'state_dict': {'w': tensor(torch)},
    'ema_state_dict': {'module.w': tensor(torch, offset=0)},
  }
  assert pth.read_pth(write_zip(tmp_path / 'a', saved))['w'].tolist() == (
    EXPECTED
  )


def test_the_copies_of_mmcv_are_left_out(tmp_path, torch, caplog):
  saved = {
    'backbone.conv.weight': tensor(torch),
    'ema_backbone_conv_weight': tensor(torch, offset=0),
    'ema_gate.weight': tensor(torch),  # a layer of the network
  }
  read = pth.read_pth(write_zip(tmp_path / 'a', {'state_dict': saved}))
  assert list(read) == ['backbone.conv.weight', 'ema_gate.weight']
  assert read['backbone.conv.weight'].tolist() == EXPECTED
  assert '1 copies of parameters, ema_backbone_conv_weight' in caplog.text


class Evil:
  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (self.folder,)


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_a_pickled_program_is_not_run(tmp_path, torch, write, caplog):
  folder = str(tmp_path / 'made')
  value = {'w': tensor(torch), 'x': Evil(folder)}
  path = write(tmp_path / 'a.pth', value)
  assert pth.read_pth(path)['w'].tolist() == EXPECTED
  assert not os.path.exists(folder)
  assert (
    f'{path}: left out what is no tensor of the network: x (posix.mkdir)'
    in caplog.text
  )
  # The pickle does run a program.
  pickle.loads(pickle.dumps(Evil(folder)))
  assert os.path.exists(folder)


class Foreign:
  """An object of a training program, of a class that is not installed."""

  def __init__(self, **fields):
    self.__dict__.update(fields)


def foreign_class(module, name, monkeypatch):
  """Returns a class of a module that is not installed."""
  monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
  made = type(name, (Foreign,), {'__module__': module})
  setattr(sys.modules[module], name, made)
  return made


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_tensors_beside_other_objects_are_read(
  tmp_path, torch, write, monkeypatch, caplog
):
  history = foreign_class('mmengine', 'HistoryBuffer', monkeypatch)
  options = foreign_class('omegaconf', 'DictConfig', monkeypatch)
  value = {
    'args': argparse.Namespace(lr=0.1, paths=[pathlib.PurePosixPath('/a')]),
    'best': np.float64(0.7),
    'message_hub': {'loss': history(_log_history=np.arange(3.0))},
    'hyper_parameters': options(_content={'lr': 0.1}),
    'seen': {1, 2},
    'optimizer': {'state': {0: {'step': tensor(torch, offset=0)}}},
    'model': OrderedDict({'w': tensor(torch)}),
  }
  read = pth.read_pth(write(tmp_path / 'a.pth', value))
  assert list(read) == ['w']
  assert read['w'].tolist() == EXPECTED
  assert not caplog.text  # the state_dict is whole


@pytest.mark.parametrize(
  'name', ['eval', 'getattr', 'exec', '__import__', 'print']
)
def test_builtins_are_not_called(tmp_path, name, capsys):
  path = tmp_path / 'a.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    code = f'cbuiltins\n{name}\n(Vprint(1)\ntR.'
    archive.writestr('m/data.pkl', code.encode())
  with pytest.raises(ValueError, match=f'but one builtins.{name}'):
    pth.read_pth(str(path))
  assert not capsys.readouterr().out


def test_attributes_of_known_names_are_not_looked_up(tmp_path):
  # Protocol 4 resolves dotted names.
  code = b'\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.'
  path = tmp_path / 'a.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('m/data.pkl', code)
  with pytest.raises(ValueError, match=r'one collections\.OrderedDict\.fromk'):
    pth.read_pth(str(path))


def test_a_module_is_no_state_dict(tmp_path, torch):
  module = argparse.Namespace(weight=tensor(torch))
  with pytest.raises(
    ValueError, match=r'but one argparse\.Namespace\); .*save'
  ):
    pth.read_pth(write_zip(tmp_path / 'a', module))
  path = write_zip(tmp_path / 'a', {'net': module, 'epoch': 3})
  with pytest.raises(ValueError, match='but a dictionary of net, epoch'):
    pth.read_pth(path)


def test_a_dictionary_pickled_by_python_2(tmp_path):
  # OrderedDict is called with a list of [key, value].
  code = b'ccollections\nOrderedDict\n((lp0\n(lp1\nS"w"\naI1\naatR.'
  path = tmp_path / 'a.pth'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('m/data.pkl', code)
  with pytest.raises(ValueError, match='but a dictionary of w'):
    pth.read_pth(str(path))


def test_a_wrong_place_in_a_directory_is_one_sentence(tmp_path, torch):
  path = write_zip(tmp_path / 'a.pth', {'w': tensor(torch)})
  with open(path, 'rb') as f:
    data = bytearray(f.read())
  end = data.rindex(b'PK\5\6')
  data[end + 12 : end + 20] = b'\xff' * 8  # zipfile raises OSError
  with open(path, 'wb') as f:
    f.write(data)
  with pytest.raises(ValueError, match=r'a\.pth is not a whole'):
    pth.read_pth(path)


def test_one_storage_has_one_type(tmp_path, torch):
  other = tensor(torch)
  storage = Storage(torch.LongStorage, '0', 12)
  other.call = (other.call[0], (storage, *other.call[1][1:]))
  path = write_zip(tmp_path / 'a.pth', {'w': tensor(torch), 'x': other})
  with pytest.raises(ValueError, match='its storage 0 has two types'):
    pth.read_pth(path)


def test_sizes_are_compared_before_anything_is_inflated(
  tmp_path, torch, monkeypatch
):
  path = tmp_path / 'a.pth'
  write_zip(path, {'w': tensor(torch)})

  def read(*_):
    raise AssertionError('inflated')

  with zipfile.ZipFile(path, 'a', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('model/data/1', bytes(2 << 20))
  assert path.stat().st_size < 5000
  with monkeypatch.context() as patch:
    patch.setattr(zipfile.ZipFile, 'read', read)
    with pytest.raises(ValueError, match='more than 20 times its own size'):
      pth.read_pth(str(path))
  write_zip(path, {'w': tensor(torch, count=10**9)})
  with pytest.raises(ValueError, match='its storages are not whole'):
    pth.read_pth(str(path))


@pytest.mark.parametrize(
  'fields',
  [
    {'offset': 6},
    {'offset': -1},
    {'strides': (4, -1)},
    {'shape': (2, 12), 'strides': (0, 1), 'offset': 0},
    {'shape': (10**9, 10**9), 'strides': (0, 0)},
    {'shape': (2, -3)},
    {'shape': (2,)},
    {'shape': (2.0, 3)},
    {'count': 13},
    {'view': (('1', 0, 5),)},
  ],
)
def test_tensors_lie_within_their_storages(tmp_path, torch, fields):
  path = write_zip(tmp_path / 'a.pth', {'w': tensor(torch, **fields)})
  with pytest.raises(ValueError, match=r'a\.pth is not a whole'):
    pth.read_pth(path)


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_a_truncated_file_fails(tmp_path, torch, write):
  path = write(tmp_path / 'whole.pth', {'w': tensor(torch)})
  with open(path, 'rb') as f:
    whole = f.read()
  for length in range(0, len(whole), 7):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r'cut\.pth is not a whole'):
      pth.read_pth(str(cut))


@pytest.mark.parametrize(
  'value', [[1, 2], {}, {'w': 1.5}, {'model': {'w': 1}}, {1: 2}]
)
def test_files_without_tensors_fail(tmp_path, torch, value):
  with pytest.raises(ValueError, match='no dictionary of tensors'):
    pth.read_pth(write_zip(tmp_path / 'a', value))


@pytest.mark.parametrize('legacy', [False, True])
def test_files_written_by_torch(tmp_path, legacy):
  torch = torchvision_module.load()[0]
  model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  path = str(tmp_path / 'a.pth')
  state = model.state_dict()
  state['half'] = torch.arange(6).reshape(2, 3).T.half()
  state['brain'] = torch.tensor([1.5, 2.5]).bfloat16()
  state['parameter'] = torch.nn.Parameter(torch.ones(3))
  torch.save(
    {'state_dict': state, 'epoch': 3},
    path,
    _use_new_zipfile_serialization=not legacy,
  )
  read = pth.read_pth(path)
  assert read.keys() == state.keys()
  for name, value in state.items():
    expected = value.detach().float().numpy()
    np.testing.assert_array_equal(read[name].astype(np.float32), expected)
