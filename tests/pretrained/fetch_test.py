import dataclasses
import hashlib
import http.server
import os
import threading

import pytest

from deeplab.pretrained import fetch
from deeplab.pretrained import published_weights
from deeplab.pretrained.systems import mapping

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('DEEPLAB_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'weights'


def weights_at(url, digest=f'sha256:{DIGEST[:8]}'):
  return published_weights.PublishedWeights(
    url, digest, 'MIT', 'resnet_18', mapping.IMAGENET_NORMALIZATION
  )


@pytest.fixture
def published(tmp_path):
  path = tmp_path / 'net.pth'
  path.write_bytes(CONTENT)
  return weights_at(path.as_uri())


def test_a_file_is_downloaded_once(cache, published, tmp_path):
  path = fetch.fetch_weights(published)
  assert path == str(cache / 'net.pth')
  assert (cache / 'net.pth').read_bytes() == CONTENT
  assert os.listdir(cache) == ['net.pth']
  os.remove(tmp_path / 'net.pth')
  assert fetch.fetch_weights(published) == path
  assert fetch.sha256(path) == DIGEST


@pytest.mark.parametrize('kind', ['sha256', 'md5'])
def test_a_wrong_digest_fails(cache, published, kind):
  wrong = dataclasses.replace(published, digest=f'{kind}:00000000')
  with pytest.raises(ValueError, match=f'not the file.*{kind}.*net.pth again'):
    fetch.fetch_weights(wrong)
  assert os.listdir(cache) == []


def test_a_cached_file_is_checked(cache, published):
  fetch.fetch_weights(published)
  (cache / 'net.pth').write_bytes(CONTENT[1:])
  with pytest.raises(ValueError, match='not the file that was published'):
    fetch.fetch_weights(published)


def test_without_network_the_message_says_what_to_do(cache):
  with pytest.raises(
    OSError, match=r'net\.pth could not be downloaded .* put it at .*net\.pth'
  ):
    fetch.fetch_weights(weights_at('http://localhost:9/net.pth'))
  assert os.listdir(cache) == []


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves the content, or less of it than announced."""

  def do_GET(self):
    if self.path.startswith('/absent'):
      self.send_error(404)
      return
    self.send_response(200)
    self.send_header('Content-Length', str(len(CONTENT)))
    self.end_headers()
    cut = self.path.startswith('/cut')
    self.wfile.write(CONTENT[: len(CONTENT) // 2] if cut else CONTENT)

  def log_message(self, *_):
    pass


@pytest.fixture
def server():
  with http.server.HTTPServer(('localhost', 0), Handler) as served:
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f'http://localhost:{served.server_port}'
    served.shutdown()
    thread.join()


def test_download_from_a_server(cache, server):
  path = fetch.fetch_weights(weights_at(f'{server}/net.pth'))
  assert fetch.sha256(path) == DIGEST


@pytest.mark.parametrize('folder', ['cut', 'absent'])
def test_an_incomplete_download_is_not_cached(cache, server, folder):
  with pytest.raises(OSError, match='could not be downloaded'):
    fetch.fetch_weights(weights_at(f'{server}/{folder}/net.pth'))
  assert os.listdir(cache) == []


def test_default_cache_is_in_the_home(monkeypatch):
  monkeypatch.delenv('DEEPLAB_CACHE', raising=False)
  monkeypatch.setenv('HOME', '/home/someone')
  path = fetch.cache_path(weights_at('https://x/net.pth'))
  assert path == '/home/someone/.cache/deeplab/weights/net.pth'
