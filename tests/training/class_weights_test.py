import numpy as np
import pytest

from deeplab.data import datasets
from deeplab.training import class_weights
from tests import runs

SHARES = np.array([0.64, 0.25, 0.09, 0.02, 0.0, 0.0])
# Three images of 10, 40 and 50 labelled pixels.
COUNTS = np.array(
  [[3, 0, 5, 2, 0, 0], [36, 0, 4, 0, 0, 0], [25, 25, 0, 0, 0, 0]]
)


def _balance(config):
  return class_weights.balance_loss(config, datasets.Dataset(config.data))


@pytest.mark.parametrize(
  ('rule', 'power', 'expected'),
  [
    # 1 / sqrt: 1.25, 2, 3.3333, 7.0711; their mean by share is 1.7414.
    ('inverse', 0.5, (0.718, 1.15, 1.91, 4.06)),
    # 1 / share counts the four classes alike.
    ('inverse', 1.0, (0.391, 1.0, 2.78, 12.5)),
    # 100, 50, 50 and 10 of 100 pixels are in images that have the class:
    # frequencies 0.64, 0.5, 0.18, 0.2; their median is 0.35.
    ('median', 1.0, (0.547, 0.7, 1.94, 1.75)),
    ('median', 0.5, (0.74, 0.837, 1.39, 1.32)),
    # log(1.66) = 0.50682, log(1.27) = 0.23902, 0.10436 and 0.03922.
    ('log', 1.0, (1.97, 4.18, 9.58, 25.5)),
  ],
)
def test_rules_by_hand(rule, power, expected, monkeypatch, tmp_path):
  cls = datasets.Dataset
  monkeypatch.setattr(cls, 'class_frequencies', lambda self: SHARES)
  monkeypatch.setattr(cls, 'count_class_pixels', lambda self: COUNTS)
  config = runs.config(
    str(tmp_path), loss__balance=power, loss__balance_rule=rule
  )
  weights = _balance(config).loss.class_weights
  assert weights == pytest.approx((*expected, 0.0, 0.0), abs=1e-9)


def test_presence_by_hand():
  expected = (1.0, 0.5, 0.5, 0.1, 1.0, 1.0)
  np.testing.assert_allclose(
    class_weights.class_presence_shares(COUNTS), expected
  )


def test_wrong_rules_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r'set one of the two'):
    _balance(
      runs.config(
        str(tmp_path), loss__balance=0.5, loss__class_weights=(1.0,) * 6
      )
    )
  with pytest.raises(ValueError, match=r'has 2 weights for 6 classes; give'):
    _balance(runs.config(str(tmp_path), loss__class_weights=(1.0, 2.0)))
  with pytest.raises(ValueError, match=r"balance_rule='sqrt' is not one of"):
    _balance(runs.config(str(tmp_path), loss__balance_rule='sqrt'))
