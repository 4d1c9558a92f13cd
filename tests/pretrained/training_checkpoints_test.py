"""Checkpoints as training programs of PyTorch write them load like plain files.

`readers/pth_test.py` tests the same layouts without PyTorch.
"""

import argparse
import os
import sys
import types

import jax
import numpy as np
import pytest

from deeplab.pretrained import identify
from tests import torchvision_module


def _class_of(module, name, monkeypatch):
  """Returns a class that pickles refer to as `module.name`."""
  parts = module.split('.')
  for i in range(1, len(parts) + 1):
    package = '.'.join(parts[:i])
    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
  made = type(name, (), {'__module__': module})
  setattr(sys.modules[module], name, made)
  return made


def _make(cls, **state):
  made = cls()
  made.__dict__.update(state)
  return made


def _torchvision_references(torch, model, optimizer, _):
  """references/segmentation/train.py."""
  return {
    'model': model.state_dict(),
    'optimizer': optimizer.state_dict(),
    'lr_scheduler': {'last_epoch': 3, 'base_lrs': [0.01]},
    'epoch': 3,
    'args': argparse.Namespace(lr=0.01, device='cuda', data_path='/data'),
  }


def _mmengine(torch, model, optimizer, monkeypatch):
  """mmengine.runner.Runner.save_checkpoint, with its EMAHook."""
  history = _class_of(
    'mmengine.logging.history_buffer', 'HistoryBuffer', monkeypatch
  )
  average = torch.optim.swa_utils.AveragedModel(model)
  average = {k: v * 0 for k, v in average.state_dict().items()}
  return {
    'meta': {'epoch': 3, 'dataset_meta': {'classes': ('a', 'b')}, 'seed': 1},
    'state_dict': model.state_dict(),
    'ema_state_dict': {**average, 'steps': torch.tensor(3)},
    'message_hub': {
      'log_scalars': {
        'train/loss': _make(
          history, _log_history=np.arange(3.0), _count_history=np.ones(3)
        )
      }
    },
    'optimizer': optimizer.state_dict(),
  }


def _jfzhang(torch, model, optimizer, _):
  """utils/saver.py of pytorch-deeplab-xception."""
  return {
    'epoch': 4,
    'state_dict': model.state_dict(),
    'optimizer': optimizer.state_dict(),
    'best_pred': np.float64(0.71),
  }


def _vainf(torch, model, optimizer, _):
  """main.py of DeepLabV3Plus-Pytorch."""
  return {
    'cur_itrs': 100,
    'model_state': model.state_dict(),
    'optimizer_state': optimizer.state_dict(),
    'scheduler_state': {'last_epoch': 3},
    'best_score': np.float64(0.71),
  }


def _lightning(torch, model, optimizer, monkeypatch):
  """lightning.Trainer.save_checkpoint, with hyperparameters of OmegaConf."""
  config = _class_of('omegaconf.dictconfig', 'DictConfig', monkeypatch)
  return {
    'epoch': 3,
    'global_step': 100,
    'pytorch-lightning_version': '2.4.0',
    'state_dict': {f'model.{k}': v for k, v in model.state_dict().items()},
    'loops': {'fit_loop': {'state_dict': {}}},
    'callbacks': {'ModelCheckpoint': {'best_model_score': torch.tensor(0.7)}},
    'optimizer_states': [optimizer.state_dict()],
    'hyper_parameters': _make(config, _content={'lr': 0.1}),
  }


def _data_parallel(torch, model, optimizer, _):
  return torch.nn.DataParallel(model).state_dict()


def _compiled(torch, model, optimizer, _):
  """`torch.compile(model).state_dict()`."""
  return {f'_orig_mod.{k}': v for k, v in model.state_dict().items()}


def _bare(torch, model, optimizer, _):
  return model.state_dict()


PROGRAMS = {
  'model_3.pth': _torchvision_references,
  'iter_100.pth': _mmengine,
  'model_best.pth.tar': _jfzhang,
  'best_deeplabv3.pt': _vainf,
  'epoch=3-step=100.ckpt': _lightning,
  'parallel.pth': _data_parallel,
  'compiled.pth': _compiled,
  'pytorch_model.bin': _bare,
}


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """Returns torch, a network, an optimizer with a state, and our variables."""
  torch, torchvision = torchvision_module.load()
  torch.manual_seed(0)
  model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
    weights=None, weights_backbone=None, num_classes=21
  )
  optimizer = torch.optim.AdamW(model.parameters())
  model(torch.zeros(2, 3, 64, 64))['out'].sum().backward()
  optimizer.step()
  path = str(tmp_path_factory.mktemp('plain') / 'plain.pth')
  torch.save(model.state_dict(), path)
  return torch, model, optimizer, identify.load_model(path).variables


@pytest.mark.parametrize('name', PROGRAMS)
def test_checkpoints_of_training_programs(tmp_path, network, name, monkeypatch):
  torch, model, optimizer, expected = network
  path = str(tmp_path / name)
  with monkeypatch.context() as patch:
    torch.save(PROGRAMS[name](torch, model, optimizer, patch), path)
  loaded = identify.load_model(path)
  assert loaded.config.model.encoder.name == 'mobilenet_v3_large'
  assert jax.tree.all(jax.tree.map(np.array_equal, loaded.variables, expected))


class _Program:
  def __init__(self, folder):
    self.folder = folder

  def __reduce__(self):
    return os.mkdir, (self.folder,)


def test_a_program_in_a_checkpoint_is_not_run(tmp_path, network):
  torch, model, _, expected = network
  folder = tmp_path / 'made'
  path = str(tmp_path / 'a.pth')
  saved = {'model': model.state_dict(), 'args': _Program(str(folder))}
  torch.save(saved, path)
  loaded = identify.load_model(path)
  assert not folder.exists()
  assert jax.tree.all(jax.tree.map(np.array_equal, loaded.variables, expected))
  torch.load(path, weights_only=False)
  assert folder.exists()  # the file does run a program
