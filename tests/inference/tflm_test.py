"""Predictions of TensorFlow Lite Micro against LiteRT."""

import numpy as np
import pytest

from deeplab.inference import interpreters
from deeplab.inference import litert
from deeplab.inference import tflm
from tests.export import small
from tests.inference import concurrency

needs_tflm = pytest.mark.skipif(
  not interpreters.has_tflm(), reason='tflite-micro is not installed'
)


@needs_tflm
def test_tflm_predicts_like_the_reference_kernels(tmp_path):
  path = small.write(tmp_path, small.int8())
  images = np.stack([small.image(i) for i in range(3)])
  predictor = tflm.TFLMPredictor(path)
  reference = litert.TFLitePredictor(path, resolver='reference')
  assert predictor.resolver == 'tflm'
  assert predictor.input_size == small.SIZE
  logits = predictor(images)
  assert logits.shape == (3, *small.SIZE, small.CLASSES)
  assert np.ptp(logits) > 1
  np.testing.assert_array_equal(logits, reference(images))
  np.testing.assert_array_equal(
    predictor.with_output('argmax')(images), logits.argmax(-1)
  )


@needs_tflm
def test_threads_get_the_outputs_of_their_own_images(tmp_path):
  predictor = tflm.TFLMPredictor(small.write(tmp_path, small.int8()))
  images = [small.image(i)[None] for i in range(concurrency.THREADS)]
  wrong = concurrency.count_wrong(predictor, images)
  assert wrong == [0] * concurrency.THREADS


def test_without_the_package(monkeypatch):
  monkeypatch.setattr(interpreters, 'has_tflm', lambda: False)
  with pytest.raises(ValueError, match='Lite Micro is not installed'):
    interpreters.open_tflm(b'')


@needs_tflm
def test_a_truncated_file_is_an_error(tmp_path):
  path = small.write(tmp_path, small.int8()[:300])
  with pytest.raises(
    ValueError, match=rf'cannot load {path}: it is cut or damaged'
  ):
    tflm.TFLMPredictor(path)
