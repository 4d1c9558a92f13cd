"""Damaged files and useless inputs raise one clear error each."""

import hashlib

import numpy as np
import pytest

from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.quantization import rules
from deeplab.quantization.ptq import calibration
from export.devices import measure
from export.devices import vela
from export.graph import tflite_graph
from tests.export import small


def flipped(content, seed, count=8):
  """Returns the content with a few bytes replaced by random ones."""
  rng = np.random.default_rng(seed)
  data = bytearray(content)
  for place in rng.integers(8, len(data), count):
    data[place] = int(rng.integers(256))
  return bytes(data)


DAMAGED = {
  'empty': lambda x: b'',
  'header alone': lambda x: x[:8],
  'half': lambda x: x[: len(x) // 2],
  'without its end': lambda x: x[:-1],
  'bytes of noise': lambda x: flipped(x, 0),
  'text': lambda x: b'<html>not found</html>',
}


@pytest.mark.parametrize('kind', DAMAGED)
def test_predictors_refuse_damaged_files(tmp_path, kind):
  content = small.int8()
  path = small.write(
    tmp_path,
    DAMAGED[kind](content),
    sha256=hashlib.sha256(content).hexdigest(),
  )
  with pytest.raises(
    ValueError, match=r'damaged or was replaced|is not a TensorFlow Lite file'
  ):
    load.load_predictor(path)


def test_reading_a_graph_raises_value_errors_only():
  """Truncated files, and a few hundred with random bytes."""
  content = small.int8()
  refused = 0
  cases = [content[:end] for end in range(8, len(content), 97)]
  cases += [flipped(content, seed, count=64) for seed in range(200)]
  for data in cases:
    try:
      tflite_graph.read_tflite(data)
    except ValueError as error:
      assert str(error)
      refused += 1
  assert refused > 50


def test_the_compiler_gets_half_a_file(tmp_path):
  path = tmp_path / 'half.tflite'
  path.write_bytes(small.int8()[:1500])
  with pytest.raises(ValueError, match=r'Vela cannot compile .*half\.tflite'):
    vela.compile_file(str(path))
  found = measure.check_vela(str(path))
  assert all('the file' in x['error'] for x in found.values())


def test_an_image_of_another_size(tmp_path):
  predictor = load.load_predictor(small.write(tmp_path, small.int8()))
  with pytest.raises(ValueError, match=r'takes images of \(16, 24, 3\), not'):
    predictor(np.zeros((1, 24, 16, 3), np.uint8))
  with pytest.raises(ValueError, match='computes at'):
    predictors.ResizedPredictor(predictor, (8, 8))


def test_a_card_of_another_size(tmp_path):
  path = small.write(tmp_path, small.int8(), input_size=[32, 32])
  with pytest.raises(ValueError, match='the card belongs to another file'):
    load.load_predictor(path)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    ([np.eye(3)[None].repeat(4, 0)], '1 calibration images are too few'),
    ([np.full((4, 4, 3), i) for i in range(3)], 'all 3 .* a single color each'),
  ],
)
def test_useless_calibration_images(images, message):
  with pytest.raises(ValueError, match=message):
    calibration.check_images(images)
  # Training in simulated int8 starts with this calibration.
  with pytest.raises(ValueError, match=message):
    calibration.calibrate_ranges(
      None,
      rules.Rules(),
      {},
      images,
      mean=(0.0,),
      std=(1.0,),
      method='minmax',
      percentile=100.0,
    )


def test_useful_calibration_images():
  calibration.check_images([np.zeros((4, 4, 3)), np.eye(3)[None].repeat(4, 0)])
