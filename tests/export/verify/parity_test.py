"""Parity numbers against literals."""

import numpy as np
import pytest

from export.verify import parity


def test_logits():
  expected = [np.array([[[1.0, 3.0], [-4.0, 0.0]]], np.float32)]
  found = [np.array([[[3.5, 3.0], [-4.0, 0.5]]], np.float32)]
  assert parity.compare_outputs(expected, found) == {
    'images': 1,
    'argmax_agreement': 0.5,
    'max_abs_difference': 2.5,
    'mean_abs_difference': 0.75,
    'reference_max_abs': 4.0,
  }


def test_ids():
  ids = np.array([[1, 2, 3, 4]], np.uint8)
  found = parity.compare_outputs([ids, ids], [ids, ids[:, ::-1]])
  assert found['argmax_agreement'] == 0.5
  assert found['max_abs_difference'] is None


def test_refusals():
  with pytest.raises(ValueError, match='no images'):
    parity.compare_outputs([], [])
  with pytest.raises(ValueError, match='not comparable'):
    parity.compare_outputs([np.zeros((2, 2))], [np.zeros((2, 3))])


def test_steps():
  """Half a unit a step: distances 0, 1, 2 and 1."""
  simulated = np.array([[[1.0, 3.0], [-4.0, 0.0]]], np.float32)
  found = np.array([[[1.0, 3.5], [-3.0, -0.5]]], np.float32)
  counted = parity.LSBDifferences(0.5)
  counted.add(simulated, found)
  counted.add(simulated, simulated)
  wanted = {
    'images': 2,
    'same': 5 / 8,
    'within_one': 7 / 8,
    'max_steps': 2,
    'argmax_agreement': 1.0,
  }
  assert counted.summary() == wanted
  assert (
    parity.compare_in_lsb([simulated] * 2, [found, simulated], 0.5) == wanted
  )
  # Real values next to the same integers, from above and from below.
  lattice = np.float32(np.arange(-100, 100).reshape(1, 100, 2) * 0.07)
  below, above = (np.nextafter(lattice, np.float32(x)) for x in (-9e9, 9e9))
  near = parity.compare_in_lsb([below], [above], 0.07)
  assert (near['same'], near['argmax_agreement']) == (1.0, 1.0)
  other = np.array([[[1.0, 3.0], [-2.0, -2.5]]], np.float32)
  assert parity.compare_in_lsb([simulated], [other], 0.5) == {
    'images': 1,
    'same': 0.5,
    'within_one': 0.5,
    'max_steps': 5,
    'argmax_agreement': 0.5,
  }
