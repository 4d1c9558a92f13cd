"""What ends a run early or lowers its rate: evaluations, and the clock.

All of it is a function of a few numbers, the run's notes. They are saved with
every checkpoint, so that a run that was interrupted goes on as if it had not
been.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import math

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class PlateauTracker:
  """How long a metric has not become better.

  Attributes:
    best: the best value; None before the first.
    stale: evaluations since, or since `PlateauTracker` was last asked to forget
      them.
  """

  best: float | None = None
  stale: int = 0

  def update(self, value: float, min_delta: float) -> 'PlateauTracker':
    """Returns the watch after an evaluation; NaN is no better than any."""
    if math.isnan(value):
      better = False
    else:
      better = self.best is None or value > self.best + min_delta
    return (
      PlateauTracker(value)
      if better
      else PlateauTracker(self.best, self.stale + 1)
    )


@dataclasses.dataclass(frozen=True)
class ControlState:
  """What a run must remember besides its state.

  Attributes:
    seconds: time spent on steps and evaluations, in all its parts.
    rate_scale: factor on the scheduled rate.
    plateau: what lowers `rate_scale`.
    stopping: what ends the run.
  """

  seconds: float = 0.0
  rate_scale: float = 1.0
  plateau: PlateauTracker = PlateauTracker()
  stopping: PlateauTracker = PlateauTracker()

  def to_dict(self) -> dict:
    """Returns what JSON can hold."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, saved: Mapping) -> 'ControlState':
    """Undoes `to_dict`; a checkpoint without notes gives the first ones."""
    watches = {
      name: PlateauTracker(**saved[name])
      for name in ('plateau', 'stopping')
      if name in saved
    }
    return cls(**{**saved, **watches})


def lowers_learning_rate(config: ConfigDict) -> bool:
  """Returns whether evaluations change the learning rate."""
  return config.schedule.name == 'plateau'


def depends_on_evaluation(config: ConfigDict) -> bool:
  """Returns whether evaluations decide how the run goes on."""
  return lowers_learning_rate(config) or config.early_stopping.patience > 0


def check_monitored_metrics(config: ConfigDict, names: Iterable[str]) -> None:
  """Refuses settings that could never act.

  Args:
    config: the run's.
    names: every metric that an evaluation gives.

  Raises:
    ValueError: an unknown metric, or a patience of no evaluation.
  """
  names = set(names)
  sections = {'early_stopping': config.early_stopping}
  if lowers_learning_rate(config):
    sections['schedule.plateau'] = config.schedule.plateau
    if config.schedule.plateau.patience < 1:
      raise ValueError(
        f'schedule.plateau.patience={config.schedule.plateau.patience} is not '
        'a number of evaluations: give 1 or more'
      )
  for section, fields in sections.items():
    if fields.metric not in names:
      raise ValueError(
        f'{section}.metric={fields.metric!r} is no metric of an evaluation: '
        f'give one of {", ".join(sorted(n for n in names if "/" not in n))}, '
        'one of a class, such as iou/road, or loss with eval.loss=True'
      )


def _higher_is_better(metrics: Mapping[str, float], name: str) -> float:
  """Returns a metric as what is better the higher it is."""
  return -metrics[name] if name == 'loss' else metrics[name]


def update_after_evaluation(
  state: ControlState, metrics: Mapping[str, float], config: ConfigDict
) -> ControlState:
  """Returns the notes after an evaluation.

  The rate is lowered as by Keras' `ReduceLROnPlateau`.
  """
  stop = config.early_stopping
  state = dataclasses.replace(
    state,
    stopping=state.stopping.update(
      _higher_is_better(metrics, stop.metric), stop.min_delta
    ),
  )
  if not lowers_learning_rate(config):
    return state
  fields = config.schedule.plateau
  watch = state.plateau.update(
    _higher_is_better(metrics, fields.metric), fields.min_delta
  )
  scale = state.rate_scale
  if watch.stale >= fields.patience:
    watch = PlateauTracker(watch.best)
    lowest = min(fields.end / config.optimizer.learning_rate, scale)
    scale = max(scale * fields.factor, lowest)
  return dataclasses.replace(state, plateau=watch, rate_scale=scale)


def is_out_of_time(state: ControlState, config: ConfigDict) -> bool:
  """Returns whether the run has used up `max_minutes`."""
  return 0 < config.max_minutes * 60 <= state.seconds


def update_elapsed(
  state: ControlState,
  seconds: float,
  config: ConfigDict,
  any_host: Callable[[bool], bool],
) -> ControlState:
  """Returns the notes with the time now, so that all hosts end together.

  Args:
    state: the notes.
    seconds: time spent by this host.
    config: the run's.
    any_host: tells whether something is so on any of the hosts.
  """
  state = dataclasses.replace(state, seconds=seconds)
  if config.max_minutes and any_host(is_out_of_time(state, config)):
    seconds = max(seconds, config.max_minutes * 60)
  return dataclasses.replace(state, seconds=seconds)


def should_stop(state: ControlState, config: ConfigDict) -> bool:
  """Returns whether the run ends here, before its last step."""
  patience = config.early_stopping.patience
  return is_out_of_time(state, config) or 0 < patience <= state.stopping.stale
