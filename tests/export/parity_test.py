"""Parity numbers against literals."""

import numpy as np
import pytest

from export import parity


def test_logits():
  expected = [np.array([[[1.0, 3.0], [-4.0, 0.0]]], np.float32)]
  found = [np.array([[[3.5, 3.0], [-4.0, 0.5]]], np.float32)]
  assert parity.compare(expected, found) == {
    'images': 1,
    'argmax_agreement': 0.5,
    'max_abs_difference': 2.5,
    'mean_abs_difference': 0.75,
    'reference_max_abs': 4.0,
  }


def test_ids():
  ids = np.array([[1, 2, 3, 4]], np.uint8)
  found = parity.compare([ids, ids], [ids, ids[:, ::-1]])
  assert found['argmax_agreement'] == 0.5
  assert found['max_abs_difference'] is None


def test_refusals():
  with pytest.raises(ValueError, match='no images'):
    parity.compare([], [])
  with pytest.raises(ValueError, match='not comparable'):
    parity.compare([np.zeros((2, 2))], [np.zeros((2, 3))])
