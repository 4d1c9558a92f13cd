"""Bad weights at the door: `deeplab.load` refuses each in one sentence."""

import pathlib
import pickle
import tarfile

import numpy as np
import pytest

import deeplab
from deeplab.pretrained import published_weights
from tests.export import handmade
from tests.pretrained.readers import dispatch_test

PAGE = b'<!DOCTYPE html>\n<html><title>Sign in</title></html>\n'
NAME = 'torchvision:lraspp_mobilenet_v3_large'


def _write_tflite(path):
  path.write_bytes(handmade.convolution())


def _write_tar(path):
  inner = path.with_name('model.ckpt.index')
  inner.write_bytes(np.random.default_rng(0).bytes(5000))
  with tarfile.open(path, 'w:gz') as archive:
    archive.add(inner, 'net/model.ckpt.index')


def _write_pth(path):
  path.write_bytes(pickle.dumps({'state_dict': [1.0] * 99}, 2))


WRITERS = {
  **{suffix: write for suffix, (write, _) in dispatch_test.WRITERS.items()},
  '.tflite': _write_tflite,
  '.tar.gz': _write_tar,
  '.pth': _write_pth,
}


def refusal(weights, kind=ValueError):
  """Returns the sentence with which a model is refused."""
  with pytest.raises(kind) as caught:
    deeplab.load(weights)
  sentence = str(caught.value)
  assert '\n' not in sentence
  return sentence


@pytest.mark.parametrize('suffix', WRITERS)
def test_files_that_are_cut_short_are_named(tmp_path, suffix):
  path = tmp_path / f'cut{suffix}'
  WRITERS[suffix](path)
  content = path.read_bytes()
  for length in (0, 1, len(content) // 2, len(content) - 9):
    path.write_bytes(content[:length])
    sentence = refusal(path)
    assert sentence.startswith(str(path))
    assert 'download' in sentence or 'write it' in sentence, sentence


@pytest.mark.parametrize('suffix', [*WRITERS, '', '.zip'])
def test_a_login_page_is_called_so(tmp_path, suffix):
  path = tmp_path / f'page{suffix}'
  path.write_bytes(PAGE)
  assert refusal(path).startswith(f'{path} is an HTML page and not a file of')


def test_weights_of_a_classifier_begin_a_training(tmp_path):
  path = tmp_path / 'resnet.npz'
  np.savez(path, **{'conv1.weight': np.ones((8, 3, 7, 7)), 'fc.bias': [0.0]})
  sentence = refusal(path)
  assert 'holds 2 tensors (conv1.weight, fc.bias, ...) of no segmen' in sentence
  assert sentence.endswith(f'can start from them (--config.init_from={path})')


def test_a_file_of_a_published_name_with_another_digest(tmp_path):
  published = published_weights.PUBLISHED_WEIGHTS[NAME]
  path = tmp_path / published.filename
  path.write_bytes(b'another')
  sentence = refusal(path)
  assert sentence.startswith(f'{path} is not the file that was published (sha')
  assert sentence.endswith(f'remove it and download {published.url} again')


def test_without_network_the_place_of_the_file_is_named(tmp_path, monkeypatch):
  monkeypatch.setenv('DEEPLAB_CACHE', str(tmp_path))
  published = published_weights.PUBLISHED_WEIGHTS[NAME]

  def download(url, *_):
    raise OSError(f'{url}: no address')

  monkeypatch.setattr('deeplab.system.download', download)
  sentence = refusal(NAME, OSError)
  assert sentence.startswith(f'{published.url} could not be downloaded (')
  place = tmp_path / 'weights' / published.filename
  assert sentence.endswith(f'download it elsewhere and put it at {place}')
  assert [p for p in tmp_path.rglob('*') if p.is_file()] == []


@pytest.mark.parametrize(
  ('name', 'suggestion'),
  [
    ('torchvison:deeplabv3_resnet50', 'torchvision:deeplabv3_resnet50'),
    ('deeplabv3_resnet101', 'torchvision:deeplabv3_resnet101'),
  ],
)
def test_misspelt_names_bring_suggestions(name, suggestion):
  sentence = refusal(name)
  assert f"{name}' is neither a file or folder nor a name of pub" in sentence
  assert f'did you mean {suggestion}' in sentence


def test_a_folder_of_something_else(tmp_path):
  (tmp_path / 'photo.jpg').write_bytes(b'')
  sentence = refusal(tmp_path, FileNotFoundError)
  assert f'{str(tmp_path)!r} is not the work directory of a run' in sentence
  assert pathlib.Path(tmp_path / 'photo.jpg').exists()
