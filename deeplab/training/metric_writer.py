"""Metrics of a run in TensorBoard and JSON lines, and its progress bar."""

from collections.abc import Iterator
import contextlib
import json
import math
import os
import reprlib
import sys
import time
from typing import Any
from typing import TypeVar

from absl import logging
from clu import metric_writers
import numpy as np
import tqdm

from deeplab import system

_T = TypeVar('_T')


@contextlib.contextmanager
def _explain_write_errors(workdir: str) -> Iterator[None]:
  """Turns the errors of a full disk, TensorFlow's included, into OSError."""
  try:
    yield
  except Exception as error:
    reason = getattr(error, 'strerror', None) or str(error).strip()
    raise OSError(
      f'could not write metrics below {workdir} ({reason}); earlier '
      'checkpoints are complete: free some space and run the same command to '
      'go on'
    ) from error


class MetricWriter:
  """Writes metrics to TensorBoard and to `metrics.jsonl`.

  Every method raises OSError if the files cannot be written.
  """

  def __init__(self, workdir: str, step: int):
    """Opens the log files of a run that resumes after `step`.

    Lines of later steps, left by a run that was killed, are dropped: they
    will be written again.

    Args:
      workdir: the work directory.
      step: number of steps taken.
    """
    self._workdir = workdir
    path = os.path.join(workdir, 'metrics.jsonl')
    kept = [
      line for line in read_metrics(path, strict=False) if line['step'] <= step
    ]
    with _explain_write_errors(workdir):
      system.write_text(path, ''.join(json.dumps(x) + '\n' for x in kept))
      self._file = open(path, 'a', encoding='utf-8')  # noqa: SIM115
      self._summaries = metric_writers.SummaryWriter(workdir)

  def write_scalars(
    self, step: int, split: str, metrics: dict[str, Any]
  ) -> None:
    """Writes numbers under 'split/name' and as one JSON line.

    Args:
      step: number of steps taken.
      split: 'train', or the evaluated split.
      metrics: numbers by name; NaN (an absent class) becomes null in JSON and
        is left out of TensorBoard.
    """
    numbers = {name: float(value) for name, value in metrics.items()}
    finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
    line = {'step': step, 'split': split}
    line |= {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    with _explain_write_errors(self._workdir):
      self._summaries.write_scalars(
        step, {f'{split}/{k}': v for k, v in finite.items()}
      )
      self._file.write(json.dumps(line) + '\n')
      self._file.flush()

  def write_images(self, step: int, name: str, images: np.ndarray) -> None:
    """Writes images, [N, H, W, 3] uint8, to TensorBoard."""
    with _explain_write_errors(self._workdir):
      self._summaries.write_images(step, {name: images})

  def flush(self) -> None:
    """Writes buffered summaries to TensorBoard's file."""
    with _explain_write_errors(self._workdir):
      self._summaries.flush()

  def close(self) -> None:
    """Closes both files."""
    with _explain_write_errors(self._workdir):
      self._summaries.close()
      self._file.close()


def read_metrics(path: str, strict: bool = True) -> list[dict[str, Any]]:
  """Reads `metrics.jsonl`.

  Args:
    path: the file; it may be absent.
    strict: False drops an incomplete line, which a killed run leaves at the
      end, and all lines after it.

  Returns:
    The lines: `step`, `split`, and numbers or None by the names of metrics.

  Raises:
    ValueError: a line is not JSON, and `strict`; or it is no line of metrics.
  """
  lines: list[dict[str, Any]] = []
  if os.path.exists(path):
    with open(path, 'rb') as f:
      for number, line in enumerate(f, 1):
        try:
          content = json.loads(line.decode('utf-8'))
        except (RecursionError, ValueError) as e:
          if strict:
            raise ValueError(
              f'{path}:{number} is not JSON ({e}): remove the line'
            ) from e
          break
        if not _is_metric_line(content):
          raise ValueError(
            f'{path}:{number} is not a line of metrics, with a step, a split '
            f'and numbers: remove it ({reprlib.repr(content)})'
          )
        lines.append(content)
  return lines


def _is_metric_line(content: Any) -> bool:
  """Returns True if a line has the form that `write_scalars` writes."""
  if not isinstance(content, dict):
    return False
  metrics = dict(content)
  step, split = metrics.pop('step', None), metrics.pop('split', None)
  return (
    type(step) is int
    and 0 <= step < 2**53
    and isinstance(split, str)
    and all(
      value is None
      or (type(value) in (int, float) and abs(value) <= sys.float_info.max)
      for value in metrics.values()
    )
  )


def format_step_cost(step_cost: dict[str, float]) -> str:
  """Formats the cost of a step, as `parallel.compile_ahead` returns it."""
  parts = [f'{step_cost["gflops"]:.2f} GFLOPs'] if 'gflops' in step_cost else []
  if 'work' in step_cost:
    parts += [
      f'{step_cost["arguments"]:.0f} MiB of state and batch '
      f'({step_cost["reused"]:.0f} reused)',
      f'{step_cost["work"]:.0f} MiB of work memory',
    ]
  return ', '.join(parts) or 'the back end reports no cost'


class Progress:
  """Shows speed and ETA: a bar on a terminal, log lines elsewhere."""

  def __init__(self, start: int, total: int, batch_size: int):
    self._total, self._batch = total, batch_size
    self._last_step, self._last_time = start, time.monotonic()
    self._waited = 0.0
    self._bar = None
    if sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        total=total, initial=start, unit='step', dynamic_ncols=True
      )

  def update(self, step: int) -> None:
    """Moves the bar to a step."""
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def next_batch(self, batches: Iterator[_T]) -> _T:
    """Returns the next batch; the time it takes counts as `input_share`."""
    start = time.monotonic()
    batch = next(batches)
    self._waited += time.monotonic() - start
    return batch

  def pause(self) -> None:
    """Excludes the time until `resume` from the speed."""
    self._pause = time.monotonic()

  def resume(self) -> None:
    """Ends a pause."""
    self._last_time += time.monotonic() - self._pause
    if self._bar is not None:
      self._bar.unpause()

  def report(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
    """Shows loss, learning rate and speed.

    Args:
      step: number of steps taken.
      metrics: 'loss' and 'learning_rate' of the last step.

    Returns:
      {'steps_per_second', 'images_per_second', 'input_share'} since the last
      report; the last one is the share of time spent waiting for batches.
    """
    now = time.monotonic()
    elapsed = max(now - self._last_time, 1e-9)
    rate = (step - self._last_step) / elapsed
    speed = {
      'steps_per_second': rate,
      'images_per_second': rate * self._batch,
      'input_share': self._waited / elapsed,
    }
    self._last_step, self._last_time, self._waited = step, now, 0.0
    if self._bar is not None:
      self._bar.set_postfix_str(
        f'loss {metrics["loss"]:.3f}, {speed["images_per_second"]:.1f} images/s'
      )
    else:
      minutes, seconds = divmod(
        round((self._total - step) / max(rate, 1e-9)), 60
      )
      logging.info(
        'step %d/%d  loss %.4f  lr %.2e  %.2f steps/s  %.1f images/s  '
        'ETA %d:%02d:%02d',
        step,
        self._total,
        metrics['loss'],
        metrics['learning_rate'],
        rate,
        speed['images_per_second'],
        *divmod(minutes, 60),
        seconds,
      )
    return speed

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()
