"""Checkpoints: asynchronous, atomic, the latest ones and the best.

A checkpoint has three items, so that evaluation and export read only the
weights: `variables`, `ema` (where the run keeps moving averages) and `training`
(step, optimizer state). Its metadata hold the `early_stopping.ControlState`.
"""

import dataclasses
import math
from typing import Any

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from deeplab import parallel
from deeplab.training import train_step

PyTree = Any


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

    Args:
      directory: folder of the checkpoints; each step is a folder below it.
      keep_latest: number of newest checkpoints to keep.
      keep_best: number of checkpoints of the best mIoU to keep as well.
    """
    self._directory = epath.Path(directory).resolve()
    self._manager = ocp.CheckpointManager(
      self._directory,
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

    Args:
      state: the state, as the mapped step returns it.
      step: number of steps taken.
      miou: mIoU of the state, if it was evaluated.
      metadata: JSON values that `latest_metadata` returns.

    Raises:
      OSError: the disk is full, or this save or the one before cannot be
        written; earlier checkpoints are complete.
    """
    args = {
      name: ocp.args.StandardSave(parallel.to_global(item))
      for name, item in _checkpoint_items(state).items()
    }
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(**args),
        metrics={} if miou is None else {'miou': float(miou)},
        custom_metadata=metadata,
      )
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
    complete = [s for s in self._manager.all_steps(read=True)]
    newest = (
      f'the newest complete one is step {max(complete)}'
      if complete
      else 'there is no complete one yet'
    )
    return OSError(
      f'could not save a checkpoint below {self._directory} '
      f'({str(error).strip().splitlines()[-1] if str(error) else error!r}); '
      f'{newest}; free some space and run the same command to go on from there'
    )

  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint; None without one."""
    return self._manager.latest_step()

  def latest_metadata(self) -> dict:
    """Returns the metadata of the newest checkpoint; {} if it has none."""
    step = self.latest_step()
    if step is None:
      return {}
    return self._manager.metadata(step).custom_metadata or {}

  def restore(
    self, like: train_step.TrainState
  ) -> train_step.TrainState | None:
    """Restores the newest state.

    Args:
      like: a state of the same structure, shapes and dtypes.

    Returns:
      The state; None if nothing was saved.

    Raises:
      ValueError: the checkpoint is of another model or optimizer.
    """
    step = self.latest_step()
    if step is None:
      return None
    if jax.process_count() > 1:
      like = parallel.to_global(parallel.replicate(like))
    items = _checkpoint_items(like)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          **{
            name: ocp.args.StandardRestore(
              jax.tree.map(ocp.utils.to_shape_dtype_struct, item)
            )
            for name, item in items.items()
          }
        ),
      )
    except (ValueError, KeyError) as e:
      raise ValueError(
        f'the checkpoint of step {step} below {self._directory} does not fit '
        f'the configured model and optimizer ({e}); choose another --workdir'
      ) from e
    return parallel.to_local(
      dataclasses.replace(
        like,
        step=restored['training']['step'],
        params=restored['variables']['params'],
        batch_stats=restored['variables']['batch_stats'],
        opt_state=restored['training']['opt_state'],
        quant_stats=restored['variables'].get('quant_stats', {}),
        ema={name: restored['ema'][name] for name in like.ema},
        nonfinite_step=restored['training']['nonfinite_step'],
      )
    )

  def close(self) -> None:
    """Waits for the last save, and closes.

    Raises:
      OSError: the save cannot be written.
    """
    self.wait()
    self._manager.close()


def has_checkpoint(directory: str) -> bool:
  """Returns True if `directory` holds a complete checkpoint."""
  root = epath.Path(directory)
  return root.exists() and any(path.name.isdigit() for path in root.iterdir())


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
    ValueError: `which` is neither 'best' nor 'latest'.
  """
  if which not in ('best', 'latest'):
    raise ValueError(f"checkpoint {which!r} is neither 'best' nor 'latest'")
  root = epath.Path(directory).resolve()
  if not root.exists():
    raise FileNotFoundError(
      f'{root} does not exist; train there first, or name another --workdir'
    )
  manager = ocp.CheckpointManager(
    root,
    options=ocp.CheckpointManagerOptions(read_only=True, best_fn=_rank_by_miou),
  )
  saved = sorted(manager.all_steps())
  if not saved:
    raise FileNotFoundError(
      f'there is no complete checkpoint below {root}; train there first, or '
      'name another --workdir'
    )
  scores = {step: _rank_by_miou(manager.metrics(step)) for step in saved}
  step = saved[-1]
  if which == 'best':
    step = max(saved, key=lambda s: (scores[s], s))
  manager.close()
  folder = root / str(step)
  item = folder / ('ema' if (folder / 'ema').exists() else 'variables')
  with ocp.StandardCheckpointer() as reader:
    metadata = reader.metadata(item)
    tree = getattr(metadata.item_metadata, 'tree', metadata.item_metadata)
    variables = reader.restore(
      item,
      jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(
          m.shape,
          m.dtype,
          sharding=jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
        ),
        tree,
      ),
    )
  score = scores[step] if scores[step] >= 0 else math.nan
  variables = {'batch_stats': {}, **variables}
  return jax.tree.map(np.asarray, variables), step, score
