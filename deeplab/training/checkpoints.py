"""Checkpoints: asynchronous, atomic, the latest ones and the best.

A checkpoint has three parts, so that whoever evaluates or exports reads the
weights alone: `variables`, `ema` (where the run keeps one) and `training`
(step, optimiser state).
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
  """Ranks a checkpoint; a NaN is worse than any score."""
  value = (metrics or {}).get('miou', math.nan)
  return -1.0 if math.isnan(value) else value


def _checkpoint_items(state: train_step.TrainState) -> dict[str, PyTree]:
  parts = {
    'variables': state.variables,
    'training': {
      'step': state.step,
      'nonfinite_step': state.nonfinite_step,
      'opt_state': state.opt_state,
    },
  }
  if state.ema:
    parts['ema'] = state.eval_variables
  return parts


class Checkpoints:
  """The checkpoints of one work directory."""

  def __init__(self, directory: str, *, keep_latest: int, keep_best: int):
    """Opens or makes `directory`; leftovers of a killed save are removed.

    Args:
      directory: where the checkpoints stand, one folder a step.
      keep_latest: how many of the newest are kept.
      keep_best: how many of the best by mIoU are kept besides.
    """
    self._directory = epath.Path(directory).resolve()
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        # Written with the checkpoint; the policy alone decides what is kept
        # (`best_fn` with `max_to_keep` would delete the newest step).
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
    notes: dict | None = None,
  ) -> None:
    """Starts saving in the background; the state may change afterwards.

    Args:
      state: the state, as the mapped step returns it.
      step: its step.
      miou: the score that it got, if it was evaluated.
      notes: what else to keep, as JSON has it; see `notes`.

    Raises:
      OSError: the disk is full, or this or the last save cannot be written;
        earlier checkpoints are whole.
    """
    args = {
      name: ocp.args.StandardSave(parallel.to_global(part))
      for name, part in _checkpoint_items(state).items()
    }
    try:
      self._manager.save(
        step,
        args=ocp.args.Composite(**args),
        metrics={} if miou is None else {'miou': float(miou)},
        custom_metadata=notes,
      )
    except Exception as e:
      raise self._save_error(e) from e

  def wait(self) -> None:
    """Waits until the last save is on disk; raises as `save` does."""
    try:
      self._manager.wait_until_finished()
    except Exception as e:
      raise self._save_error(e) from e

  def _save_error(self, error: Exception) -> OSError:
    good = [s for s in self._manager.all_steps(read=True)]
    left = f'the newest whole one is step {max(good)}' if good else 'none is'
    return OSError(
      f'could not save a checkpoint below {self._directory} '
      f'({str(error).strip().splitlines()[-1] if str(error) else error!r}); '
      f'{left}; free some space and run the same command to go on from there'
    )

  def latest_step(self) -> int | None:
    """Returns the newest step that was saved whole."""
    return self._manager.latest_step()

  def latest_metadata(self) -> dict:
    """Returns what was saved beside the newest state; {} if nothing was."""
    step = self.latest_step()
    if step is None:
      return {}
    return self._manager.metadata(step).custom_metadata or {}

  def restore(
    self, like: train_step.TrainState
  ) -> train_step.TrainState | None:
    """Returns the newest state, or None where nothing was saved.

    Args:
      like: a state of the same structure, shapes and dtypes.

    Raises:
      ValueError: the checkpoint is of another model or optimiser.
    """
    step = self.latest_step()
    if step is None:
      return None
    if jax.process_count() > 1:
      like = parallel.to_global(parallel.replicate(like))
    parts = _checkpoint_items(like)
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
          **{
            name: ocp.args.StandardRestore(
              jax.tree.map(ocp.utils.to_shape_dtype_struct, part)
            )
            for name, part in parts.items()
          }
        ),
      )
    except (ValueError, KeyError) as e:
      raise ValueError(
        f'the checkpoint of step {step} below {self._directory} does not fit '
        f'the configured model and optimiser ({e}); choose another --workdir'
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
    """Waits for the last save and closes; raises as `save` does."""
    self.wait()
    self._manager.close()


def has_checkpoint(directory: str) -> bool:
  """Returns whether a checkpoint stands whole in `directory`."""
  root = epath.Path(directory)
  return root.exists() and any(path.name.isdigit() for path in root.iterdir())


def load_variables(directory: str, which: str) -> tuple[PyTree, int, float]:
  """Reads the weights to evaluate or export.

  Args:
    directory: as for `Checkpoints`.
    which: 'best' by mIoU (the newest, where none was scored), or 'latest'.

  Returns:
    ({'params', 'batch_stats'} of NumPy arrays, the averaged ones where the run
    kept an average, and 'quant_stats' where it simulated int8; the step; its
    mIoU while training, NaN if unknown).

  Raises:
    FileNotFoundError: nothing was saved there.
    ValueError: `which` is unknown.
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
    raise FileNotFoundError(f'no checkpoint was saved whole below {root}')
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
