"""A saved model is read to the same bits; damaged folders are refused."""

import json
import sys
import types

import jax
import numpy as np
import pytest

import deeplab
from deeplab import evaluate
from deeplab import workdir as workdir_lib
from deeplab.pretrained import identify
from deeplab.pretrained import model_folder
from deeplab.pretrained.readers import safetensors


@pytest.fixture(scope='module')
def trained(smoke_run):
  return workdir_lib.load_trained_model(smoke_run.workdir)


@pytest.fixture
def folder(trained, tmp_path):
  model_folder.write_model_folder(trained, tmp_path / 'mine')
  return tmp_path / 'mine'


def test_a_model_is_read_to_the_same_bits(trained, folder):
  assert sorted(x.name for x in folder.iterdir()) == [
    '.deeplab.jsonl',
    *('README.md', 'card.json', 'config.json', 'model.safetensors'),
  ]
  model = identify.load_model(str(folder))
  assert model.config == trained.config
  assert (model.step, model.miou) == (6, trained.miou)
  assert model.dataset.info.class_names[:2] == ('background', 'disc')
  jax.tree.map(
    np.testing.assert_array_equal, model.variables, dict(trained.variables)
  )
  readme = (folder / 'README.md').read_text()
  assert readme.startswith('---\nlibrary_name: deeplab\n')
  assert 'mobilenet_v2_tiny' in readme
  # Its weights file stands for the folder.
  again = identify.load_model(str(folder / 'model.safetensors'))
  assert again.config == trained.config


def test_python_loads_predicts_and_saves(smoke_run, folder, tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  run, saved = deeplab.load(smoke_run.workdir), deeplab.load(folder)
  scores = run.probabilities(image)
  assert scores.dtype == np.float32 and scores.shape[:2] == (64, 64)
  np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
  np.testing.assert_array_equal(saved.probabilities(image), scores)
  np.testing.assert_array_equal(saved.predict(image), scores.argmax(-1))
  saved.save(tmp_path / 'again')
  assert deeplab.load(tmp_path / 'again').config == run.config


def _break_card(folder, **changes):
  card = json.loads((folder / 'card.json').read_text())
  (folder / 'card.json').write_text(json.dumps(card | changes))


def _change_tensor(folder):
  path = str(folder / 'model.safetensors')
  tensors = dict(safetensors.read_safetensors(path))
  name = min(tensors)
  tensors[name] = tensors[name] + 1
  safetensors.write_safetensors(path, tensors, {})


def _set_unknown_head(folder):
  config = json.loads((folder / 'config.json').read_text())
  config['model']['head']['name'] = 'transformer'
  (folder / 'config.json').write_text(json.dumps(config))


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (_change_tensor, r'model\.safetensors is not the file that card\.json'),
    (lambda f: (f / 'card.json').unlink(), 'mine has no card.json'),
    (lambda f: (f / 'config.json').unlink(), 'mine has no config.json'),
    (lambda f: (f / 'model.safetensors').unlink(), 'has no model.safetensors'),
    (lambda f: (f / 'card.json').write_text('{'), 'card.json is damaged'),
    (lambda f: (f / 'card.json').write_text('[]'), 'card.json.* be object'),
    (lambda f: _break_card(f, sha256=None), 'card.json.*sha256 must be string'),
    (lambda f: _break_card(f, step='six'), 'card.json.*step must be integer'),
    (_set_unknown_head, "config.json .*head.name is 'transformer'"),
  ],
)
def test_a_damaged_folder_is_refused(folder, damage, message):
  damage(folder)
  with pytest.raises(ValueError, match=message):
    deeplab.load(folder)


def test_files_of_the_user_are_kept(trained, tmp_path):
  (tmp_path / 'README.md').write_text('mine')
  with pytest.raises(ValueError, match=r'README.md exists, and this command'):
    model_folder.write_model_folder(trained, tmp_path)
  assert [x.name for x in tmp_path.iterdir()] == ['README.md']
  with pytest.raises(ValueError, match='is a file: name a folder'):
    model_folder.write_model_folder(trained, tmp_path / 'README.md')
  model_folder.write_model_folder(trained, tmp_path, overwrite=True)
  model_folder.write_model_folder(trained, tmp_path)
  assert identify.load_model(str(tmp_path)).step == 6


def test_a_hub_is_read_through_its_library(folder, monkeypatch):
  def snapshot_download(repository, allow_patterns):
    assert 'model.safetensors' in allow_patterns
    if repository != 'me/mine':
      raise RuntimeError('404')
    return str(folder)

  monkeypatch.setitem(
    sys.modules,
    'huggingface_hub',
    types.SimpleNamespace(snapshot_download=snapshot_download),
  )
  assert deeplab.load('hf:me/mine').class_names[0] == 'background'
  with pytest.raises(
    OSError, match=r'hf:me/none cannot be downloaded.*huggingface.co/me/none'
  ):
    deeplab.load('hf:me/none')
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ValueError, match='pip install huggingface_hub'):
    deeplab.load('hf:me/mine')


def test_a_saved_model_is_evaluated_as_its_run(smoke_run, folder, tmp_path):
  ours = evaluate.evaluate_workdir(smoke_run.workdir)['checkpoint']
  config = smoke_run.config
  saved = evaluate.evaluate_model(
    identify.load_model_for_data(str(folder), 'best', config),
    str(tmp_path / 'out'),
    config=config,
  )['checkpoint']
  np.testing.assert_array_equal(saved.confusion, ours.confusion)
  assert (tmp_path / 'out/eval/checkpoint/metrics.json').is_file()
