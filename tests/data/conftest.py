"""Fixtures: a small folder, the config that reads it, and a file server."""

import functools
import http.server
import pathlib
import threading

import numpy as np
from PIL import Image
import pytest

from configs import common
from configs.recipes import folder
from tests.shared import SHARED

DATA = SHARED / 'data'


def write_pair(split: pathlib.Path, stem: str, seed: int, size=(24, 40)):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
  label = rng.integers(0, 4, size).astype(np.uint8)
  label[label == 3] = 11
  (split / 'images').mkdir(parents=True, exist_ok=True)
  (split / 'labels').mkdir(exist_ok=True)
  Image.fromarray(image).save(split / 'images' / f'{stem}.png')
  Image.fromarray(label).save(split / 'labels' / f'{stem}.png')
  return image, label


@pytest.fixture
def root(tmp_path):
  """ROOT with 5 training and 3 validation pairs, 24x40, 3 classes, void 11."""
  for split, count, first in (('train', 5, 0), ('val', 3, 100)):
    for i in range(count):
      write_pair(tmp_path / 'raw' / split, f'img{i}', first + i)
  return tmp_path / 'raw'


@pytest.fixture
def config(tmp_path):
  """The default config, for the folder of fixture `root` with 3 classes."""
  c = common.default_config()
  c.batch_size = 4
  folder.set_data(c)
  c.data.root = str(tmp_path / 'raw')
  c.data.data_dir = str(tmp_path / 'prepared')
  c.data.num_classes = 3
  c.data.ignore_label = 11
  c.data.augment.random_crop.size = (17, 33)
  c.data.augment.random_crop.max_class_share = 1.0
  return c


@pytest.fixture
def shared():
  """The folder of real samples; tests that use it are skipped without it."""
  if not DATA.is_dir():
    pytest.skip(f'no real data at {DATA}')
  return DATA


class _Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files; those in `server.cut` are truncated."""

  def log_message(self, *arguments):
    pass

  def do_GET(self):
    self.server.asked.append(self.path)
    path = self.translate_path(self.path)
    if self.path not in self.server.cut:
      super().do_GET()
      return
    with open(path, 'rb') as file:
      data = file.read()
    self.send_response(200)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data[: len(data) // 2])


@pytest.fixture
def server(tmp_path, monkeypatch):
  """A server of the files in tmp_path/served.

  It has `url`, `folder`, the requested paths `asked` and the truncated `cut`.
  """
  folder = tmp_path / 'served'
  folder.mkdir()
  monkeypatch.setenv('no_proxy', '*')
  handler = functools.partial(_Handler, directory=str(folder))
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as made:
    made.url = f'http://127.0.0.1:{made.server_port}'
    made.asked, made.cut, made.folder = [], set(), folder
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
