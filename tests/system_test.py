"""Atomic files, strict JSON, downloads, progress and native stderr."""

import contextlib
import http.server
import io
import json
import logging
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from deeplab import system
from tests import helpers


def test_text_is_written_atomically_into_a_new_folder(tmp_path):
  path = tmp_path / 'new' / 'a.txt'
  for content in ('first', 'sécond'):
    system.write_text(str(path), content)
    assert path.read_text('utf-8') == content
  assert os.listdir(path.parent) == ['a.txt']


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / 'a.txt'
  system.write_text(str(path), 'old')
  with pytest.raises(UnicodeEncodeError):
    system.write_text(str(path), 'new \ud800')
  assert path.read_text() == 'old'


# Dies in the middle of a write.
KILLED = """
import os, signal, sys
from deeplab import system
with (
  system.partial_folder(sys.argv[1] + '_export') as folder,
  system.write_atomically(sys.argv[1]) as temporary,
):
  for path in (os.path.join(folder, 'a'), temporary):
    with open(path, 'w') as f:
      f.write('half')
  os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed(tmp_path):
  path = tmp_path / 'mask.png'
  path.write_text('old')
  done = subprocess.run([sys.executable, '-c', KILLED, path], check=False)
  assert done.returncode == -signal.SIGKILL
  leftovers = sorted(set(os.listdir(tmp_path)) - {'mask.png'})
  assert [re.sub(r'\d+', 'N', name) for name in leftovers] == [
    '.partial-N-N-mask.png_export',
    '.partial-N-N-mask.png',
  ]
  # Another file of the folder is written, while others are.
  with (
    system.write_atomically(tmp_path / 'c.txt'),
    system.partial_folder(tmp_path / 'd') as folder,
  ):
    system.remove_leftovers.cache_clear()
    system.write_text(tmp_path / 'b.txt', 'b')
    assert not set(leftovers) & set(os.listdir(tmp_path))
    assert os.path.isdir(folder)
  assert sorted(os.listdir(tmp_path)) == ['b.txt', 'c.txt', 'mask.png']
  assert path.read_text() == 'old'


def test_a_full_disk_names_the_file(tmp_path):
  path = tmp_path / 'a.txt'
  with (
    helpers.full_disk(10),
    pytest.raises(OSError, match='could not write') as refused,
  ):
    system.write_text(path, 'more than ten bytes')
  assert str(refused.value) == (
    f'could not write {path}: File too large; free some space and run the '
    'same command again'
  )
  assert os.listdir(tmp_path) == []


def test_a_name_may_have_255_bytes(tmp_path):
  path = tmp_path / ('é' * 125 + '.text')
  system.write_text(path, 'a')
  assert path.read_text() == 'a'


def test_json_file_is_strict(tmp_path):
  system.write_json(tmp_path / 'a.json', {'x': np.float32('nan'), 'y': (1, 2)})
  content = (tmp_path / 'a.json').read_text()
  assert content.endswith('\n')
  assert json.loads(content) == {'x': None, 'y': [1, 2]}


def test_jsonable_is_strict_json():
  value = {'a': np.float32('nan'), 'b': [1, np.int64(2)], 'c': np.eye(2)}
  text = json.dumps(system.to_jsonable(value), allow_nan=False)
  assert json.loads(text) == {'a': None, 'b': [1, 2], 'c': [[1, 0], [0, 1]]}


@pytest.fixture
def url():
  """Address of a server of 3 bytes that may announce more than it sends."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.send_header('Content-Length', self.path[1:])
      self.end_headers()
      self.wfile.write(b'abc')

    def log_message(self, format, *args):
      del format, args

  server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f'http://127.0.0.1:{server.server_port}'
  server.shutdown()
  server.server_close()


def test_download(url):
  file = io.BytesIO()
  system.download(f'{url}/3', file, 'a')
  assert file.getvalue() == b'abc'


def test_a_download_that_ends_early_is_an_error(url):
  with pytest.raises(OSError, match=r'3 of 9 bytes|IncompleteRead'):
    system.download(f'{url}/9', io.BytesIO(), 'a')


def send_slowly(content, connection, ended):
  """Sends a byte each 50 ms, until the client or the test ends."""
  for i in range(len(content)):
    if ended.wait(0.05):
      break
    connection.sendall(content[i : i + 1])


SLOW = {
  'header': b'HTTP/1.0 200 OK\r\n' + b'X-A: b\r\n' * 90,
  'body': b'HTTP/1.0 200 OK\r\n\r\n' + b'abc' * 90,
  'chunk': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
  + b'1' * 900,
  'nothing': b'',
}


@pytest.mark.parametrize('kind', SLOW)
def test_a_server_that_makes_no_progress_is_given_up(kind, monkeypatch):
  monkeypatch.setattr(system, 'STALL_SECONDS', 0.4)
  ended = threading.Event()
  quick = SLOW[kind].find(b'\r\n\r\n') + 4 if kind in ('body', 'chunk') else 0

  def serve():
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
      connection.sendall(SLOW[kind][:quick])
      send_slowly(SLOW[kind][quick:], connection, ended)
      ended.wait()

  with socket.create_server(('127.0.0.1', 0)) as server:
    thread = threading.Thread(target=serve)
    thread.start()
    url = f'http://127.0.0.1:{server.getsockname()[1]}/a'
    start = time.monotonic()
    try:
      with pytest.raises(
        OSError, match=r'sent nothing in 0\.4|only \d+ bytes in|timed out'
      ):
        system.download(url, io.BytesIO(), 'a')
      assert time.monotonic() - start < 5
    finally:
      ended.set()
      thread.join()


def test_the_limit_of_no_progress_is_about_a_kilobyte_a_second():
  assert system.STALL_SECONDS == 60
  assert system.STALL_BYTES == 65536


def test_an_answer_has_a_limit(url):
  with pytest.raises(OSError, match='has 9 bytes, more than 8'):
    system.download(f'{url}/9', io.BytesIO(), 'a', 8)


def test_an_endless_answer_is_ended(monkeypatch):
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      self.send_response(200)
      self.end_headers()
      with contextlib.suppress(OSError):
        while True:
          self.wfile.write(bytes(1 << 16))

    def log_message(self, format, *args):
      del format, args

  monkeypatch.setenv('no_proxy', '*')
  # What reads the network waits no longer for the one who gave up.
  monkeypatch.setattr(system, 'STALL_SECONDS', 0.5)
  with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    url = f'http://127.0.0.1:{server.server_port}/'
    file = io.BytesIO()
    with pytest.raises(OSError, match='sent more than 3000000 bytes'):
      system.download(url, file, 'a', 3_000_000)
    assert len(file.getvalue()) <= 3_000_000
    thread.join()


def test_patterns_are_avoided_by_a_link(tmp_path):
  with system.path_without_patterns(tmp_path) as path:
    assert path == str(tmp_path)
  folder = tmp_path / 'lr[1]'
  folder.mkdir()
  (folder / 'a').write_text('b')
  with system.path_without_patterns(folder) as path:
    assert '[' not in path
    assert pathlib.Path(path, 'a').read_text() == 'b'
  assert not os.path.exists(path)
  assert (folder / 'a').exists()


def test_stderr_of_native_code_is_captured(capfd):
  with system.capture_stderr() as captured:
    os.write(2, b'from C++')
    assert captured() == 'from C++'
  os.write(2, b'after')
  assert capfd.readouterr().err == 'after'


def test_progress_is_a_bar_on_a_terminal_and_log_lines_elsewhere(
  monkeypatch, caplog
):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr('sys.stderr', terminal)
  assert list(system.track_progress(range(3), 3, 'read')) == [0, 1, 2]
  assert 'read: 100%' in terminal.getvalue()

  pipe = io.StringIO()
  monkeypatch.setattr('sys.stderr', pipe)
  with caplog.at_level(logging.INFO, logger='absl'):
    assert list(
      system.track_progress(range(3), 3, 'read', log_every_seconds=0)
    ) == [0, 1, 2]
  assert 'read: 2 of 3 images' in caplog.text
  assert '100%' not in pipe.getvalue()


def test_a_batch_counts_when_it_is_done(monkeypatch, caplog):
  now = [0.0]
  monkeypatch.setattr(system.time, 'monotonic', lambda: now[0])
  with caplog.at_level('INFO', logger='absl'):
    for batch in system.track_progress([[1, 2], [3]], 3, 'evaluate', size=len):
      now[0] += len(batch)
    for _ in system.track_progress([1], 1, 'predict'):
      now[0] += 2.0
  assert caplog.messages == [
    'evaluate: 3 images in 3.0 s',
    'predict: 1 image in 2.0 s',
  ]
