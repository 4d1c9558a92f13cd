"""Genuine samples open, and are the same bytes every time."""

import pytest

from experiments.benchmarks.bad_inputs import input_kinds
from experiments.benchmarks.bad_inputs import trials

# They import TensorFlow or draw with matplotlib.
SLOW = {
  *('archive', 'card', 'config', 'frozen_graph', 'metrics', 'model_folder'),
  *('onnx', 'onnx_weights', 'tf_checkpoint'),
}


def _check(name, folder, monkeypatch):
  monkeypatch.chdir(folder)
  kind = input_kinds.KINDS[name]
  trials.write_secrets(folder)
  genuine, hostile = trials.make_samples(kind, folder / 'input')
  assert (genuine, hostile) == trials.make_samples(kind, folder / 'input')
  for files in genuine:
    assert any(len(content) for content in files.values())
    trials.write_folder(folder / 'input', files)
    first = trials.digest(kind.open(folder / 'input'))
    assert first == trials.digest(kind.open(folder / 'input'))
    assert trials.read_folder(folder / 'input') == files


@pytest.mark.parametrize('name', sorted(input_kinds.KINDS.keys() - SLOW))
def test_genuine_samples(name, tmp_path, monkeypatch):
  _check(name, tmp_path, monkeypatch)


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow's of odd tags
@pytest.mark.parametrize('name', ('png', 'jpeg', 'bmp', 'webp', 'tiff'))
def test_damaged_inputs_are_sentences(name, tmp_path):
  """A small campaign, in this process and without its limits."""
  kind = input_kinds.KINDS[name]
  samples = trials.make_samples(kind, tmp_path)
  outcomes = set()
  for number in range(20):
    files = trials.make_input(trials.Trial(name, number), kind, *samples)
    trials.write_folder(tmp_path, files)
    try:
      kind.open(tmp_path)
      outcomes.add('accepted')
    except ValueError as error:
      outcomes.add(trials.judge_error(error, files))
  assert outcomes == {'accepted', 'sentence'}


@pytest.mark.full
@pytest.mark.parametrize('name', sorted(SLOW))
def test_genuine_samples_of_slow_kinds(name, tmp_path, monkeypatch):
  _check(name, tmp_path, monkeypatch)
