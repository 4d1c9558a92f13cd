"""Early stopping, learning rate plateaus, and the time limit of a run.

Everything they remember is one `ControlState`, saved in the metadata of every
checkpoint, so that an interrupted run resumes without a difference.
Decisions are functions of that state and the config alone.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import math

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class PlateauTracker:
  """Counts evaluations since a metric improved last.

  Attributes:
    best: the best value so far; None before the first.
    stale: evaluations since then, or since the count was reset.
  """

  best: float | None = None
  stale: int = 0

  def update(self, value: float, min_delta: float) -> 'PlateauTracker':
    """Returns the tracker after an evaluation.

    Args:
      value: the metric, the higher the better; NaN is no improvement.
      min_delta: an improvement is larger than this.
    """
    if math.isnan(value):
      improved = False
    else:
      improved = self.best is None or value > self.best + min_delta
    return (
      PlateauTracker(value)
      if improved
      else PlateauTracker(self.best, self.stale + 1)
    )


@dataclasses.dataclass(frozen=True)
class ControlState:
  """The state of a run besides that of training: time, rate and trackers.

  Attributes:
    seconds: time spent on steps and evaluations, restarts added up.
    rate_scale: factor on the scheduled learning rate.
    plateau: tracker of `schedule.plateau.metric`, which lowers `rate_scale`.
    stopping: tracker of `early_stopping.metric`, which ends the run.
  """

  seconds: float = 0.0
  rate_scale: float = 1.0
  plateau: PlateauTracker = PlateauTracker()
  stopping: PlateauTracker = PlateauTracker()

  def to_dict(self) -> dict:
    """Returns the state as JSON values, for a checkpoint's metadata."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, metadata: Mapping) -> 'ControlState':
    """Reads the state back; empty metadata gives the initial state."""
    trackers = {
      name: PlateauTracker(**metadata[name])
      for name in ('plateau', 'stopping')
      if name in metadata
    }
    return cls(**{**metadata, **trackers})


def lowers_learning_rate(config: ConfigDict) -> bool:
  """Returns True if evaluations change the learning rate."""
  return config.schedule.name == 'plateau'


def depends_on_evaluation(config: ConfigDict) -> bool:
  """Returns True if evaluations change the learning rate or end the run."""
  return lowers_learning_rate(config) or config.early_stopping.patience > 0


def check_monitored_metrics(config: ConfigDict, names: Iterable[str]) -> None:
  """Refuses settings of early stopping and plateaus that could never act.

  Args:
    config: the experiment.
    names: the metrics that an evaluation computes.

  Raises:
    ValueError: a metric is unknown, or a patience is less than one evaluation.
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
        f'{section}.metric={fields.metric!r} is not a metric of an evaluation: '
        f'give one of {", ".join(sorted(n for n in names if "/" not in n))}, '
        'one of a class, such as iou/road, or loss with eval.loss=True'
      )


def _higher_is_better(metrics: Mapping[str, float], name: str) -> float:
  """Returns a metric; the loss is negated, so that higher is better."""
  return -metrics[name] if name == 'loss' else metrics[name]


def update_after_evaluation(
  control: ControlState, metrics: Mapping[str, float], config: ConfigDict
) -> ControlState:
  """Updates the trackers, and lowers the learning rate on a plateau.

  The rate is lowered as Keras' `ReduceLROnPlateau` does it.

  Args:
    control: the state before the evaluation.
    metrics: metrics of the evaluation by name.
    config: the experiment.
  """
  stop = config.early_stopping
  control = dataclasses.replace(
    control,
    stopping=control.stopping.update(
      _higher_is_better(metrics, stop.metric), stop.min_delta
    ),
  )
  if not lowers_learning_rate(config):
    return control
  fields = config.schedule.plateau
  tracker = control.plateau.update(
    _higher_is_better(metrics, fields.metric), fields.min_delta
  )
  scale = control.rate_scale
  if tracker.stale >= fields.patience:
    tracker = PlateauTracker(tracker.best)
    lowest = min(fields.end / config.optimizer.learning_rate, scale)
    scale = max(scale * fields.factor, lowest)
  return dataclasses.replace(control, plateau=tracker, rate_scale=scale)


def is_out_of_time(control: ControlState, config: ConfigDict) -> bool:
  """Returns True if the run has used up `max_minutes`."""
  return 0 < config.max_minutes * 60 <= control.seconds


def update_elapsed(
  control: ControlState,
  seconds: float,
  config: ConfigDict,
  any_host: Callable[[bool], bool],
) -> ControlState:
  """Sets the time that the run has taken.

  If one host is out of time, all of them are: they stop at the same step.

  Args:
    control: the state before.
    seconds: time spent by this host, restarts included.
    config: the experiment.
    any_host: returns True if its argument is True on any of the hosts.
  """
  control = dataclasses.replace(control, seconds=seconds)
  if config.max_minutes and any_host(is_out_of_time(control, config)):
    seconds = max(seconds, config.max_minutes * 60)
  return dataclasses.replace(control, seconds=seconds)


def should_stop(control: ControlState, config: ConfigDict) -> bool:
  """Returns True if the run is to end before its last step."""
  patience = config.early_stopping.patience
  return is_out_of_time(control, config) or 0 < patience <= (
    control.stopping.stale
  )
