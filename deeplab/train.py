"""Training, told from top to bottom."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import os
import time
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import optax

from deeplab import evaluate
from deeplab import metrics
from deeplab import networks
from deeplab import parallel
from deeplab import text
from deeplab import visualize
from deeplab import workdir as workdir_lib
from deeplab.data import dataset_info
from deeplab.data import datasets
from deeplab.models import registry
from deeplab.pretrained import load
from deeplab.training import checkpoints
from deeplab.training import class_weights
from deeplab.training import early_stopping
from deeplab.training import limits
from deeplab.training import losses
from deeplab.training import metric_writer
from deeplab.training import optimizers
from deeplab.training import preemption
from deeplab.training import profiler
from deeplab.training import train_step as steps


def check_config(config: ConfigDict) -> None:
  """Refuses numbers that make no run.

  Raises:
    ValueError: which one.
  """
  limits.check_positive(config)
  profiler.parse_steps(config.profile_steps)


def build_train_step(
  network: networks.Network, total: int, axis_name: str | None
) -> tuple[Any, optax.GradientTransformation, optax.Schedule, Any]:
  """Builds (model, optimizer, learning rate, step) of a run of `total` steps.

  The step is the pure one of `steps.py`, for one device's share of the batch.

  Raises:
    ValueError: BatchNorm would see a single image.
  """
  config, num_classes = network.config, network.num_classes
  limits.check_batch_size(config, network.has_frozen_batch_norm)
  model = network.train_model(axis_name)
  rate = optimizers.build_schedule(
    config.schedule,
    config.optimizer.learning_rate,
    total,
    optimizers.warmup_steps(config, total),
  )
  optimizer = optimizers.build_optimizer(config.optimizer, rate)
  step = steps.TrainStep(
    model=model,
    optimizer=optimizer,
    loss=losses.build_loss(config.loss, num_classes, dataset_info.IGNORE),
    seed=config.seed,
    accumulate_steps=config.accumulate_steps,
    ema_decay=config.ema_decay,
    axis_name=axis_name,
    range_tracking=network.range_tracking(model),
  )
  return model, optimizer, rate, step


def _check_finite(state: steps.TrainState, workdir: str) -> None:
  bad = int(state.nonfinite_step)
  if bad >= 0:
    raise FloatingPointError(
      f'loss, gradients or update of step {bad} are not finite; the last good '
      f'checkpoint below {workdir} was kept. Start anew, in another --workdir, '
      'with a lower optimizer.learning_rate or with optimizer.clip_norm set; '
      'or look for broken images'
    )


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
  """Trains, or goes on training, and returns the last evaluation's metrics.

  Args:
    config: the experiment.
    workdir: where all that the run leaves is written.

  Returns:
    The metrics by name, `miou` among them; empty if stopped by SIGTERM before
    the end.

  Raises:
    ValueError: the config or the data is wrong; the message says what to do.
    FloatingPointError: loss, gradients or update were not finite.
    OSError: a checkpoint cannot be written.
  """
  host, hosts = jax.process_index(), jax.process_count()
  check_config(config)
  networks.check_config(config)

  # Data.
  config = datasets.resolve_config(config)
  dataset = datasets.Dataset(config.data)
  parallel.first_host_first(dataset.prepare)
  info = dataset.info
  config = class_weights.balance_loss(config, dataset)
  early_stopping.check_monitored_metrics(
    config,
    metrics.metric_names(info.class_names, info.unscored, config.eval.loss),
  )
  examples = dataset.num_examples(config.data.train_split)
  total = limits.total_steps(config, examples)
  per_epoch = examples // config.batch_size
  evaluate_every = max(round(config.eval.every_epochs * per_epoch), 1)

  # Model, optimiser, state.
  network = networks.Network(config, dataset)
  model, optimizer, rate, step_fn = build_train_step(
    network, total, parallel.AXIS
  )
  state = steps.init_state(
    model,
    optimizer,
    channels=dataset.spec.channels,
    seed=config.seed,
    ema=config.ema_decay > 0,
  )
  logging.info(
    '%s: %d classes, %s to train on, %d steps of %s, '
    '%.3f M parameters, %d %s device(s)',
    config.name,
    info.num_classes,
    text.plural(examples, 'image'),
    total,
    text.plural(config.batch_size, 'image'),
    sum(x.size for x in jax.tree.leaves(state.params)) / 1e6,
    parallel.device_count(),
    parallel.platform(),
  )
  if total < per_epoch and not config.init_from:
    logging.info(
      '%d steps are less than an epoch, which has %d: the scores of such a run '
      'say that everything works, not how well the network learns',
      total,
      per_epoch,
    )

  warmup = optimizers.warmup_steps(config, total)
  if warmup >= total:
    logging.warning(
      'The warm-up of %d steps is as long as the run: the rate never reaches '
      'optimizer.learning_rate=%g; set schedule.warmup_steps',
      warmup,
      config.optimizer.learning_rate,
    )

  # Trained weights, unless the run has weights of its own.
  manifest = None
  new = not checkpoints.has_checkpoint(workdir_lib.checkpoint_dir(workdir))
  if new and config.init_from:
    variables, manifest = load.load_initial_variables(
      config,
      registry.build_model(
        config.model, info.num_classes, **parallel.kernels()
      ),
      {'params': state.params, 'batch_stats': state.batch_stats},
      # All hosts see the whole batches, or their variables would differ.
      lambda: dataset.train_batches(
        seed=config.seed, batch_size=config.batch_size
      ),
    )
    variables = network.start_from(variables)
    # Measured statistics may differ in rounding from host to host.
    variables = parallel.of_first_host(variables)
    state = steps.init_from_variables(state, variables, optimizer)

  # Where were we? Only a run that could start takes its work directory.
  workdir_lib.write_or_check_config(workdir, config, write=host == 0)
  if new and host == 0:
    load.write_manifest(workdir, manifest)
  saved = checkpoints.Checkpoints(
    workdir_lib.checkpoint_dir(workdir),
    keep_latest=config.checkpoint.keep_latest,
    keep_best=config.checkpoint.keep_best,
  )
  notes = early_stopping.ControlState()
  restored = saved.restore(state)
  if restored is not None:
    state = restored
    notes = early_stopping.ControlState.from_dict(saved.latest_metadata())
    logging.info('Going on from step %d of %s', int(state.step), workdir)
  start = int(state.step)
  if early_stopping.lowers_learning_rate(config):
    state = dataclasses.replace(state, rate_scale=jnp.float32(notes.rate_scale))
  state = parallel.replicate(state)
  train_step = parallel.map_train(step_fn)

  def to_score(state: steps.TrainState) -> Any:
    variables = parallel.to_local(state.eval_variables)
    return network.eval_variables(variables)

  predictor = network.predictor(
    {},  # each scoring brings its own
    output='argmax',
    output_stride=config.eval.output_stride,
  )
  record = metric_writer.MetricWriter(workdir, start) if host == 0 else None
  batches = dataset.train_batches(
    seed=config.seed,
    batch_size=config.batch_size,
    start_step=start,
    host_index=host,
    host_count=hosts,
  )

  def score(
    state: steps.TrainState,
    watch: Callable[[Iterator[dict]], Iterator[dict]] = lambda examples: (
      examples
    ),
  ) -> evaluate.Result:
    return evaluate.evaluate_predictor(
      predictor.with_variables(to_score(state)),
      watch(
        dataset.examples(
          config.data.eval_split, host_index=host, host_count=hosts
        )
      ),
      info,
      config.eval,
      keep_samples=4,
      loss_terms=config.loss.terms,
      sum_counts=parallel.sum_over_hosts,
    )

  # Step after step.
  progress = metric_writer.Progress(start, total, config.batch_size)
  recorder = profiler.TraceRecorder(
    profiler.parse_steps(config.profile_steps) if host == 0 else range(0),
    workdir,
  )
  result = None
  began = time.monotonic() - notes.seconds
  # A run that had ended early takes no further step.
  remaining = (
    ()
    if early_stopping.should_stop(notes, config)
    else range(start + 1, total + 1)
  )
  with preemption.PreemptionGuard() as stop, contextlib.ExitStack() as cleanup:
    # Whatever happens, the last save is waited for.
    for part in (saved, batches, progress, recorder):
      cleanup.callback(part.close)
    if record:
      cleanup.callback(record.close)
    for step in remaining:
      batch = parallel.split(progress.next_batch(batches))
      if step == start + 1:
        logging.info('Compiling the training step…')
        progress.pause()  # the time that is left will not hold another one
        spent = parallel.compile_ahead(train_step, state, batch)
        progress.resume()
        logging.info(
          'One step, on each device: %s', metric_writer.format_step_cost(spent)
        )
      recorder.before_step(step)
      state, measured = train_step(state, batch)
      recorder.after_step(step, state)
      progress.update(step)
      last = step == total
      reports = step % config.log_every_steps == 0 or last
      if reports:
        _check_finite(state, workdir)
        now = parallel.first(measured)
        now['learning_rate'] = float(rate(step - 1)) * notes.rate_scale
        now |= progress.report(step, now)
        if record:
          record.write_scalars(step, 'train', now)
        notes = early_stopping.update_elapsed(
          notes, time.monotonic() - began, config, parallel.any_host
        )
        last |= early_stopping.is_out_of_time(notes, config)
      evaluated = step % evaluate_every == 0 or last
      if evaluated:
        progress.pause()
        _check_finite(state, workdir)
        try:
          # Several hosts count together, and finish what they began; the last
          # evaluation belongs to the run's result, and one that decides on
          # what follows is not left out.
          leave = (
            hosts == 1
            and not last
            and not early_stopping.depends_on_evaluation(config)
          )
          result = score(state, stop.interruptible) if leave else score(state)
        except preemption.Preempted:
          evaluated = False
        else:
          logging.info('step %d: %s', step, evaluate.summarize_result(result))
          notes = early_stopping.update_after_evaluation(
            notes, result.metrics, config
          )
          if early_stopping.lowers_learning_rate(config):
            scale = parallel.replicate(jnp.float32(notes.rate_scale))
            state = dataclasses.replace(state, rate_scale=scale)
          if record:
            record.write_scalars(step, config.data.eval_split, result.metrics)
            record.write_images(step, 'samples', _draw_samples(result, info))
            record.flush()
        progress.resume()
      # Asked once a step: what is said to be saved is saved. Hosts agree on
      # it when they report.
      stopped = stop.requested
      if hosts > 1:
        stopped = reports and parallel.any_host(stop.requested)
      due = step % config.checkpoint.every_steps == 0
      if evaluated or due or stopped:
        _check_finite(state, workdir)
        miou = result.metrics['miou'] if evaluated and result else None
        saved.save(state, step, miou, notes.to_dict())
      if stopped:
        logging.info(
          'SIGTERM: saved step %d; the same command with --workdir=%s goes on',
          step,
          workdir,
        )
        break
      if early_stopping.should_stop(notes, config):
        logging.info('Ends early, at step %d: %s', step, notes)
        break

  # The end.
  if int(state.step) < total and not early_stopping.should_stop(notes, config):
    return {}
  if result is None:
    logging.info('%s had already reached its last step, %d', workdir, start)
    result = score(state)
  if host == 0:
    evaluate.write_result(result, os.path.join(workdir, 'eval', 'last'), info)
    visualize.save_image(
      visualize.plot_training_curves(os.path.join(workdir, 'metrics.jsonl')),
      os.path.join(workdir, 'curves.png'),
    )
    workdir_lib.write_run_record(
      workdir,
      step=int(state.step),
      seconds=notes.seconds,
      metrics=result.metrics,
    )
    logging.info(
      'Done: mIoU %.4f at the last step. Next, with --workdir=%s: python -m '
      'deeplab.predict --images=... --output=..., or python -m export.main '
      '--output=...; both take the checkpoint with the best mIoU',
      result.metrics['miou'],
      workdir,
    )
  return result.metrics


def _draw_samples(
  result: evaluate.Result, info: dataset_info.DatasetInfo
) -> np.ndarray:
  """Returns image | label | prediction of the kept samples, cut to one size."""
  height, width = np.min([s.label.shape for s in result.samples], axis=0)
  window = slice(height), slice(width)
  return np.stack(
    [
      visualize.side_by_side(
        s.image[window], s.label[window], s.prediction[window], info.palette
      )
      for s in result.samples
    ]
  )
