"""The demo page; the full tier opens it in a browser."""

import asyncio
from concurrent import futures
import http.client
import importlib.util
import io
import json
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import types
import urllib.request
import zlib

from absl import flags
import numpy as np
from PIL import Image
import pytest

from deeplab import demo
from deeplab import predict
from deeplab import visualize
from deeplab.data import image_folder
from deeplab.data import image_format
from tests import evaluate_test

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMITS = demo.Limits(upload_bytes=100_000, pixels=20_000, waiting=3)


def _segmenter(
  segment, names=evaluate_test.INFO.class_names, pixels=image_format.RGB
):
  return predict.Segmenter(
    names, evaluate_test.INFO.palette, pixels, segment, segment
  )


def _brightest(images):
  """Predicts the brightest channel, in 20 ms."""
  time.sleep(0.02)
  return [x.argmax(-1).astype(np.uint8) for x in images]


def _first(images):
  return [np.zeros(x.shape[:2], np.uint8) for x in images]


def test_predictions_and_summary():
  shapes = []

  def segment(images):
    shapes.append(images[0].shape)
    return _brightest(images)

  models = {'checkpoint': _segmenter(segment), 'a.tflite': _segmenter(_first)}
  image = np.zeros((4, 6, 3), np.uint8)
  image[:1, :, 1] = 9  # a quarter of the pixels is of class 1
  compiled = set()
  slow, fast = demo.time_predictions(models, image, compiled)
  assert (slow.name, fast.name) == ('checkpoint', 'a.tflite')
  np.testing.assert_array_equal(slow.ids, image[..., 1] // 9)
  assert slow.milliseconds >= 20
  # A new shape is segmented twice: the first run compiles.
  demo.time_predictions(models, image, compiled)
  demo.time_predictions(models, image[:2], compiled)
  assert shapes == [(4, 6, 3)] * 3 + [(2, 6, 3)] * 2
  answers = [
    demo.TimedPrediction('checkpoint', slow.ids, 20.4),
    demo.TimedPrediction('a.tflite', fast.ids, 1.5001),
  ]
  assert demo.summarize_predictions(answers) == (
    'checkpoint: 20 ms, a.tflite: 2 ms, same class on 75.0% of the pixels'
  )
  assert demo.summarize_predictions(answers[:1]) == 'checkpoint: 20 ms'


def test_bad_models_are_one_error(monkeypatch):
  for weights in ([], ['a', 'b', 'c']):
    with pytest.raises(ValueError, match='--weights is required, once, or'):
      demo.load_segmenters(weights)
  others = ('a', 'b', 'c', 'd')
  models = {
    'runs/mine': _segmenter(_first),
    'x/f.tflite': _segmenter(_first),
    'x/g.tflite': _segmenter(_first, others),
    'y/f.tflite': _segmenter(_first),
    'wide': _segmenter(_first, pixels=image_format.ImageSpec(4, 16)),
  }
  monkeypatch.setattr(
    predict, 'load_segmenter', lambda name, max_pixels: models[name]
  )
  with pytest.raises(ValueError, match=r'x/g\.tflite has other classes than'):
    demo.load_segmenters(['runs/mine', 'x/g.tflite'])
  assert list(demo.load_segmenters(['runs/mine'])) == ['mine']
  assert list(demo.load_segmenters(['x/f.tflite'])) == ['f.tflite']
  both = demo.load_segmenters(['x/f.tflite', 'y/f.tflite'])
  assert list(both) == ['f.tflite', 'y/f.tflite']
  with pytest.raises(
    ValueError, match=r'takes images of 4 channels in 0\.\.65'
  ):
    demo.load_segmenters(['wide'])


def test_without_gradio_the_error_names_the_remedy(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(ValueError, match='install -r notebooks/'):
    demo.build_page({'checkpoint': _segmenter(_first)}, LIMITS)


def test_only_this_machine_may_open_the_page(monkeypatch):
  launches = []
  page = types.SimpleNamespace(launch=lambda **more: launches.append(more))
  monkeypatch.setattr(demo, 'import_gradio', lambda: None)
  monkeypatch.setattr(demo, 'load_segmenters', lambda *_: {})
  built = []
  monkeypatch.setattr(
    demo, 'build_page', lambda _, limits: built.append(limits) or page
  )
  monkeypatch.setattr(
    demo, 'limit_requests', lambda x: {'max_file_size': x.upload_bytes}
  )
  for more in ([], ['--host=0.0.0.0', '--max_megapixels=2.5']):
    values = flags.FlagValues()
    demo.define_flags(values)
    values(['', '--weights=W', *more])
    demo._run(values)
  assert [x['server_name'] for x in launches] == ['127.0.0.1', '0.0.0.0']
  assert [x['share'] for x in launches] == [False, False]
  assert built == [
    demo.Limits(upload_bytes=32 * 2**20, pixels=25_000_000, waiting=8),
    demo.Limits(upload_bytes=32 * 2**20, pixels=2_500_000, waiting=8),
  ]
  assert launches[0]['max_file_size'] == 32 * 2**20


def _png_header(width, height):
  """Returns a PNG file that ends after its header."""
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  chunk = b'IHDR' + header
  return (
    b'\x89PNG\r\n\x1a\n'
    + struct.pack('>I', len(header))
    + chunk
    + struct.pack('>I', zlib.crc32(chunk))
    + struct.pack('>I', 10**6)
    + b'IDAT'
  )


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    (
      'a.png',
      _png_header(8000, 4000),
      r'^a\.png has 8000x4000 pixels, and this ',
    ),
    (
      'b.png',
      _png_header(60000, 60000),
      r'^b\.png is not a picture .* too large',
    ),
    ('c.png', _png_header(100, 100), r'^c\.png: damaged or not an image'),
    ('d.png', b'no picture', r'^d\.png is not a picture that this page reads'),
    # Pillow would start Ghostscript for it.
    ('e.png', b'%!PS-Adobe-3.0 EPSF-3.0\n', r'^e\.png is not a picture'),
    ('f.png', None, r"^there is no picture 'f\.png' \(any more\): upload it"),
  ],
  ids=['large', 'bomb', 'cut', 'text', 'postscript', 'absent'],
)
def test_pictures_are_refused_by_their_headers(
  tmp_path, monkeypatch, name, content, message
):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  if name != 'c.png':
    monkeypatch.setattr(image_folder, 'read_image', None)  # nothing is decoded
  with pytest.raises(ValueError, match=message):
    demo.read_picture(tmp_path / name, 25_000_000)


def test_pictures_of_the_largest_size_are_read(tmp_path):
  image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
  visualize.save_image(image, tmp_path / 'a.png')
  np.testing.assert_array_equal(
    demo.read_picture(tmp_path / 'a.png', 20), image
  )
  with pytest.raises(ValueError, match=r'takes 1\.9e-05 megapixels at most'):
    demo.read_picture(tmp_path / 'a.png', 19)


@pytest.mark.parametrize(
  ('headers', 'status', 'received'),
  [
    ({}, 200, 0),
    ({'content-length': '1000'}, 200, 0),
    ({'content-length': '1001'}, 413, 3),  # read to its end, kept nowhere
    ({'content-length': '9999999999'}, 413, 0),
    ({'transfer-encoding': 'chunked'}, 411, 0),
  ],
)
def test_requests_are_refused_by_their_length(headers, status, received):
  parts = [{'more_body': True}, {'more_body': True}, {'more_body': False}]
  calls, sent = [], []

  async def receive():
    calls.append(1)
    return parts[len(calls) - 1]

  async def send(message):
    sent.append(message)

  async def app(scope, receive, send):
    await send({'status': 200, 'body': b''})

  scope = {
    'type': 'http',
    'headers': [(k.encode(), v.encode()) for k, v in headers.items()],
  }
  asyncio.run(demo.BodyLimit(app, 1000)(scope, receive, send))
  assert sent[0]['status'] == status
  assert len(calls) == received
  if status == 413:
    assert sent[1]['body'].endswith(
      b' bytes, and this page takes 1000 at most: upload a smaller file\n'
    )


def test_large_pictures_are_segmented_once():
  shapes = []

  def segment(images):
    shapes.append(images[0].shape)
    return _first(images)

  image = np.zeros((2048, 2049, 3), np.uint8)
  demo.time_predictions({'checkpoint': _segmenter(segment)}, image, set())
  assert shapes == [image.shape]


class _Page:
  """A page of one model, served by this process, and its visitors."""

  def __init__(self, segmenter, folder):
    self._environment = pytest.MonkeyPatch()
    self._environment.setenv('GRADIO_TEMP_DIR', str(folder))  # uploads
    self._port = _free_port()
    self._blocks = demo.build_page({'model': segmenter}, LIMITS)
    self._blocks.launch(
      server_port=self._port,
      prevent_thread_lock=True,
      quiet=True,
      show_error=True,
      ssr_mode=False,
      **demo.limit_requests(LIMITS),
    )

  def close(self):
    self._blocks.close(verbose=False)
    self._environment.undo()

  def request(self, method, path, body=None, kind=None):
    """Returns (status, body) of the answer."""
    connection = http.client.HTTPConnection('127.0.0.1', self._port, timeout=60)
    connection.request(
      method, path, body, {'Content-Type': kind} if kind else {}
    )
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found

  def upload(self, content, name='a.png'):
    """Uploads a file as the page does."""
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    return self.request(
      'POST',
      '/gradio_api/upload',
      b'--x\r\n%b\r\n\r\n%b\r\n--x--\r\n' % (head.encode(), content),
      'multipart/form-data; boundary=x',
    )

  def segment(self, path):
    """Returns (status, last line) for an uploaded file."""
    data = [{'path': path, 'meta': {'_type': 'gradio.FileData'}}, 1.0]
    status, body = self.request(
      'POST',
      '/gradio_api/call/segment',
      json.dumps({'data': data}),
      'application/json',
    )
    if status != 200:
      return status, body.decode()
    event = json.loads(body)['event_id']
    return self.request('GET', f'/gradio_api/call/segment/{event}')

  def overlay(self, image):
    """Uploads and segments an image; returns its overlay."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    (path,) = json.loads(self.upload(buffer.getvalue())[1])
    status, answer = self.segment(path)
    assert status == 200, answer
    found = re.search(rb'"url": "http://[^/]*(/[^"]*)"', answer)
    assert found, answer
    content = self.request('GET', found[1].decode())[1]
    return np.asarray(Image.open(io.BytesIO(content)).convert('RGB'))


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """The model of a small .tflite file."""
  pytest.importorskip('gradio', reason='see notebooks/requirements.txt')
  from tests.export import small  # TensorFlow, which takes seconds

  palette = [[200, 0, 0], [0, 200, 0], [0, 0, 200], [99, 99, 0], [0, 99, 99]]
  folder = tmp_path_factory.mktemp('tiny')
  return predict.from_tflite(small.write(folder, small.int8(), palette=palette))


@pytest.fixture(scope='module')
def page(tiny, tmp_path_factory):
  page = _Page(tiny, tmp_path_factory.mktemp('uploads'))
  yield page
  page.close()


def test_visitors_get_the_masks_of_their_own_pictures(page, tiny):
  rng = np.random.default_rng(0)
  images = [
    rng.integers(0, 256, (8, 8 + i % 3, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    for i in range(8)
  ]

  def visit(image):
    while True:
      try:
        return page.overlay(image)
      except AssertionError as error:
        if 'Queue is full' not in str(error):
          raise
        time.sleep(0.05)

  with futures.ThreadPoolExecutor(len(images)) as pool:
    overlays = list(pool.map(visit, images))
  for image, overlay in zip(images, overlays, strict=True):
    ids = tiny.predict(image)
    assert len(np.unique(ids)) > 1
    np.testing.assert_array_equal(
      overlay, visualize.draw_overlay(image, ids, tiny.palette, 1.0)
    )


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_what_the_page_refuses_over_http(page):
  def error(content):
    (path,) = json.loads(page.upload(content)[1])
    status, answer = page.segment(path)
    assert status == 200 and answer.startswith(b'event: error\n')
    return json.loads(answer.split(b'data: ', 1)[1])['error']

  assert error(_png_header(12000, 9000)) == (
    'a.png has 12000x9000 pixels, and this page takes 0.02 megapixels at most: '
    'upload a smaller picture, or use python -m deeplab.predict'
  )
  assert error(b'text').startswith(
    'a.png is not a picture that this page reads'
  )
  assert page.upload(bytes(100_001)) == (
    413,
    b'File size exceeded maximum allowed size of 100000 bytes.',
  )
  assert page.upload(bytes(1_000_000)) == (
    413,
    b'the request has 1000080 bytes, and this page takes 165536 at most: '
    b'upload a smaller file\n',
  )
  # No other file of this machine, and no other machine.
  for path, message in (
    ('/etc/passwd', b'it was not uploaded by a user'),
    ('https://example.com/a.png', b'this page opens no addresses'),
  ):
    assert message in page.segment(path)[1]
  # Nobody passes the queue.
  assert (
    page.request('POST', '/gradio_api/run/segment', '{"data": []}')[0] != 200
  )


def test_a_full_queue_answers_at_once(tmp_path):
  entered, leave = threading.Event(), threading.Event()

  def slow(images):
    entered.set()
    assert leave.wait(60)
    return _first(images)

  pytest.importorskip('gradio', reason='see notebooks/requirements.txt')
  page = _Page(_segmenter(slow), tmp_path)
  buffer = io.BytesIO()
  Image.new('RGB', (9, 9)).save(buffer, 'PNG')
  (path,) = json.loads(page.upload(buffer.getvalue())[1])
  with futures.ThreadPoolExecutor(8) as pool:
    try:
      first = pool.submit(page.segment, path)
      assert entered.wait(60)
      others = [pool.submit(page.segment, path) for _ in range(7)]
      deadline = time.monotonic() + 60
      while sum(x.done() for x in others) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
      refused = [x.result() for x in others if x.done()]
    finally:
      leave.set()
    answers = [first.result()[0], *(x.result()[0] for x in others)]
  page.close()
  # One is segmented, three wait, and four are told.
  assert (
    refused
    == [(503, '{"detail":"Queue is full. Max size is 3 and size is 3."}')] * 4
  )
  assert sorted(answers) == [200] * 4 + [503] * 4


@pytest.fixture
def browser():
  """A page of headless Chromium."""
  for name in ('gradio', 'playwright'):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'{name} is not installed: see notebooks/requirements.txt')
  chromium = shutil.which('chromium')
  if chromium is None:
    pytest.skip('Chromium is not installed')
  from playwright import sync_api

  with sync_api.sync_playwright() as playwright:
    started = playwright.chromium.launch(
      executable_path=chromium,
      args=[
        '--no-sandbox',
        '--use-fake-device-for-media-stream',  # a webcam, drawn
        '--use-fake-ui-for-media-stream',  # that may be used
      ],
    )
    yield started.new_page(viewport={'width': 1280, 'height': 720})
    started.close()


def _free_port():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    return s.getsockname()[1]


def _serve(*arguments):
  """Starts the command; returns (process, address) when it responds."""
  port = _free_port()
  process = subprocess.Popen(
    [sys.executable, '-m', 'deeplab.demo', *arguments, f'--port={port}'],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  address = f'http://127.0.0.1:{port}'
  deadline = time.monotonic() + 240
  while True:
    try:
      with urllib.request.urlopen(address):
        return process, address
    except OSError:
      assert process.poll() is None, process.communicate()[1]
      assert time.monotonic() < deadline
      time.sleep(0.5)


def _answers(host, port):
  with socket.socket() as s:
    s.settimeout(5)
    return s.connect_ex((host, port)) == 0


def _shown(browser, place):
  """Returns the pixels of an image on the page."""
  source = browser.get_attribute(f'#{place} img', 'src')
  with urllib.request.urlopen(source) as reply:
    return np.asarray(Image.open(io.BytesIO(reply.read())).convert('RGB'))


@pytest.mark.full
def test_an_uploaded_image_is_segmented(browser, smoke_run, tmp_path):
  exported = tmp_path / 'exported'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'export.main', f'--weights={smoke_run.workdir}'),
      *(
        f'--output={exported}',
        '--formats=int8',
        '--noeval',
        '--nodevice_checks',
      ),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  file = exported / 'int8.tflite'
  noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
  image = noise.repeat(16, 0).repeat(16, 1)
  visualize.save_image(image, tmp_path / 'picture.png')
  models = [
    predict.load_segmenter(smoke_run.workdir),
    predict.from_tflite(file),
  ]
  ids = [model.predict(image) for model in models]
  assert len(np.unique(ids[0])) > 1

  process, address = _serve(
    f'--weights={smoke_run.workdir}', f'--weights={file}'
  )
  try:
    called = []
    browser.on('request', lambda request: called.append(request.url))
    browser.goto(address)
    browser.set_input_files('#photo input', tmp_path / 'picture.png')
    browser.wait_for_selector('#overlay1 img', timeout=300_000)
    palette = models[0].palette
    for place, own in zip(('overlay0', 'overlay1'), ids, strict=True):
      np.testing.assert_array_equal(
        _shown(browser, place), visualize.draw_overlay(image, own, palette, 0.5)
      )
    summary = browser.inner_text('#summary')
    share = 100 * np.mean(ids[0] == ids[1])
    assert summary.startswith('checkpoint run: ') and 'int8.tflite: ' in summary
    assert summary.endswith(f'same class on {share:.1f}% of the pixels')
    np.testing.assert_array_equal(
      _shown(browser, 'legend'),
      visualize.draw_legend(models[0].class_names, palette, 800),
    )
    browser.screenshot(path=tmp_path / 'page.png')
    port = int(address.rpartition(':')[2])
    # This machine too, but not the one address that it is bound to.
    assert _answers('127.0.0.1', port) and not _answers('127.0.0.2', port)

    # Another opacity draws anew.
    before = browser.get_attribute('#overlay0 img', 'src')
    slider = browser.locator('#opacity input[type=range]')
    slider.click(position={'x': slider.bounding_box()['width'] - 1, 'y': 4})
    browser.wait_for_function(
      f'document.querySelector("#overlay0 img").src != "{before}"',
      timeout=120_000,
    )
    np.testing.assert_array_equal(
      _shown(browser, 'overlay0'),
      visualize.draw_overlay(image, ids[0], palette, 1),
    )

    # A picture of the webcam, once it shows any.
    browser.goto(address)
    browser.click('#photo button[aria-label="Capture from camera"]')
    browser.click('text=Click to Access Webcam')
    browser.wait_for_function(
      'document.querySelector("#photo video")?.readyState > 2',
      timeout=120_000,
    )
    browser.click('#photo button[aria-label="capture photo"]')
    browser.wait_for_selector('#overlay1 img', timeout=300_000)
    taken = _shown(browser, 'photo')
    assert min(taken.shape[:2]) > 100 and taken.std() > 10
    np.testing.assert_array_equal(
      _shown(browser, 'overlay0'),
      visualize.draw_overlay(taken, models[0].predict(taken), palette, 0.5),
    )
    browser.screenshot(path=tmp_path / 'webcam.png')

    # The page sent no request to other machines.
    assert {url.split('/')[2] for url in called if url.startswith('http')} == {
      address.removeprefix('http://')
    }
  finally:
    process.terminate()
    process.communicate(timeout=60)
