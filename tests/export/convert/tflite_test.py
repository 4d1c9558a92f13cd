"""Conversion by TensorFlow: the graphs of all formats, and their outputs."""

import itertools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab.data import image_format
from deeplab.inference import litert
from deeplab.models import layers
from deeplab.models import resizing
from deeplab.models import segmenter
from export import request as request_lib
from export import source as source_lib
from export.convert import saved_model
from export.convert import tflite
from export.graph import tflite_graph
from tests.export import weights

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
SIZE = (33, 41)
NORM = layers.BatchNormConfig(0.9, 1e-3)


class Net(nn.Module):
  """Every operator of the model family once, in 12 channels."""

  @nn.compact
  def __call__(self, images, train=False):
    low = layers.ConvBN(
      12, NORM, kernel=3, stride=2, activation='relu6', name='stem'
    )(images, train)
    x = layers.SeparableConvBN(12, NORM, stride=2, name='down')(low, train)
    y = layers.SeparableConvBN(
      12, NORM, rate=2, activation='none', name='atrous'
    )(x, train)
    x = x + y
    pool = layers.ConvBN(12, NORM, name='pool')(
      nn.avg_pool(x, x.shape[1:3]), train
    )
    branches = [
      resizing.resize(pool, x.shape[1:3]),
      layers.ConvBN(12, NORM, kernel=3, rate=3, name='dense')(x, train),
    ]
    x = jnp.concatenate(branches, axis=-1)
    x = resizing.resize(x, low.shape[1:3])
    x = layers.Conv(5, use_bias=True, name='logits')(x)
    return segmenter.SegmenterOutput(resizing.resize(x, images.shape[1:3]))


def ask(*formats, **kwargs):
  return request_lib.make_request(
    formats=formats or ('int8',), input_size=SIZE, num_classes=5, **kwargs
  )


@pytest.fixture(scope='module')
def variables():
  return weights.draw(Net(), SIZE)


@pytest.fixture(scope='module')
def write(variables, tmp_path_factory):
  """Returns a function from a request to (function, SavedModel), cached."""
  cache = {}

  def make(request):
    key = (request.normalization_in_graph, request.output, request.output_type)
    if request.output != 'argmax':
      key = key[:2]
    if key not in cache:
      path = str(tmp_path_factory.mktemp('saved_model'))
      compute = saved_model.make_serving_function(
        Net(), variables, request, MEAN, STD
      )
      saved_model.write_saved_model(compute, (*SIZE, 3), path)
      cache[key] = compute, path
    return cache[key]

  return make


def images(count, seed=0):
  return source_lib.draw_synthetic_images(count, SIZE, seed)


def samples(request, count=16):
  return tflite.representative_dataset(
    images(count), SIZE, request.normalization_in_graph, MEAN, STD
  )


def run(data, request, image, folder):
  """Runs a file by the predictor that evaluation uses."""
  card = {
    'input_size': list(SIZE),
    'value_range': [0, 255],
    'mean': MEAN,
    'std': STD,
    'normalization_in_graph': request.normalization_in_graph,
    'output': request.output,
    'classes': list('abcde'),
    'palette': [[0, 0, 0]] * 5,
  }
  (folder / 'x.json').write_text(json.dumps(card))
  (folder / 'x.tflite').write_bytes(data)
  return litert.TFLitePredictor(folder / 'x.tflite')(image[None])


def expected(compute, request, image):
  x = np.float32(image)
  if not request.normalization_in_graph:
    x = (x - np.float32(MEAN)) / np.float32(STD)
  return np.asarray(jax.jit(compute)(x[None]))


BODY = {
  'CONV_2D': 6,
  'DEPTHWISE_CONV_2D': 2,
  'RESIZE_BILINEAR': 3,
  'ADD': 1,
  'AVERAGE_POOL_2D': 1,
  'CONCATENATION': 1,
  'MUL': 1,
  'SUB': 1,
}
# By hand: out * k * k * (Cin, or 1 for depthwise), on 33x41 -> 17x21 -> 9x11.
MACS = (
  17 * 21 * 12 * 9 * 3
  + 9 * 11 * 12 * 9
  + 9 * 11 * 12 * 12
  + 9 * 11 * 12 * 9
  + 9 * 11 * 12 * 12
  + 12 * 12
  + 9 * 11 * 12 * 9 * 12
  + 17 * 21 * 5 * 24
)


def test_float32(write, tmp_path):
  request = ask('float32')
  compute, path = write(request)
  data = tflite.convert_saved_model(path, 'float32', request)
  graph = tflite_graph.read_tflite(data)
  assert tflite_graph.count_operators(graph) == BODY
  assert tflite_graph.count_macs(graph) == MACS
  # The atrous layers really are: nothing was moved to a batch dimension, and
  # every convolution keeps the size of its map.
  image = images(1, seed=7)[0]
  np.testing.assert_allclose(
    run(data, request, image, tmp_path),
    expected(compute, request, image),
    atol=1e-4,
  )


def test_float16(write, tmp_path):
  request = ask('float16')
  compute, path = write(request)
  data = tflite.convert_saved_model(path, 'float16', request)
  graph = tflite_graph.read_tflite(data)
  operators = tflite_graph.count_operators(graph)
  assert operators.pop('DEQUANTIZE') > 10  # the weights, unpacked on loading
  assert operators == BODY
  image = images(1, seed=7)[0]
  np.testing.assert_allclose(
    run(data, request, image, tmp_path),
    expected(compute, request, image),
    atol=2e-2,
  )


def test_int8(write, tmp_path):
  """The input is uint8 pixel values, the output float32."""
  request = ask(input_type='uint8')
  compute, path = write(request)
  data = tflite.convert_saved_model(path, 'int8', request, samples(request))
  graph = tflite_graph.read_tflite(data)
  assert tflite_graph.count_operators(graph) == {
    **BODY,
    'QUANTIZE': 1,
    'DEQUANTIZE': 1,
  }
  dtypes = tflite_graph.count_operator_dtypes(graph)
  assert dtypes.pop('DEQUANTIZE') == {'float32': 1}
  assert all(set(d) == {'int8'} for d in dtypes.values())
  assert tflite_graph.count_macs(graph) == MACS
  assert tflite_graph.tensor_qparams(graph.tensors[graph.inputs[0]]) == {
    'scale': 1.0,
    'zero_point': 0,
  }
  image = images(1, seed=7)[0]
  found = run(data, request, image, tmp_path)
  wanted = expected(compute, request, image)
  assert np.mean(found.argmax(-1) == wanted.argmax(-1)) > 0.95
  assert np.std(found - wanted) < 0.05 * np.std(wanted)


def test_int8_is_deterministic(write):
  request = ask(input_type='uint8')
  _, path = write(request)
  first, second = (
    tflite.convert_saved_model(path, 'int8', request, samples(request, 2))
    for _ in 'ab'
  )
  assert first == second


def test_saved_model(write, tmp_path):
  request = ask('saved_model')
  compute, path = write(request)
  image = images(1, seed=7)[0]
  # TensorFlow takes a path for a pattern.
  folder = shutil.copytree(path, tmp_path / 'lr[1]' / 'saved_model')
  predictor = saved_model.SavedModelPredictor(folder, request, MEAN, STD)
  np.testing.assert_allclose(
    predictor(image[None]), expected(compute, request, image), atol=1e-4
  )
  assert predictor.with_output('logits') is predictor
  with pytest.raises(ValueError, match='gives logits, not argmax'):
    predictor.with_output('argmax')
  facts = saved_model.summarize_stablehlo(compute, (*SIZE, 3))
  assert facts['operators']['stablehlo.convolution'] == 8
  assert facts['operators']['odml.upsample_bilinear2d'] == 3
  assert 'stablehlo.dot_general' not in facts['operators']
  # Kernels, bias, and four vectors of 12 for each of seven BatchNorms.
  floats = (
    27 * 12 + 4 * 9 * 12 // 2 + 2 * 144 + 144 + 9 * 144 + 24 * 5 + 5 + 7 * 48
  )
  assert floats <= facts['weight_bytes'] / 4 <= floats + 60


@pytest.mark.parametrize(
  ('input_type', 'output_type'),
  [('int8', 'int8'), ('float32', 'uint8')],
)
def test_int8_softmax(write, tmp_path, input_type, output_type):
  request = ask(
    normalization='caller',
    input_type=input_type,
    output='softmax',
    output_type=output_type,
  )
  compute, path = write(request)
  data = tflite.convert_saved_model(path, 'int8', request, samples(request))
  operators = tflite_graph.count_operators(tflite_graph.read_tflite(data))
  assert operators['SOFTMAX'] == 1
  assert 'SUB' not in operators
  image = images(1, seed=7)[0]
  found = run(data, request, image, tmp_path)
  wanted = expected(compute, request, image)
  assert np.mean(found.argmax(-1) == wanted.argmax(-1)) > 0.93
  assert np.abs(found - wanted).max() < 0.15


def test_int8_ids_in_one_byte(write, tmp_path):
  request = ask(input_type='int8', output='argmax', output_type='uint8')
  compute, path = write(request)
  data = tflite.convert_saved_model(path, 'int8', request, samples(request))
  graph = tflite_graph.read_tflite(data)
  operators = tflite_graph.count_operators(graph)
  assert (operators['ARG_MAX'], operators['CAST']) == (1, 1)
  assert graph.tensors[graph.outputs[0]].shape == (1, *SIZE)
  image = images(1, seed=7)[0]
  wanted = expected(compute, request, image)
  assert np.mean(run(data, request, image, tmp_path) == wanted) > 0.95


@pytest.mark.full
@pytest.mark.parametrize(
  ('normalization', 'input_type', 'output', 'output_type'),
  [
    (n, i, *o)
    for n, i, o in itertools.product(
      ('graph', 'caller'),
      request_lib.INPUT_TYPES,
      [(k, t) for k in ('logits', 'softmax') for t in request_lib.INPUT_TYPES]
      + [('argmax', 'int32'), ('argmax', 'uint8')],
    )
  ],
)
def test_every_request_of_int8(
  write, tmp_path, normalization, input_type, output, output_type
):
  request = ask(
    normalization=normalization,
    input_type=input_type,
    output=output,
    output_type=output_type,
  )
  compute, path = write(request)
  data = tflite.convert_saved_model(path, 'int8', request, samples(request))
  image = images(1, seed=7)[0]
  found = run(data, request, image, tmp_path)
  wanted = expected(compute, request, image)
  if output != 'argmax':
    found, wanted = found.argmax(-1), wanted.argmax(-1)
  assert np.mean(found == wanted) > 0.93


class Strided(nn.Module):
  """Two strided convolutions of one kind of padding, and the logits."""

  padding: str

  @nn.compact
  def __call__(self, images, train=False):
    x = layers.ConvBN(
      4, NORM, kernel=3, stride=2, padding=self.padding, name='stem'
    )(images, train)
    x = layers.SeparableConvBN(
      4, NORM, stride=2, padding=self.padding, name='down'
    )(x, train)
    x = layers.Conv(5, use_bias=True, name='logits')(x)
    return segmenter.SegmenterOutput(resizing.resize(x, images.shape[1:3]))


@pytest.mark.parametrize(
  ('padding', 'pads'), [('same', 0), ('keras', 0), ('symmetric', 2)]
)
def test_padding_of_even_maps(padding, pads, tmp_path):
  """Keras pads the end of even maps only, as SAME does: no PAD operator."""
  size = (32, 40)
  network = Strided(padding)
  request = request_lib.make_request(
    formats=('int8',), input_size=size, num_classes=5
  )
  compute = saved_model.make_serving_function(
    network, weights.draw(network, size), request, MEAN, STD
  )
  path = str(tmp_path)
  saved_model.write_saved_model(compute, (*size, 3), path)
  images = source_lib.draw_synthetic_images(4, size, 0)
  drawn = tflite.representative_dataset(images, size, True, MEAN, STD)
  graph = tflite_graph.read_tflite(
    tflite.convert_saved_model(path, 'int8', request, drawn)
  )
  assert [op.name for op in graph.operators].count('PAD') == pads
  first = next(op for op in graph.operators if op.name == 'CONV_2D')
  assert graph.tensors[first.outputs[0]].shape == (1, 16, 20, 4)


def test_a_composite_that_is_not_lowered_is_rejected(tmp_path):
  """The converter keeps unknown composites without an error."""

  def compute(image):
    halve = jax.lax.composite(lambda x: x * 0.5, name='my.halve')
    return halve(image)

  path = str(tmp_path)
  saved_model.write_saved_model(compute, (*SIZE, 3), path)
  with pytest.raises(
    tflite_graph.BadGraph, match=r'STABLEHLO_COMPOSITE .*tensor'
  ):
    tflite.convert_saved_model(path, 'float32', ask('float32'))


def test_an_error_of_the_converter_names_the_operator(tmp_path):
  compute = lambda image: jax.lax.population_count(image.astype(jnp.int32))
  path = str(tmp_path)
  saved_model.write_saved_model(compute, (*SIZE, 3), path)
  with pytest.raises(
    ValueError, match=r'cannot convert the model to float32: .*opulation'
  ):
    tflite.convert_saved_model(path, 'float32', ask('float32'))


def test_invalid_arguments(tmp_path):
  with pytest.raises(ValueError, match="kind='int4' is not one of"):
    tflite.convert_saved_model(str(tmp_path), 'int4', ask())
  with pytest.raises(ValueError, match='there are none'):
    tflite.convert_saved_model(str(tmp_path), 'int8', ask())


def test_samples_span_all_pixel_values_and_leave_images_alone():
  images = [np.full((4, 5, 3), 100, np.uint8), np.full((8, 10, 3), 50.0)]
  raw = list(
    tflite.representative_dataset(images, (4, 5), True, (50, 0, 0), (2, 1, 1))
  )
  assert [x.shape for x in raw] == [(1, 4, 5, 3)] * 2
  assert raw[0].dtype == np.float32
  assert (raw[0].min(), raw[0].max(), np.median(raw[0])) == (0, 255, 100)
  assert (raw[1] == 50).all()
  assert (images[0] == 100).all()
  normal = list(
    tflite.representative_dataset(images, (4, 5), False, (50, 0, 0), (2, 1, 1))
  )
  np.testing.assert_array_equal(normal[1][0, 0, 0], [0, 50, 50])
  np.testing.assert_array_equal(normal[0][0, 0, 0], [-25, 0, 0])


def test_samples_of_16_bits():
  pixels = image_format.ImageSpec(5, 16)
  (image,) = source_lib.draw_synthetic_images(1, (9, 7), 3, pixels)
  (sample,) = tflite.representative_dataset(
    [image // 2], (9, 7), True, (1.0,) * 5, (1.0,) * 5, pixels.max_value
  )
  assert sample.shape == (1, 9, 7, 5)
  assert (sample[0, 0, 0] == 0).all()
  assert (sample[0, -1, -1] == 65535).all()
