"""The demo page; the full tier opens it in a browser."""

import importlib.util
import io
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import types
import urllib.request

from absl import flags
import numpy as np
from PIL import Image
import pytest

from deeplab import demo
from deeplab import predict
from deeplab import visualize
from deeplab.data import image_format
from tests import evaluate_test

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _segmenter(
  segment, names=evaluate_test.INFO.class_names, pixels=image_format.RGB
):
  return predict.Segmenter(names, evaluate_test.INFO.palette, pixels, segment)


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
  with pytest.raises(ValueError, match='--workdir or --tflite is required'):
    demo.load_segmenters(None, None)
  others = ('a', 'b', 'c', 'd')
  monkeypatch.setattr(predict, 'from_workdir', lambda _: _segmenter(_first))
  monkeypatch.setattr(
    predict, 'from_tflite', lambda _: _segmenter(_first, others)
  )
  with pytest.raises(ValueError, match=r'x/f\.tflite has other classes than'):
    demo.load_segmenters('run', 'x/f.tflite')
  assert list(demo.load_segmenters('run', None)) == ['checkpoint']
  assert list(demo.load_segmenters(None, 'x/f.tflite')) == ['f.tflite']
  wide = _segmenter(_first, pixels=image_format.ImageSpec(4, 16))
  monkeypatch.setattr(predict, 'from_workdir', lambda _: wide)
  with pytest.raises(
    ValueError, match=r'takes images of 4 channels in 0\.\.65'
  ):
    demo.load_segmenters('run', None)


def test_without_gradio_the_error_names_the_remedy(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gradio', None)
  with pytest.raises(ValueError, match='install -r notebooks/'):
    demo.build_page({'checkpoint': _segmenter(_first)})


def test_only_this_machine_may_open_the_page(monkeypatch):
  launches = []
  page = types.SimpleNamespace(launch=lambda **more: launches.append(more))
  monkeypatch.setattr(demo, 'import_gradio', lambda: None)
  monkeypatch.setattr(demo, 'load_segmenters', lambda *_: {})
  monkeypatch.setattr(demo, 'build_page', lambda _: page)
  for more in ([], ['--host=0.0.0.0']):
    values = flags.FlagValues()
    demo.define_flags(values)
    values(['', '--workdir=W', *more])
    demo._run(values)
  assert [x['server_name'] for x in launches] == ['127.0.0.1', '0.0.0.0']
  assert [x['share'] for x in launches] == [False, False]


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


def _serve(*arguments):
  """Starts the command; returns (process, address) when it responds."""
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
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
      *(sys.executable, '-m', 'export.main', f'--workdir={smoke_run.workdir}'),
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
    predict.from_workdir(smoke_run.workdir),
    predict.from_tflite(file),
  ]
  ids = [model.predict(image) for model in models]
  assert len(np.unique(ids[0])) > 1

  process, address = _serve(
    f'--workdir={smoke_run.workdir}', f'--tflite={file}'
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
    assert summary.startswith('checkpoint: ') and 'int8.tflite: ' in summary
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
