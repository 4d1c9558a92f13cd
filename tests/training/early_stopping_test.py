"""Early stopping, learning rate plateaus, and the time limit of a run."""

import json
import math

import pytest

from configs import common
from deeplab.training import early_stopping


def config(**sections):
  c = common.default_config()
  c.optimizer.learning_rate = 0.1
  for section, fields in sections.items():
    if isinstance(fields, dict):
      c[section].update(fields)
    else:
      c[section] = fields
  return c


def plateau(**fields):
  return config(schedule={'name': 'plateau', 'plateau': fields})


def run(c, values):
  """Returns the control state after each value of mIoU."""
  control, result = early_stopping.ControlState(), []
  for value in values:
    # As a run that is killed after each evaluation.
    control = early_stopping.ControlState.from_dict(
      json.loads(json.dumps(control.to_dict()))
    )
    control = early_stopping.update_after_evaluation(
      control, {'miou': value}, c
    )
    result.append(control)
  return result


def test_a_plateau_lowers_the_rate_by_hand():
  c = plateau(patience=2, factor=0.5, min_delta=0.01, end=0.03)
  # Better, a bit (no), NaN (no): halved; no, better, no, no: at its end.
  values = (0.5, 0.505, math.nan, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6)
  scales = [control.rate_scale for control in run(c, values)]
  assert scales == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3])


def test_the_rate_is_never_raised_to_its_end():
  c = plateau(patience=1, factor=0.5, end=0.2)  # above the rate itself
  assert [n.rate_scale for n in run(c, (0.5, 0.4, 0.3))] == [1, 1, 1]


def test_a_loss_is_better_the_lower_it_is():
  c = config(early_stopping={'metric': 'loss', 'patience': 2})
  control, stops = early_stopping.ControlState(), []
  for value in (0.5, 0.4, 0.45, 0.3, 0.35, 0.36):
    control = early_stopping.update_after_evaluation(
      control, {'miou': 0.5, 'loss': value}, c
    )
    stops.append(early_stopping.should_stop(control, c))
  assert stops == [False, False, False, False, False, True]


def test_other_schedules_ignore_evaluations():
  c = config()
  assert run(c, (0.5, 0.4, 0.3))[-1].rate_scale == 1
  assert not early_stopping.depends_on_evaluation(c)
  assert early_stopping.depends_on_evaluation(plateau())


def test_patience_ends_a_run():
  c = config(early_stopping={'patience': 2})
  stops = [
    early_stopping.should_stop(n, c) for n in run(c, (0.5, 0.4, 0.6, 0.6, 0.6))
  ]
  assert stops == [False, False, False, False, True]
  assert early_stopping.depends_on_evaluation(c)
  c.early_stopping.patience = 0
  assert not any(
    early_stopping.should_stop(n, c) for n in run(c, (0.5, 0.4, 0.3))
  )


def test_the_clock_ends_a_run():
  c = config(max_minutes=1.5)
  assert not early_stopping.should_stop(
    early_stopping.ControlState(seconds=89.0), c
  )
  assert early_stopping.should_stop(
    early_stopping.ControlState(seconds=90.0), c
  )
  c.max_minutes = 0.0
  assert not early_stopping.should_stop(
    early_stopping.ControlState(seconds=1e9), c
  )


def test_hosts_end_together():
  c = config(max_minutes=1.0)
  control = early_stopping.ControlState()
  late = early_stopping.update_elapsed(control, 61.0, c, lambda flag: flag)
  early = early_stopping.update_elapsed(
    control, 59.0, c, lambda _: True
  )  # the other is late
  assert (late.seconds, early.seconds) == (61.0, 60.0)
  assert early_stopping.should_stop(late, c) and early_stopping.should_stop(
    early, c
  )
  both = early_stopping.update_elapsed(control, 59.0, c, lambda flag: flag)
  assert both.seconds == 59.0 and not early_stopping.should_stop(both, c)


def test_empty_metadata_is_the_initial_state():
  assert (
    early_stopping.ControlState.from_dict({}) == early_stopping.ControlState()
  )


@pytest.mark.parametrize(
  ('c', 'message'),
  [
    (
      config(early_stopping={'metric': 'loss'}),
      r"early_stopping.metric='loss' is not a metric .* or loss with eval",
    ),
    (plateau(metric='mIoU'), r"schedule.plateau.metric='mIoU' is not a metric"),
    (plateau(patience=0), r'schedule.plateau.patience=0 is not a number'),
  ],
)
def test_settings_that_could_never_act_are_refused(c, message):
  with pytest.raises(ValueError, match=message):
    early_stopping.check_monitored_metrics(c, ('miou', 'iou/road'))
  early_stopping.check_monitored_metrics(config(), ('miou',))
