"""What evaluations and the clock tell a run."""

import json
import math

import pytest

from configs import common
from deeplab.training import early_stopping


def config(**sections):
  c = common.base()
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
  """Returns the notes after each value of mIoU."""
  notes, result = early_stopping.Notes(), []
  for value in values:
    # As a run that is killed after each evaluation.
    notes = early_stopping.Notes.from_dict(
      json.loads(json.dumps(notes.to_dict()))
    )
    notes = early_stopping.evaluated(notes, {'miou': value}, c)
    result.append(notes)
  return result


def test_a_plateau_lowers_the_rate_by_hand():
  c = plateau(patience=2, factor=0.5, min_delta=0.01, end=0.03)
  # Better, a bit (no), NaN (no): halved; no, better, no, no: at its end.
  values = (0.5, 0.505, math.nan, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6)
  scales = [notes.rate_scale for notes in run(c, values)]
  assert scales == pytest.approx([1, 1, 0.5, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3])


def test_the_rate_is_never_raised_to_its_end():
  c = plateau(patience=1, factor=0.5, end=0.2)  # above the rate itself
  assert [n.rate_scale for n in run(c, (0.5, 0.4, 0.3))] == [1, 1, 1]


def test_a_loss_is_better_the_lower_it_is():
  c = config(early_stopping={'metric': 'loss', 'patience': 2})
  notes, over = early_stopping.Notes(), []
  for value in (0.5, 0.4, 0.45, 0.3, 0.35, 0.36):
    notes = early_stopping.evaluated(notes, {'miou': 0.5, 'loss': value}, c)
    over.append(early_stopping.over(notes, c))
  assert over == [False, False, False, False, False, True]


def test_other_schedules_do_not_listen():
  c = config()
  assert run(c, (0.5, 0.4, 0.3))[-1].rate_scale == 1
  assert not early_stopping.listens(c)
  assert early_stopping.listens(plateau())


def test_patience_ends_a_run():
  c = config(early_stopping={'patience': 2})
  over = [early_stopping.over(n, c) for n in run(c, (0.5, 0.4, 0.6, 0.6, 0.6))]
  assert over == [False, False, False, False, True]
  assert early_stopping.listens(c)
  c.early_stopping.patience = 0
  assert not any(early_stopping.over(n, c) for n in run(c, (0.5, 0.4, 0.3)))


def test_the_clock_ends_a_run():
  c = config(max_minutes=1.5)
  assert not early_stopping.over(early_stopping.Notes(seconds=89.0), c)
  assert early_stopping.over(early_stopping.Notes(seconds=90.0), c)
  c.max_minutes = 0.0
  assert not early_stopping.over(early_stopping.Notes(seconds=1e9), c)


def test_hosts_end_together():
  c = config(max_minutes=1.0)
  notes = early_stopping.Notes()
  late = early_stopping.clocked(notes, 61.0, c, lambda flag: flag)
  early = early_stopping.clocked(
    notes, 59.0, c, lambda _: True
  )  # the other is late
  assert (late.seconds, early.seconds) == (61.0, 60.0)
  assert early_stopping.over(late, c) and early_stopping.over(early, c)
  both = early_stopping.clocked(notes, 59.0, c, lambda flag: flag)
  assert both.seconds == 59.0 and not early_stopping.over(both, c)


def test_a_checkpoint_without_notes_has_the_first_ones():
  assert early_stopping.Notes.from_dict({}) == early_stopping.Notes()


@pytest.mark.parametrize(
  ('c', 'message'),
  [
    (
      config(early_stopping={'metric': 'loss'}),
      r"early_stopping.metric='loss' is no metric .* or loss with eval",
    ),
    (plateau(metric='mIoU'), r"schedule.plateau.metric='mIoU' is no metric"),
    (plateau(patience=0), r'schedule.plateau.patience=0 is not a number'),
  ],
)
def test_what_could_never_act_is_refused(c, message):
  with pytest.raises(ValueError, match=message):
    early_stopping.check(c, ('miou', 'iou/road'))
  early_stopping.check(config(), ('miou',))
