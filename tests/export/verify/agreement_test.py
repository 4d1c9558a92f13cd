import numpy as np
import pytest

from export.verify import agreement


class Fake:
  """Answers with what it was given, in order."""

  input_size = (2, 2)
  batch_size = None
  mean = (0.0, 0.0, 0.0)

  def __init__(self, answers, output='argmax'):
    self._answers = [np.uint8(x) for x in answers]
    self.output = output

  def __call__(self, images):
    taken = self._answers[: len(images)]
    del self._answers[: len(images)]
    if self.output == 'logits':
      return np.stack([np.eye(3, dtype=np.float32)[x] for x in taken])
    return np.stack(taken)


def images(count):
  return np.zeros((count, 2, 2, 3), np.uint8)


def test_shares_by_class():
  first = agreement.PredictionRecorder(
    Fake([[[0, 0], [1, 1]], [[0, 0], [0, 1]]])
  )
  first(images(2))
  assert len(first) == 2
  np.testing.assert_array_equal(first.prediction(1), [[0, 0], [0, 1]])
  # One at a time, as scores, and one pixel of each class is another.
  second = agreement.PredictionComparer(
    Fake([[[0, 2], [1, 1]], [[0, 0], [0, 0]]], 'logits'), first, 3
  )
  second(images(1))
  second(images(1))
  np.testing.assert_array_equal(
    second.confusion.matrix, [[4, 0, 1], [1, 2, 0], [0, 0, 0]]
  )
  assert second.agreement_shares() == {
    'all': pytest.approx(6 / 8),
    'classes': [pytest.approx(4 / 5), pytest.approx(2 / 3), None],
  }


def test_smaller_maps_are_enlarged():
  first = agreement.PredictionRecorder(Fake([[[1, 1], [1, 1]]]))
  first(images(1))
  second = agreement.PredictionComparer(Fake([[[1]]]), first, 2)
  second(images(1))
  assert second.agreement_shares()['all'] == 1.0


def test_another_output_is_refused():
  with pytest.raises(ValueError, match='observed output is argmax, not logits'):
    agreement.PredictionComparer(
      Fake([]), agreement.PredictionRecorder(Fake([])), 2
    ).with_output('logits')
