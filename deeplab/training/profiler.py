"""Profiles chosen training steps for TensorBoard."""

import re
from typing import Any

from absl import logging
import jax


def parse_steps(steps: str) -> range:
  """Parses `profile_steps`: '100:110' is steps 100 to 109, '' is none.

  Raises:
    ValueError: it is not such a range.
  """
  if not steps:
    return range(0)
  match = re.fullmatch(r'(\d+):(\d+)', steps)
  if not match or not 0 < int(match[1]) < int(match[2]):
    raise ValueError(
      f'profile_steps={steps!r} is not FIRST:END, such as 100:110 for the '
      'steps 100 to 109'
    )
  return range(int(match[1]), int(match[2]))


class TraceRecorder:
  """Records a trace of some steps of a run."""

  def __init__(self, steps: range, workdir: str):
    """Prepares to record.

    Args:
      steps: the steps to record.
      workdir: the work directory; the trace is written below its `plugins`.
    """
    self._steps = steps
    self._workdir = workdir
    self._tracing = False

  def before_step(self, step: int) -> None:
    """Starts the trace before the first of the steps that this run takes."""
    if not self._tracing and step in self._steps:
      jax.profiler.start_trace(self._workdir)
      self._tracing = True

  def after_step(self, step: int, state: Any) -> None:
    """Stops the trace after the last of the steps, once its state is ready."""
    if self._tracing and step + 1 >= self._steps.stop:
      jax.block_until_ready(state)
      self.close()
      logging.info(
        'Recorded a profile: look at it with tensorboard --logdir=%s and its '
        'profile plugin',
        self._workdir,
      )

  def close(self) -> None:
    """Stops the trace if one is running, and writes it."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
