"""What a run writes down while it runs: TensorBoard, JSON lines, progress."""

from collections.abc import Iterator
import contextlib
import json
import math
import os
import sys
import time
from typing import Any
from typing import TypeVar

from absl import logging
from clu import metric_writers
import numpy as np
import tqdm

_T = TypeVar('_T')


@contextlib.contextmanager
def _explain_write_errors(workdir: str) -> Iterator[None]:
  """Turns what a full disk raises, TensorFlow's errors too, into OSError."""
  try:
    yield
  except Exception as error:
    raise OSError(
      f'could not write the records in {workdir} ({error}); what was saved '
      'before is whole: free some space and run the same command to go on'
    ) from error


class MetricWriter:
  """Writes metrics to TensorBoard and to `metrics.jsonl`.

  Every method raises OSError, which says what to do, where it cannot write.
  """

  def __init__(self, workdir: str, step: int):
    """Opens the records of a run that goes on after `step`.

    Lines of later steps, left by a run that was killed, are dropped: they
    will be written again.
    """
    self._workdir = workdir
    os.makedirs(workdir, exist_ok=True)
    path = os.path.join(workdir, 'metrics.jsonl')
    kept = [
      line for line in read_metrics(path, strict=False) if line['step'] <= step
    ]
    with open(path + '.tmp', 'w', encoding='utf-8') as f:
      f.writelines(json.dumps(line) + '\n' for line in kept)
    os.replace(path + '.tmp', path)
    self._file = open(path, 'a', encoding='utf-8')  # noqa: SIM115
    self._summaries = metric_writers.SummaryWriter(workdir)

  def write_scalars(
    self, step: int, split: str, metrics: dict[str, Any]
  ) -> None:
    """Writes numbers under 'split/name' and as one JSON line."""
    numbers = {name: float(value) for name, value in metrics.items()}
    finite = {k: v for k, v in numbers.items() if math.isfinite(v)}
    # JSON has no NaN: an absent class is null.
    line = {'step': step, 'split': split}
    line |= {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    with _explain_write_errors(self._workdir):
      self._summaries.write_scalars(
        step, {f'{split}/{k}': v for k, v in finite.items()}
      )
      self._file.write(json.dumps(line) + '\n')
      self._file.flush()

  def write_images(self, step: int, name: str, images: np.ndarray) -> None:
    """Writes uint8 pictures [N, H, W, 3] to TensorBoard."""
    with _explain_write_errors(self._workdir):
      self._summaries.write_images(step, {name: images})

  def flush(self) -> None:
    """Makes TensorBoard's file current."""
    with _explain_write_errors(self._workdir):
      self._summaries.flush()

  def close(self) -> None:
    """Closes both files."""
    with _explain_write_errors(self._workdir):
      self._summaries.close()
      self._file.close()


def read_metrics(path: str, strict: bool = True) -> list[dict[str, Any]]:
  """Reads `metrics.jsonl`; a half line at the end (a kill) may be left out.

  Raises:
    ValueError: a line is not JSON, and `strict`.
  """
  lines = []
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      for number, line in enumerate(f, 1):
        try:
          lines.append(json.loads(line))
        except json.JSONDecodeError as e:
          if strict:
            raise ValueError(f'{path}:{number} is not JSON: {line!r}') from e
          break
  return lines


def format_step_cost(step_cost: dict[str, float]) -> str:
  """Returns what `parallel.compile_ahead` found, in words."""
  words = [f'{step_cost["gflops"]:.2f} GFLOPs'] if 'gflops' in step_cost else []
  if 'work' in step_cost:
    words += [
      f'{step_cost["arguments"]:.0f} MiB of state and batch '
      f'({step_cost["reused"]:.0f} reused)',
      f'{step_cost["work"]:.0f} MiB of work memory',
    ]
  return ', '.join(words) or 'the back end does not tell'


class Progress:
  """A bar with speed and ETA on a terminal, plain log lines elsewhere."""

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
    """Moves the bar."""
    if self._bar is not None:
      self._bar.update(step - self._bar.n)

  def next_batch(self, batches: Iterator[_T]) -> _T:
    """Returns the next batch; how long that takes is part of the report."""
    start = time.monotonic()
    batch = next(batches)
    self._waited += time.monotonic() - start
    return batch

  def pause(self) -> None:
    """Leaves what happens until `resume` out of the speed."""
    self._pause = time.monotonic()

  def resume(self) -> None:
    """Ends a pause."""
    self._last_time += time.monotonic() - self._pause
    if self._bar is not None:
      self._bar.unpause()

  def report(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
    """Shows metrics, and returns what else there is to tell.

    Args:
      step: the last step.
      metrics: 'loss' and 'learning_rate', of the last step.

    Returns:
      'steps_per_second', 'images_per_second', and 'input_share', the share of
      the time that was spent waiting for batches, all since the last report.
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
    """Leaves the terminal in order."""
    if self._bar is not None:
      self._bar.close()
