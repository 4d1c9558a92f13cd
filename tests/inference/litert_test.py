"""Converted .tflite files of all types against the function in NumPy."""

import hashlib
import json

import numpy as np
import pytest

from deeplab.data import dataset_info
from deeplab.data import image_format
from deeplab.inference import interpreters
from deeplab.inference import litert
from deeplab.inference import predictors
from tests.export import handmade
from tests.export import small
from tests.inference import concurrency
from tests.inference import predictors_test


def _convert(normalized, output, input_type, output_type):
  """Converts a 1x1 convolution; integer types quantize all of it."""
  tf = pytest.importorskip('tensorflow')
  weights = predictors_test.WEIGHTS.reshape(1, 1, 3, 4)

  @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
  def net(x):
    if normalized:
      x = (x - tf.constant(predictors_test.MEAN)) / tf.constant(
        predictors_test.STD
      )
    x = tf.nn.conv2d(x, weights, 1, 'SAME')
    if output == 'softmax':
      x = tf.nn.softmax(x)
    if output == 'argmax':
      x = tf.argmax(x, -1, output_type=tf.int32)
    return x

  module = tf.Module()
  module.net = net
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [net.get_concrete_function()], module
  )
  if input_type != 'float32':

    def calibrate():
      for seed in range(4):
        x = predictors_test.images(1, (8, 8), seed).astype(np.float32)
        yield [
          x
          if normalized
          else (x - np.float32(predictors_test.MEAN))
          / np.float32(predictors_test.STD)
        ]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibrate
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.dtypes.as_dtype(input_type)
    converter.inference_output_type = tf.dtypes.as_dtype(output_type)
  return converter.convert()


def _write(folder, content, **changes):
  card = {
    'input_size': [8, 8],
    'value_range': [0, 255],
    'mean': predictors_test.MEAN,
    'std': predictors_test.STD,
    'normalization_in_graph': True,
    'output': 'logits',
    'classes': ['a', 'b', 'c', 'd'],
    'palette': [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]],
  }
  card.update(changes)
  path = folder / 'model.tflite'
  path.write_bytes(content)
  path.with_suffix('.json').write_text(json.dumps(card))
  return path


@pytest.fixture(scope='module')
def float_file():
  return _convert(True, 'logits', 'float32', 'float32')


@pytest.mark.parametrize('resolver', interpreters.RESOLVERS)
def test_tflite_float(tmp_path, float_file, resolver):
  path = _write(tmp_path, float_file)
  predictor = litert.TFLitePredictor(path, resolver=resolver, num_threads=1)
  assert predictor.input_size == (8, 8)
  assert predictor.batch_size == 1
  assert predictor.image_spec == image_format.RGB
  x = predictors_test.images(3, (8, 8))
  np.testing.assert_allclose(
    predictor(x), predictors_test.expected(x), atol=1e-4
  )
  np.testing.assert_array_equal(
    predictor.with_output('argmax')(x), predictors_test.expected(x).argmax(-1)
  )
  np.testing.assert_allclose(
    predictor.with_output('softmax')(x),
    predictors.softmax(predictors_test.expected(x)),
    atol=1e-5,
  )


@pytest.mark.parametrize(
  ('normalized', 'output', 'input_type', 'output_type', 'tolerance'),
  [
    (False, 'logits', 'float32', 'float32', 1e-4),
    (True, 'logits', 'uint8', 'float32', 0.15),
    (False, 'logits', 'int8', 'int8', 0.15),
    (True, 'softmax', 'uint8', 'uint8', 0.05),
  ],
)
def test_tflite_types(
  tmp_path, normalized, output, input_type, output_type, tolerance
):
  content = _convert(normalized, output, input_type, output_type)
  path = _write(
    tmp_path, content, normalization_in_graph=normalized, output=output
  )
  predictor = litert.TFLitePredictor(path)
  x = predictors_test.images(2, (8, 8))
  want = predictors_test.expected(x)
  if output == 'softmax':
    want = predictors.softmax(want)
  got = predictor(x)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=tolerance)


def test_tflite_argmax_has_no_other_output(tmp_path):
  content = _convert(True, 'argmax', 'float32', 'float32')
  predictor = litert.TFLitePredictor(_write(tmp_path, content, output='argmax'))
  assert predictor.output == 'argmax'
  x = predictors_test.images(2, (8, 8))
  np.testing.assert_array_equal(
    predictor(x), predictors_test.expected(x).argmax(-1)
  )
  with pytest.raises(ValueError, match='no softmax can be made'):
    predictor.with_output('softmax')


def test_cards_and_images_that_do_not_fit_are_rejected(tmp_path, float_file):
  path = _write(tmp_path, float_file)
  with pytest.raises(ValueError, match=r'\(8, 8, 3\), not \(9, 9, 3\)'):
    litert.TFLitePredictor(path)(predictors_test.images(1, (9, 9)))
  with pytest.raises(ValueError, match="resolver='fast'"):
    litert.TFLitePredictor(path, resolver='fast')
  _write(tmp_path, float_file, input_size=[16, 16])
  with pytest.raises(ValueError, match='card belongs to another file'):
    litert.TFLitePredictor(path)
  _write(tmp_path, float_file, mean=[1, 2, 3, 4], std=[1, 1, 1, 1])
  with pytest.raises(ValueError, match=r'of \[8, 8, 3\], .* says \[8, 8, 4\]'):
    litert.TFLitePredictor(path)
  _write(tmp_path, float_file, output='labels')
  with pytest.raises(ValueError, match=r'output must be one of .*"labels"'):
    litert.TFLitePredictor(path)
  path.with_suffix('.json').write_text('{"mean": [1, 2, 3]}')
  with pytest.raises(ValueError, match='lacks input_size, value_range, std'):
    litert.TFLitePredictor(path)
  path.with_suffix('.json').write_text('no JSON')
  with pytest.raises(ValueError, match='is not valid JSON'):
    litert.TFLitePredictor(path)
  path.with_suffix('.json').unlink()
  with pytest.raises(ValueError, match=r'put model\.json'):
    litert.TFLitePredictor(path)


def test_errors_name_the_file(tmp_path, float_file):
  with pytest.raises(ValueError, match=r'no file .*none'):
    litert.TFLitePredictor(tmp_path / 'none.tflite')
  path = _write(tmp_path, b'\x89PNG rather')
  with pytest.raises(ValueError, match=r'model\.tflite is not a TensorFlow'):
    litert.TFLitePredictor(path)
  path = _write(tmp_path, float_file[:400])
  with pytest.raises(ValueError, match=r'cannot load .*model\.tflite'):
    litert.TFLitePredictor(path)


def test_threads_get_the_outputs_of_their_own_images(tmp_path):
  path = small.write(tmp_path, small.int8())
  predictor = litert.TFLitePredictor(path)
  ids = predictor.with_output('argmax')  # shares the interpreter
  images = [small.image(i)[None] for i in range(concurrency.THREADS)]

  def call(image):
    return np.concatenate([predictor(image).argmax(-1), ids(image)])

  assert concurrency.count_wrong(call, images) == [0] * concurrency.THREADS


def test_the_hash_in_the_card_detects_damage(tmp_path):
  """One bit of the weights is flipped: still a valid TFLite file."""
  content = small.int8()
  digest = hashlib.sha256(content).hexdigest()
  path = small.write(tmp_path, content, sha256=digest)
  assert litert.TFLitePredictor(path).input_size == small.SIZE
  place = len(content) // 2
  damaged = bytes([content[place] ^ 1])
  small.write(
    tmp_path, content[:place] + damaged + content[place + 1 :], sha256=digest
  )
  with pytest.raises(ValueError, match='damaged or was replaced'):
    litert.TFLitePredictor(path)


def _relu(image=b'image', shape=(1, 8, 8, 3)):
  """Returns a file of one operator, whose input nothing computes."""
  content = handmade.build(
    [
      handmade.tensor('image', 'float32', (1, 8, 8, 3)),
      handmade.tensor('other', 'float32', (1, 8, 8, 3)),
      handmade.tensor('map', 'float32', shape),
    ],
    [('RELU', (1,), (2,))],
    (0,),
    (2,),
  )
  return content.replace(b'image', image)


def test_files_that_load_and_do_not_run_are_named(tmp_path):
  classes = {'classes': ['a', 'b', 'c'], 'palette': [[0, 0, 0]] * 3}
  predictor = litert.TFLitePredictor(_write(tmp_path, _relu(), **classes))
  with pytest.raises(ValueError, match=r'cannot run .*model\.tflite: .*lacks'):
    predictor(np.zeros((1, 8, 8, 3), np.uint8))


def test_names_that_are_no_text_and_wrong_shapes_fail(tmp_path):
  """The stored shape alone made XNNPACK take 1.5 GiB."""
  path = _write(tmp_path, _relu(b'im\xfege'))
  with pytest.raises(
    ValueError, match=r'load .*model\.tflite: a name is not UTF-8'
  ):
    litert.TFLitePredictor(path)
  path = _write(tmp_path, _relu(shape=(1 << 20, 8, 8, 3)))
  with pytest.raises(
    ValueError, match=r"'map' is stored as \[1048576, 8, 8, 3\] and computed "
  ):
    litert.TFLitePredictor(path)


@pytest.mark.parametrize('field', [8, 12])
def test_files_without_a_graph_fail(tmp_path, field):
  """LiteRT reads the first of no graphs, and the process ends."""
  content = bytearray(_relu())
  root = int.from_bytes(content[:4], 'little')
  offset = int.from_bytes(content[root : root + 4], 'little', signed=True)
  table = root - offset  # of the places of the fields: 8 graphs, 12 buffers
  content[table + field : table + field + 2] = bytes(2)
  with pytest.raises(ValueError, match=r'load .*tflite: it holds no graph'):
    litert.TFLitePredictor(_write(tmp_path, bytes(content)))


def _info(count):
  return dataset_info.DatasetInfo(
    'letters', tuple('abcdefgh'[:count]), ((0, 0, 0),) * count, None
  )


@pytest.mark.parametrize('output', predictors.OUTPUTS)
def test_files_of_other_programs_need_no_card(tmp_path, float_file, output):
  """Normalized images in, and the output that the last operator computes."""
  content = _convert(False, output, 'float32', 'float32')
  (tmp_path / 'theirs.tflite').write_bytes(content)
  ours = litert.TFLitePredictor(_write(tmp_path, float_file))
  theirs = litert.open_without_card(
    tmp_path / 'theirs.tflite',
    _info(4),
    image_format.RGB,
    predictors_test.MEAN,
    predictors_test.STD,
  )
  assert theirs.output == output
  x = predictors_test.images(2, (8, 8))
  np.testing.assert_allclose(
    theirs(x), ours.with_output(output)(x), rtol=1e-4, atol=1e-4
  )


def test_files_of_other_programs_with_other_classes(tmp_path):
  path = tmp_path / 'theirs.tflite'
  path.write_bytes(_relu())
  open_it = lambda count: litert.open_without_card(
    path, _info(count), image_format.RGB, (0.0,) * 3, (1.0,) * 3
  )
  with pytest.raises(
    ValueError, match=r'values of 3 classes and letters has 5'
  ):
    open_it(5)
  path.write_bytes(_relu(b'im\xfege'))
  with pytest.raises(ValueError, match=r'theirs\.tflite: a name is not UTF-8'):
    open_it(3)
  path.write_bytes(b'<html>please log in</html>')
  with pytest.raises(
    ValueError, match=r'theirs\.tflite is not a TensorFlow Lite'
  ):
    open_it(3)
