"""Checkpoints: asynchronous, atomic, the latest ones and the best.

A checkpoint has three items, so that evaluation and export read only the
weights: `variables`, `ema` (where the run keeps moving averages) and `training`
(step, optimizer state). Its metadata hold the `early_stopping.ControlState`,
and digests by which a damaged checkpoint is known (`checkpoint_files.py`).
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from deeplab import parallel
from deeplab import system
from deeplab import text
from deeplab.training import checkpoint_files
from deeplab.training import train_step

PyTree = Any

# Checkpoints are moved here before their files are deleted, one by one: a run
# that is killed meanwhile leaves no step with half of its files.
_DELETED_FOLDER = '.deleted'


def _rank_by_miou(metrics: dict[str, float] | None) -> float:
  """Returns the mIoU to rank a checkpoint by; NaN ranks below any score."""
  value = (metrics or {}).get('miou', math.nan)
  return -1.0 if math.isnan(value) else value


def _checkpoint_items(state: train_step.TrainState) -> dict[str, PyTree]:
  """Returns the items of a checkpoint by name."""
  items = {
    'variables': state.variables,
    'training': {
      'step': state.step,
      'nonfinite_step': state.nonfinite_step,
      'opt_state': state.opt_state,
    },
  }
  if state.ema:
    items['ema'] = state.eval_variables
  return items


class Checkpoints:
  """The checkpoints of one work directory."""

  def __init__(self, directory: str, *, keep_latest: int, keep_best: int):
    """Opens or creates `directory`, and removes leftovers of a killed save.

    A checkpoint whose metrics or metadata are damaged is set aside.

    Args:
      directory: folder of the checkpoints; each step is a folder below it.
      keep_latest: number of newest checkpoints to keep.
      keep_best: number of checkpoints of the best mIoU to keep as well.

    Raises:
      ValueError: all checkpoints are damaged.
    """
    self._directory = os.path.abspath(directory)
    self._read_back = False  # True once a save was read back
    parallel.first_host_first(self._set_unreadable_aside)
    self._remove_deleted()
    with system.explain_write_errors(self._directory):
      self._manager = ocp.CheckpointManager(
        checkpoint_files.LiteralPath(self._directory),
        options=ocp.CheckpointManagerOptions(
          # Only makes Orbax store the metrics; the policy decides what is kept.
          # (`best_fn` with `max_to_keep` would delete the newest step.)
          best_fn=_rank_by_miou,
          preservation_policy=checkpoint_managers.AnyPreservationPolicy(
            [
              checkpoint_managers.LatestN(keep_latest),
              checkpoint_managers.BestN(
                get_metric_fn=_rank_by_miou,
                n=keep_best,
                keep_checkpoints_without_metrics=False,
              ),
            ]
          ),
          cleanup_tmp_directories=True,
          todelete_subdir=_DELETED_FOLDER,
        ),
      )

  def save(
    self,
    state: train_step.TrainState,
    step: int,
    miou: float | None = None,
    metadata: dict | None = None,
  ) -> None:
    """Starts saving in the background; the state may be donated afterwards.

    The first save is waited for and read back: a file system that loses data
    is noticed before the run depends on it.

    Args:
      state: the state, as the mapped step returns it.
      step: number of steps taken.
      miou: mIoU of the state, if it was evaluated.
      metadata: JSON values that `latest_metadata` returns.

    Raises:
      OSError: the disk is full, or this save or the one before cannot be
        written or read back; earlier checkpoints are complete.
    """
    items = _checkpoint_items(state)
    scores = {} if miou is None else {'miou': float(miou)}
    record = metadata
    if jax.process_index() == 0:  # which writes it
      local = {name: parallel.to_local(item) for name, item in items.items()}
      record = checkpoint_files.add_digests(metadata or {}, scores, local)
    args = {
      name: ocp.args.StandardSave(parallel.to_global(item))
      for name, item in items.items()
    }
    self._remove_deleted()
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(**args),
        metrics=scores,
        custom_metadata=record,
      )
      if not self._read_back:
        self._manager.wait_until_finished()
        checkpoint_files.read_items(self._folder(step))
        self._read_back = True
    except Exception as e:
      raise self._save_error(e) from e

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      OSError: the save cannot be written.
    """
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      raise self._save_error(e) from e

  def _save_error(self, error: Exception) -> OSError:
    """Returns an error that names the newest complete checkpoint."""
    complete = checkpoint_files.saved_steps(self._directory)
    newest = (
      f'the newest complete one is step {max(complete)}'
      if complete
      else 'there is no complete one yet'
    )
    full = system.full_disk_reason(error)
    remedy = 'free some space' if full else 'mend the cause'
    return OSError(
      f'could not save a checkpoint below {self._directory} '
      f'({checkpoint_files.short_reason(error)}); {newest}; {remedy} and run '
      'the same command to go on from there'
    )

  def _remove_deleted(self) -> None:
    """Removes the files of checkpoints that are no longer kept."""
    if jax.process_index() == 0:
      for path in pathlib.Path(self._directory, _DELETED_FOLDER).glob('*'):
        shutil.rmtree(path, ignore_errors=True)

  def _folder(self, step: int) -> str:
    return os.path.join(self._directory, str(step))

  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint; None without one."""
    return max(checkpoint_files.saved_steps(self._directory), default=None)

  def latest_metadata(self) -> dict:
    """Returns the metadata of the newest checkpoint; {} if it has none."""
    step = self.latest_step()
    if step is None:
      return {}
    return checkpoint_files.read_record(self._folder(step)).metadata

  def _set_unreadable_aside(self) -> None:
    """Sets checkpoints aside whose record is damaged."""
    damaged = {}
    steps = checkpoint_files.saved_steps(self._directory)
    for step in steps:
      try:
        checkpoint_files.read_record(self._folder(step))
      except checkpoint_files.DamagedError as error:
        damaged[step] = error
    self._set_aside(damaged, steps)

  def _set_aside(
    self, damaged: dict[int, checkpoint_files.DamagedError], steps: list[int]
  ) -> None:
    """Renames damaged checkpoints, unless there is no other one.

    Args:
      damaged: errors by step.
      steps: all steps that are saved.

    Raises:
      ValueError: all of them are damaged.
    """
    if not damaged:
      return
    if len(damaged) == len(steps):
      raise ValueError(
        f'{text.plural(len(steps), "checkpoint")} below {self._directory}, and '
        f'none is whole (step {max(damaged)}: {damaged[max(damaged)]}); choose '
        'another --workdir, or remove that one to train again'
      )
    if jax.process_index() > 0:
      return
    for step, error in sorted(damaged.items()):
      folder = self._folder(step)
      number = 1
      while os.path.exists(aside := f'{folder}.damaged{number}'):
        number += 1
      os.rename(folder, aside)
      logging.warning(
        'The checkpoint of step %d is damaged (%s): it is kept as %s, and not '
        'used',
        *(step, error, aside),
      )

  def _read_newest(self) -> tuple[int, dict[str, checkpoint_files.Arrays]]:
    """Reads the newest whole checkpoint, and sets damaged newer ones aside."""
    damaged = {}
    steps = checkpoint_files.saved_steps(self._directory)
    for step in reversed(steps):
      try:
        _, items = checkpoint_files.read_items(self._folder(step))
      except checkpoint_files.DamagedError as error:
        damaged[step] = error
      else:
        break
    self._set_aside(damaged, steps)
    return step, items

  def restore(
    self, like: train_step.TrainState
  ) -> train_step.TrainState | None:
    """Restores the newest state that is whole.

    Damaged checkpoints that are newer are set aside: they are renamed to
    STEP.damaged1, and a warning names them.

    Args:
      like: a state of the same structure, shapes and dtypes.

    Returns:
      The state, of one device; None if nothing was saved.

    Raises:
      ValueError: the checkpoint is of another model or optimizer, or all
        checkpoints are damaged.
    """
    if self.latest_step() is None:
      return None
    # Orbax reads on all processes together; the first one renames.
    step, items = self._read_newest()
    parallel.any_host(False)
    self._manager.reload()
    try:
      restored = {
        name: _fill(item, items.get(name, {}), name)
        for name, item in _checkpoint_items(like).items()
      }
    except ValueError as e:
      raise ValueError(
        f'the checkpoint of step {step} below {self._directory} does not fit '
        f'the configured model and optimizer ({e}); choose another --workdir'
      ) from e
    return dataclasses.replace(
      like,
      step=restored['training']['step'],
      params=restored['variables']['params'],
      batch_stats=restored['variables']['batch_stats'],
      opt_state=restored['training']['opt_state'],
      quant_stats=restored['variables'].get('quant_stats', {}),
      ema={name: restored['ema'][name] for name in like.ema},
      nonfinite_step=restored['training']['nonfinite_step'],
    )

  def close(self) -> None:
    """Waits for the last save, and closes.

    Raises:
      OSError: the save cannot be written.
    """
    self.wait()
    with system.explain_write_errors(self._directory):
      self._manager.close()
    self._remove_deleted()
    with contextlib.suppress(OSError):  # there is none, or it is not empty
      os.rmdir(os.path.join(self._directory, _DELETED_FOLDER))


def _fill(like: PyTree, arrays: checkpoint_files.Arrays, name: str) -> PyTree:
  """Returns a tree like another one, of arrays by their path.

  Raises:
    ValueError: an array is absent, left over, or of another shape or type.
  """
  wanted = checkpoint_files.flatten(like)
  for path in sorted(wanted.keys() | arrays.keys()):
    kinds = [
      f'{tree[path].dtype}{list(tree[path].shape)}' if path in tree else 'none'
      for tree in (arrays, wanted)
    ]
    if kinds[0] != kinds[1]:
      raise ValueError(
        f'{"/".join((name, *path))}: saved is {kinds[0]}, expected {kinds[1]}'
      )
  leaves = [jnp.asarray(arrays[path]) for path in wanted]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def has_checkpoint(directory: str) -> bool:
  """Returns True if `directory` holds a complete checkpoint."""
  return bool(checkpoint_files.saved_steps(directory))


def load_variables(directory: str, which: str) -> tuple[PyTree, int, float]:
  """Reads the weights to evaluate or export.

  Args:
    directory: folder of the checkpoints.
    which: 'best' by mIoU (the newest, if none was evaluated), or 'latest'.

  Returns:
    (variables, step, mIoU): {'params', 'batch_stats'} of NumPy arrays, and
    'quant_stats' where the run simulated int8; they are the moving averages
    where the run keeps them. The mIoU is that of the evaluation in training,
    NaN without one.

  Raises:
    FileNotFoundError: there is no complete checkpoint.
    ValueError: `which` is neither 'best' nor 'latest', or the checkpoint is
      damaged.
  """
  if which not in ('best', 'latest'):
    raise ValueError(f"checkpoint {which!r} is neither 'best' nor 'latest'")
  root = pathlib.Path(directory).absolute()
  if not root.exists():
    raise FileNotFoundError(
      f'{root} does not exist; train there first, or name another --workdir'
    )
  saved = checkpoint_files.saved_steps(str(root))
  if not saved:
    raise FileNotFoundError(
      f'there is no complete checkpoint below {root}; train there first, or '
      'name another --workdir'
    )
  step = saved[-1]
  try:
    if which == 'best':
      scores = {}
      for step in saved:
        record = checkpoint_files.read_record(str(root / str(step)))
        scores[step] = _rank_by_miou({'miou': record.miou})
      step = max(saved, key=lambda s: (scores[s], s))
    folder = str(root / str(step))
    record = checkpoint_files.read_record(folder)
    item = 'ema' if 'ema' in record.items else 'variables'
    arrays = checkpoint_files.read_item(folder, item, record)
  except checkpoint_files.DamagedError as error:
    raise ValueError(
      f'the checkpoint of step {step} below {root} is damaged ({error}); move '
      f'{root / str(step)} elsewhere, and the next one is used'
      if len(saved) > 1
      else f'the only checkpoint below {root}, of step {step}, is damaged '
      f'({error}); train again, in another --workdir'
    ) from error
  variables: dict[str, Any] = {'batch_stats': {}}
  for path, array in arrays.items():
    *sections, leaf = path
    section = variables
    for part in sections:
      section = section.setdefault(part, {})
    section[leaf] = array
  return variables, step, record.miou
