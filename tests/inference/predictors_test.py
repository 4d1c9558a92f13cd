"""Predictors of Flax models, and of models of a fixed size."""

from concurrent import futures
import threading
from typing import NamedTuple

import numpy as np
import pytest

from deeplab import parallel
from deeplab.data import resize
from deeplab.inference import predictors
from tests.inference import concurrency

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
WEIGHTS = np.array(
  [[0.9, -0.5, 0.1, 0.0], [-0.4, 1.1, 0.2, 0.3], [0.2, 0.1, -0.8, 0.6]],
  np.float32,
)


class Output(NamedTuple):
  logits: object


class Pointwise:
  """A 1x1 convolution instead of a network."""

  traces = 0

  def apply(self, variables, images):
    Pointwise.traces += 1
    return Output(images @ variables['w'])


def images(count=3, size=(6, 5), seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, *size, 3), np.uint8)


def expected(x):
  return (x.astype(np.float64) - MEAN) / STD @ WEIGHTS.astype(np.float64)


def flax_predictor(output='logits'):
  return predictors.FlaxPredictor(
    Pointwise(), {'w': WEIGHTS}, MEAN, STD, output
  )


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_flax_outputs(dtype):
  x = images().astype(dtype)
  predictor = flax_predictor()
  assert predictor.input_size is None
  assert predictor.mean == MEAN
  logits = predictor(x)
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, expected(x), atol=1e-4)
  soft = predictor.with_output('softmax')(x)
  powers = np.exp(expected(x))
  np.testing.assert_allclose(
    soft, powers / powers.sum(-1, keepdims=True), atol=1e-5
  )
  ids = predictor.with_output('argmax')(x)
  assert ids.dtype == np.uint8
  np.testing.assert_array_equal(ids, expected(x).argmax(-1))
  assert predictor.with_output('logits') is predictor


def test_last_batch_and_other_weights_need_no_compilation():
  predictor = flax_predictor('argmax')
  predictor(images(4))
  before = Pointwise.traces
  x = images(1, seed=1)
  ids = predictor(x)
  np.testing.assert_array_equal(ids, expected(x).argmax(-1))
  other = predictor.with_variables({'w': -WEIGHTS})
  np.testing.assert_array_equal(other(x), expected(x).argmin(-1))
  np.testing.assert_array_equal(predictor(x), ids)
  assert Pointwise.traces == before


def test_a_batch_is_spread_over_the_devices(monkeypatch):
  calls = []
  mapped = parallel.MappedPredict

  def spy(fn):
    calls.append(fn)
    return mapped(fn)

  monkeypatch.setattr(parallel, 'MappedPredict', spy)
  predictor = flax_predictor()
  for count in (5, 2, 3):
    assert predictor(images(count)).shape == (count, 6, 5, 4)
  assert len(calls) == 1


def test_threads_get_their_own_outputs_and_compile_once():
  predictor = flax_predictor()
  predictor(images(3))  # smaller batches are filled up to three
  before = Pointwise.traces
  inputs = [images(1 + i % 3, seed=i) for i in range(concurrency.THREADS)]
  wrong = concurrency.count_wrong(predictor, inputs)
  assert wrong == [0] * concurrency.THREADS
  assert Pointwise.traces == before


def test_threads_that_meet_a_new_size_compile_it_once():
  predictor = flax_predictor()
  before = Pointwise.traces
  barrier = threading.Barrier(concurrency.THREADS)

  def call(i):
    barrier.wait()
    return predictor(images(2, (9, 7), seed=i))

  with futures.ThreadPoolExecutor(concurrency.THREADS) as pool:
    outputs = list(pool.map(call, range(concurrency.THREADS)))
  for i, output in enumerate(outputs):
    np.testing.assert_allclose(
      output, expected(images(2, (9, 7), seed=i)), atol=1e-4
    )
  assert Pointwise.traces == before + 1


def test_unknown_output_is_rejected():
  with pytest.raises(ValueError, match="output='labels'"):
    flax_predictor('labels')


@pytest.mark.parametrize('output', predictors.OUTPUTS)
def test_resized_protocol(output):
  x = np.repeat(np.repeat(images(2, (4, 4)), 3, axis=1), 3, axis=2)
  predictor = predictors.fixed_size_predictor(flax_predictor(), (8, 8), output)
  assert predictor.input_size == (8, 8)
  assert predictor.output == output
  inner = flax_predictor(output)
  small = np.stack([resize.resize_bilinear(i, (8, 8)) for i in x])
  to_size = (
    resize.resize_nearest if output == 'argmax' else resize.resize_bilinear
  )
  np.testing.assert_array_equal(
    predictor(x), np.stack([to_size(o, (12, 12)) for o in inner(small)])
  )
  ids = predictor(x) if output == 'argmax' else predictor(x).argmax(-1)
  np.testing.assert_array_equal([predictor.segment(i) for i in x], ids)


def test_resizing_to_the_size_of_the_image_changes_nothing():
  x = images(2, (8, 8))
  predictor = predictors.fixed_size_predictor(flax_predictor(), (8, 8))
  np.testing.assert_array_equal(predictor(x), flax_predictor()(x))


def test_a_predictor_of_another_size_cannot_be_resized():
  inner = predictors.fixed_size_predictor(flax_predictor(), (8, 8))
  with pytest.raises(ValueError, match=r'at \(8, 8\), not at \(4, 4\)'):
    predictors.ResizedPredictor(inner, (4, 4))


@pytest.mark.parametrize('output', ['logits', 'argmax'])
def test_shapes_to_come_are_compiled_in_a_thread(output):
  predictor = flax_predictor(output)
  batches = [((1, 6, 5, 3), np.uint8), ((1, 9, 4, 3), np.float32)]
  before = Pointwise.traces
  with futures.ThreadPoolExecutor(1) as executor:
    predictor.compile_ahead(batches, executor)
  assert Pointwise.traces == before + 2
  for (_, height, width, _), dtype in batches:
    x = images(1, (height, width)).astype(dtype)
    result = predictor(x)
    if output == 'logits':
      np.testing.assert_allclose(result, expected(x), atol=1e-4)
    else:
      np.testing.assert_array_equal(result, expected(x).argmax(-1))
  assert Pointwise.traces == before + 2


def test_a_shape_is_compiled_at_once_when_the_thread_has_not_begun():
  predictor = flax_predictor()
  before = Pointwise.traces
  started, go_on = threading.Event(), threading.Event()
  with futures.ThreadPoolExecutor(1) as executor:

    def wait():
      started.set()
      go_on.wait()

    executor.submit(wait)
    started.wait()
    predictor.compile_ahead([((1, 6, 5, 3), np.uint8)], executor)
    np.testing.assert_allclose(
      predictor(images(1)), expected(images(1)), atol=1e-4
    )
    go_on.set()
  assert Pointwise.traces == before + 1  # and not by the thread, later


def test_an_error_of_the_thread_is_that_of_the_call():
  predictor = flax_predictor()
  with futures.ThreadPoolExecutor(1) as executor:
    predictor.compile_ahead([((1, 6, 5, 4), np.uint8)], executor)
  with pytest.raises(ValueError, match='Incompatible shapes'):
    predictor(np.zeros((1, 6, 5, 4), np.uint8))
