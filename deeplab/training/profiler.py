"""Where the time of chosen steps goes, recorded for TensorBoard."""

import re
from typing import Any

from absl import logging
import jax


def parse_steps(steps: str) -> range:
  """Returns the steps of '100:110' (100 to 109), or none for ''.

  Raises:
    ValueError: it is no such range.
  """
  if not steps:
    return range(0)
  found = re.fullmatch(r'(\d+):(\d+)', steps)
  if not found or not 0 < int(found[1]) < int(found[2]):
    raise ValueError(
      f'profile_steps={steps!r} is not FIRST:END, such as 100:110 for the '
      'steps 100 to 109'
    )
  return range(int(found[1]), int(found[2]))


class TraceRecorder:
  """Records some steps of a run."""

  def __init__(self, steps: range, workdir: str):
    """Waits for the first of `steps`; the record goes to workdir/plugins."""
    self._steps = steps
    self._workdir = workdir
    self._tracing = False

  def before_step(self, step: int) -> None:
    """Begins where the step is among those, or the run began among them."""
    if not self._tracing and step in self._steps:
      jax.profiler.start_trace(self._workdir)
      self._tracing = True

  def after_step(self, step: int, state: Any) -> None:
    """Ends behind the last of the steps, when the device is done with it."""
    if self._tracing and step + 1 >= self._steps.stop:
      jax.block_until_ready(state)
      self.close()
      logging.info(
        'Recorded where the time goes: tensorboard --logdir=%s, with the '
        'profile plugin',
        self._workdir,
      )

  def close(self) -> None:
    """Writes what was recorded."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
