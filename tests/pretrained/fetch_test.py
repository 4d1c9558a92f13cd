import dataclasses
import gzip
import hashlib
import http.server
import io
import os
import re
import threading
import urllib.parse

import h5py
import numpy as np
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
  with pytest.raises(OSError, match=f'{kind} .*, expected 00000000'):
    fetch.fetch_weights(wrong)
  assert os.listdir(cache) == []


def test_a_damaged_cached_file_is_downloaded_again(cache, published, tmp_path):
  fetch.fetch_weights(published)
  (cache / 'net.pth').write_bytes(CONTENT[1:])
  assert fetch.fetch_weights(published) == str(cache / 'net.pth')
  assert (cache / 'net.pth').read_bytes() == CONTENT
  # Somebody's file stays until there is a better one.
  (cache / 'net.pth').write_bytes(CONTENT[1:])
  os.remove(tmp_path / 'net.pth')
  with pytest.raises(OSError, match='could not be downloaded'):
    fetch.fetch_weights(published)
  assert (cache / 'net.pth').read_bytes() == CONTENT[1:]


def test_files_of_users_are_checked(published, tmp_path):
  path = tmp_path / 'net.pth'
  fetch.check_digest(str(path), published)
  path.write_bytes(CONTENT[1:])
  with pytest.raises(ValueError, match=r'net\.pth is not the file that was '):
    fetch.check_digest(str(path), published)


def test_without_network_the_message_says_what_to_do(cache):
  with pytest.raises(
    OSError, match=r'net\.pth could not be downloaded .* put it at .*net\.pth'
  ):
    fetch.fetch_weights(weights_at('http://localhost:9/net.pth'))
  assert os.listdir(cache) == []


def small_h5():
  """Returns a file of one Keras layer."""
  file = io.BytesIO()
  with h5py.File(file, 'w') as f:
    f.attrs['layer_names'], group = [b'a'], f.create_group('a')
    group.attrs['weight_names'] = [b'kernel']
    group['kernel'] = np.ones(3000, np.float32)
  return file.getvalue()


H5 = small_h5()
# Status, headers and body of answers that are not the file.
ANSWERS = {
  'page': (200, {}, b'<html>Sign in</html>'),
  'empty': (200, {}, b''),
  'part': (206, {'Content-Range': f'bytes 0-99/{len(H5)}'}, H5),
  'none': (204, {}, b''),
  'packed': (200, {'Content-Encoding': 'gzip'}, gzip.compress(H5)),
  'long': (200, {}, H5 + b'<html>Error</html>'),
  'cut': (200, {'Content-Length': str(len(H5))}, H5[:9000]),
  'cut without a length': (200, {'Content-Length': None}, H5[:9000]),
  'nonsense': (200, {'Content-Length': 'abc'}, H5),
}


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves the content, or what the path's first part says."""

  def do_GET(self):
    kind = urllib.parse.unquote(self.path.split('/')[1])
    if kind == 'absent':
      self.send_error(404)
      return
    status, headers, body = ANSWERS.get(kind, (200, {}, CONTENT))
    if kind == 'good':
      body = H5
    self.send_response(status)
    for name, value in {'Content-Length': str(len(body)), **headers}.items():
      if value is not None:
        self.send_header(name, value)
    self.end_headers()
    self.wfile.write(body)

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


@pytest.mark.parametrize('folder', [*ANSWERS, 'absent'])
@pytest.mark.parametrize('digest', ['', f'sha256:{DIGEST[:8]}'])
def test_what_is_not_the_file_is_not_kept(cache, server, folder, digest):
  url = f'{server}/{urllib.parse.quote(folder)}/net.h5'
  with pytest.raises(
    OSError,
    match=rf'^{re.escape(url)} could not be downloaded .*put it at .*h5$',
  ):
    fetch.fetch_weights(weights_at(url, digest))
  assert os.listdir(cache) == []


@pytest.mark.parametrize(
  ('folder', 'reason'),
  [
    ('page', r'\(the answer is an HTML page and not a file of weights, .*\); '),
    ('empty', r'\(the answer is empty\)'),
    ('part', r'\(the server answered 206, not the file\)'),
    ('packed', r'\(the answer is packed \(gzip\)\)'),
    ('long', r'\(18 bytes follow its end\)'),
    ('cut', r'\(received 9000 of \d+ bytes\)'),
    ('nonsense', r"\(the answer has the length 'abc'\)"),
  ],
)
def test_the_reason_is_named(cache, server, folder, reason):
  with pytest.raises(OSError, match=reason):
    fetch.fetch_weights(weights_at(f'{server}/{folder}/net.h5', ''))


@pytest.mark.parametrize('kind', ['page', 'long'])
def test_a_kept_file_that_does_not_open_is_fetched_again(cache, server, kind):
  cache.mkdir(parents=True)
  (cache / 'net.h5').write_bytes(ANSWERS[kind][2])
  path = fetch.fetch_weights(weights_at(f'{server}/good/net.h5', ''))
  assert (cache / 'net.h5').read_bytes() == H5
  assert os.listdir(cache) == ['net.h5']
  # A whole file asks nobody.
  assert (
    fetch.fetch_weights(weights_at('http://localhost:9/net.h5', '')) == path
  )


def test_default_cache_is_in_the_home(monkeypatch):
  monkeypatch.delenv('DEEPLAB_CACHE', raising=False)
  monkeypatch.setenv('HOME', '/home/someone')
  path = fetch.cache_path(weights_at('https://x/net.pth'))
  assert path == '/home/someone/.cache/deeplab/weights/net.pth'
