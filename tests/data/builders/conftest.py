"""A server of archives, on this machine alone."""

import functools
import http.server
import threading

import pytest


class _Handler(http.server.SimpleHTTPRequestHandler):
  """Serves files; those in `server.cut` end amid their bytes."""

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
  """Serves tmp_path/served; has `url`, `asked`, `cut` and `folder`."""
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
