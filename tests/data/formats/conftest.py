"""Fixtures: a config that reads an empty root with three named classes."""

from PIL import Image
import pytest


@pytest.fixture
def named(config, tmp_path):
  """A config for split `val` of an empty root: background, road, car, void."""
  (tmp_path / 'raw').mkdir()
  config.data.class_names = ('background', 'road', 'car', 'void')
  config.data.ignore_label = 255
  return config


@pytest.fixture
def write_image():
  """Returns a function that writes a black image of 8x6 pixels."""

  def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (8, 6)).save(path)

  return write
