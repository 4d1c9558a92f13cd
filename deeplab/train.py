"""Training: prepare, initialize or resume; then step, log, evaluate, save.

`train` is the whole story, from top to bottom. It leaves out the step itself
(`training/train_step.py`) and how it is mapped over devices (`parallel.py`).
"""

import contextlib
import dataclasses
import functools
import os
import time

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
from deeplab.inference import predictors
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
from deeplab.training import train_step
from deeplab.training import workdir_lock


@dataclasses.dataclass(frozen=True)
class _Run:
  """The constants of a run: its network, its step, its length.

  Attributes:
    config: the experiment, with what depends on the data written into it.
    network: its network; `network.dataset` is its data set.
    train_step: the step of one device.
    learning_rate: the scheduled learning rate as a function of the step.
    examples: number of training examples.
    total_steps: number of steps.
    evaluate_every: number of steps from one evaluation to the next.
  """

  config: ConfigDict
  network: networks.Network
  train_step: train_step.TrainStep
  learning_rate: optax.Schedule
  examples: int
  total_steps: int
  evaluate_every: int


def train(config: ConfigDict, workdir: str) -> dict[str, float]:
  """Trains a network, or resumes its training, and evaluates it on the way.

  Args:
    config: the experiment.
    workdir: the work directory, into which everything is written.

  Returns:
    The metrics of the last evaluation by name, `miou` among them; {} if SIGTERM
    stopped the run before the end.

  Raises:
    ValueError: the config or the data is wrong, or another process trains in
      `workdir`; the message names the remedy.
    FloatingPointError: loss, gradients or update were not finite.
    OSError: a checkpoint cannot be written.
  """
  parallel.refuse_fork()
  with (
    preemption.PreemptionGuard(workdir) as guard,
    workdir_lock.WorkdirLock(workdir, needed=jax.process_index() == 0) as lock,
  ):
    return _train(config, workdir, guard, lock)


def _train(
  config: ConfigDict,
  workdir: str,
  guard: preemption.PreemptionGuard,
  lock: workdir_lock.WorkdirLock,
) -> dict[str, float]:
  """Trains or resumes, in a work directory that this process may write to."""
  host, hosts = jax.process_index(), jax.process_count()

  ###########################  Prepare and resume  ############################

  run = _prepare(config, workdir)
  config, dataset = run.config, run.network.dataset
  saved, state, control = _initialize_or_resume(run, workdir, lock)
  start = int(state.step)
  state = _apply_rate_scale(parallel.replicate(state), control, config)
  step_fn = parallel.map_train(run.train_step)
  predictor = run.network.predictor(
    {},  # each evaluation brings its own variables
    output='argmax',
    output_stride=config.eval.output_stride,
  )
  writer = metric_writer.MetricWriter(workdir, start) if host == 0 else None
  batches = dataset.train_batches(
    seed=config.seed,
    batch_size=config.batch_size,
    start_step=start,
    host_index=host,
    host_count=hosts,
  )
  progress = metric_writer.Progress(start, run.total_steps, config.batch_size)
  recorder = profiler.TraceRecorder(
    profiler.parse_steps(config.profile_steps) if host == 0 else range(0),
    workdir,
  )
  result = None
  began = time.monotonic() - control.seconds
  # A run that was stopped early takes no further step.
  remaining = (
    ()
    if early_stopping.should_stop(control, config)
    else range(start + 1, run.total_steps + 1)
  )

  with contextlib.ExitStack() as cleanup:
    # Whatever happens, the last save is waited for.
    for part in (saved, batches, progress, recorder, writer):
      if part is not None:
        cleanup.callback(part.close)

    for step in remaining:
      ###############################  Step  ##################################

      batch = parallel.split(progress.next_batch(batches))
      if step == start + 1:
        _compile(step_fn, state, batch, progress)
      guard.has_progress = True
      recorder.before_step(step)
      state, measured = step_fn(state, batch)
      recorder.after_step(step, state)
      progress.update(step)
      last = step == run.total_steps

      ################################  Log  ##################################

      logs = step % config.log_every_steps == 0 or last
      if logs:
        _check_finite(state, workdir)
        scalars = parallel.first(measured)
        rate = float(run.learning_rate(step - 1)) * control.rate_scale
        scalars['learning_rate'] = rate
        scalars |= progress.report(step, scalars)
        if writer:
          writer.write_scalars(step, 'train', scalars)
        control = early_stopping.update_elapsed(
          control, time.monotonic() - began, config, parallel.any_host
        )
        last |= early_stopping.is_out_of_time(control, config)

      ##############################  Evaluate  ###############################

      evaluated = step % run.evaluate_every == 0 or last
      if evaluated:
        progress.pause()
        _check_finite(state, workdir)
        # SIGTERM interrupts an evaluation, unless other hosts wait for this
        # one, the run's result needs it, or the rest of the run depends on it.
        interruptible = (
          hosts == 1
          and not last
          and not early_stopping.depends_on_evaluation(config)
        )
        try:
          if interruptible:
            result = guard.run_interruptible(
              functools.partial(_evaluate, run, predictor, state, guard)
            )
          else:
            result = _evaluate(run, predictor, state)
        except preemption.Preempted:
          evaluated = False
        else:
          logging.info('step %d: %s', step, evaluate.summarize_result(result))
          control = early_stopping.update_after_evaluation(
            control, result.metrics, config
          )
          state = _apply_rate_scale(state, control, config)
          if writer:
            samples = _draw_samples(result, dataset.info)
            writer.write_scalars(step, config.data.eval_split, result.metrics)
            writer.write_images(step, 'samples', samples)
            writer.flush()
        progress.resume()

      ################################  Save  #################################

      # Read once a step, so that what is logged as saved is saved. Several
      # hosts agree on it when they log.
      preempted = guard.requested
      if hosts > 1:
        preempted = logs and parallel.any_host(guard.requested)
      due = step % config.checkpoint.every_steps == 0
      if evaluated or due or preempted:
        _check_finite(state, workdir)
        miou = result.metrics['miou'] if evaluated and result else None
        saved.save(state, step, miou, control.to_dict())

      ################################  Stop  #################################

      if preempted:
        logging.info(
          'SIGTERM: saved step %d; the same command with --workdir=%s resumes',
          step,
          workdir,
        )
        break
      if early_stopping.should_stop(control, config):
        logging.info('Stops early, at step %d: %s', step, control)
        break

  finished = int(state.step) >= run.total_steps
  if not finished and not early_stopping.should_stop(control, config):
    return {}
  if result is None:
    logging.info('%s has already reached its last step, %d', workdir, start)
    result = _evaluate(run, predictor, state)
  if host == 0:
    _write_result(run, workdir, int(state.step), control, result)
  return result.metrics


###############################  Preparation  #################################


def check_config(config: ConfigDict) -> None:
  """Checks counts, intervals, the seed and the range of profiled steps.

  Raises:
    ValueError: a number is not positive, the seed is out of range, or
      `profile_steps` is not a range.
  """
  limits.check_positive(config)
  limits.check_seed(config.seed)
  profiler.parse_steps(config.profile_steps)


def build_train_step(
  network: networks.Network, total_steps: int, axis_name: str | None
) -> tuple[train_step.TrainStep, optax.Schedule]:
  """Builds the step of one device, and the learning rate schedule.

  Args:
    network: the network of the experiment.
    total_steps: number of steps of the run.
    axis_name: pmap axis, or None on one device without pmap.

  Returns:
    (step, learning rate as a function of the step).

  Raises:
    ValueError: BatchNorm would be computed over a single image, or the
      optimizer, schedule or loss has no such name or field.
  """
  config = network.config
  limits.check_batch_size(config, network.has_frozen_batch_norm)
  model = network.train_model(axis_name)
  learning_rate = optimizers.build_schedule(
    config.schedule,
    config.optimizer.learning_rate,
    total_steps,
    optimizers.warmup_steps(config, total_steps),
  )
  step = train_step.TrainStep(
    model=model,
    optimizer=optimizers.build_optimizer(config.optimizer, learning_rate),
    loss=losses.build_loss(
      config.loss, network.num_classes, dataset_info.IGNORE
    ),
    seed=config.seed,
    accumulate_steps=config.accumulate_steps,
    ema_decay=config.ema_decay,
    axis_name=axis_name,
    range_tracking=network.range_tracking(model),
  )
  return step, learning_rate


def _prepare(config: ConfigDict, workdir: str) -> _Run:
  """Checks the config, prepares the data, and builds the training step."""
  check_config(config)
  networks.check_config(config)
  config = workdir_lib.resume_config(workdir, config)
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
  total_steps = limits.total_steps(config, examples)
  steps_per_epoch = examples // config.batch_size
  network = networks.Network(config, dataset)
  step, learning_rate = build_train_step(network, total_steps, parallel.AXIS)
  return _Run(
    config=config,
    network=network,
    train_step=step,
    learning_rate=learning_rate,
    examples=examples,
    total_steps=total_steps,
    evaluate_every=max(round(config.eval.every_epochs * steps_per_epoch), 1),
  )


def _log_run(run: _Run, params: int) -> None:
  """Logs the size of a run, and warns of one that is too short."""
  config, steps_per_epoch = run.config, run.examples // run.config.batch_size
  logging.info(
    '%s: %d classes, %s to train on, %d steps of %s, '
    '%.3f M parameters, %d %s device(s)',
    config.name,
    run.network.num_classes,
    text.plural(run.examples, 'image'),
    run.total_steps,
    text.plural(config.batch_size, 'image'),
    params / 1e6,
    parallel.device_count(),
    parallel.platform(),
  )
  if run.total_steps < steps_per_epoch and not config.init_from:
    logging.info(
      '%d steps are less than an epoch, which has %d: the scores of such a run '
      'show that everything works, not how well the network learns',
      run.total_steps,
      steps_per_epoch,
    )
  warmup = optimizers.warmup_steps(config, run.total_steps)
  if warmup >= run.total_steps:
    logging.warning(
      'The warm-up of %d steps is as long as the run: the rate never reaches '
      'optimizer.learning_rate=%g; set schedule.warmup_steps',
      warmup,
      config.optimizer.learning_rate,
    )


def _initialize_or_resume(
  run: _Run, workdir: str, lock: workdir_lock.WorkdirLock
) -> tuple[
  checkpoints.Checkpoints, train_step.TrainState, early_stopping.ControlState
]:
  """Returns the checkpoints of a run and the state that it goes on from.

  The state is that of one device: it is not replicated yet.
  """
  config, network = run.config, run.network
  optimizer = run.train_step.optimizer
  state = train_step.init_state(
    run.train_step.model,
    optimizer,
    channels=network.dataset.spec.channels,
    seed=config.seed,
    ema=config.ema_decay > 0,
  )
  _log_run(run, sum(x.size for x in jax.tree.leaves(state.params)))

  # The state is, in this order:
  # 1. that of the newest checkpoint below `workdir`: the run is resumed;
  # 2. a new one with the variables of `config.init_from`: published weights, a
  #    file, or another run's work directory. A run in simulated int8 always
  #    starts from such float variables, and calibrates activation ranges here;
  # 3. a new one with random variables, drawn from `config.seed`.
  manifest = None
  new = not checkpoints.has_checkpoint(workdir_lib.checkpoint_dir(workdir))
  if new and config.init_from:
    variables, manifest = load.load_initial_variables(
      config,
      registry.build_model(
        config.model, network.num_classes, **parallel.kernels()
      ),
      {'params': state.params, 'batch_stats': state.batch_stats},
      # All hosts read the whole batches, or their variables would differ.
      lambda: network.dataset.train_batches(
        seed=config.seed, batch_size=config.batch_size
      ),
    )
    variables = network.start_from(variables)
    # Measured statistics may differ in rounding from host to host.
    variables = parallel.of_first_host(variables)
    state = train_step.init_from_variables(state, variables, optimizer)

  # Only a run that could start writes into its work directory.
  host = jax.process_index()
  lock.acquire()
  workdir_lib.write_or_check_config(workdir, config, write=host == 0)
  if new and host == 0:
    load.write_manifest(workdir, manifest)
  saved = checkpoints.Checkpoints(
    workdir_lib.checkpoint_dir(workdir),
    keep_latest=config.checkpoint.keep_latest,
    keep_best=config.checkpoint.keep_best,
  )
  restored = saved.restore(state)
  if restored is None:
    return saved, state, early_stopping.ControlState()
  logging.info('Resuming from step %d of %s', int(restored.step), workdir)
  control = early_stopping.ControlState.from_dict(saved.latest_metadata())
  return saved, restored, control


##############################  Parts of the loop  ############################


def _apply_rate_scale(
  state: train_step.TrainState,
  control: early_stopping.ControlState,
  config: ConfigDict,
) -> train_step.TrainState:
  """Returns the replicated state with the rate scale that evaluations chose."""
  if not early_stopping.lowers_learning_rate(config):
    return state
  scale = parallel.replicate(jnp.float32(control.rate_scale))
  return dataclasses.replace(state, rate_scale=scale)


def _compile(
  step_fn, state: train_step.TrainState, batch, progress: metric_writer.Progress
) -> None:
  """Compiles the mapped step, and logs its cost."""
  logging.info('Compiling the training step…')
  progress.pause()  # it happens once: the ETA leaves it out
  cost = parallel.compile_ahead(step_fn, state, batch)
  progress.resume()
  logging.info(
    'One step, on each device: %s', metric_writer.format_step_cost(cost)
  )


def _check_finite(state: train_step.TrainState, workdir: str) -> None:
  """Raises FloatingPointError if a step was not finite."""
  step = int(state.nonfinite_step)
  if step >= 0:
    raise FloatingPointError(
      f'loss, gradients or update of step {step} are not finite; the last good '
      f'checkpoint below {workdir} was kept. Start a new run, in another '
      '--workdir, with a lower optimizer.learning_rate or with '
      'optimizer.clip_norm set; or look for broken images'
    )


def _evaluate(
  run: _Run,
  predictor: predictors.FlaxPredictor,
  state: train_step.TrainState,
  guard: preemption.PreemptionGuard | None = None,
) -> evaluate.Result:
  """Evaluates the state on the evaluation split, shared among the hosts.

  Raises:
    Preempted: SIGTERM arrived, and there is a `guard`.
  """
  config, dataset = run.config, run.network.dataset
  examples = dataset.examples(
    config.data.eval_split,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )
  if guard is not None:
    examples = guard.interruptible(examples)
  variables = run.network.eval_variables(
    parallel.to_local(state.eval_variables)
  )
  return evaluate.evaluate_predictor(
    predictor.with_variables(variables),
    examples,
    dataset.info,
    config.eval,
    keep_samples=4,
    loss_terms=config.loss.terms,
    sum_counts=parallel.sum_over_hosts,
    image_sizes=functools.partial(
      dataset.image_sizes,
      config.data.eval_split,
      host_index=jax.process_index(),
      host_count=jax.process_count(),
    ),
  )


def _draw_samples(
  result: evaluate.Result, info: dataset_info.DatasetInfo
) -> np.ndarray:
  """Draws image, label and prediction of each sample side by side.

  Returns:
    [N, H, W, 3] uint8, cropped to the smallest height and width.
  """
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


def _write_result(
  run: _Run,
  workdir: str,
  step: int,
  control: early_stopping.ControlState,
  result: evaluate.Result,
) -> None:
  """Writes the last evaluation, the curves and the run record."""
  evaluate.write_result(
    result, os.path.join(workdir, 'eval', 'last'), run.network.dataset.info
  )
  lines = metric_writer.read_metrics(
    os.path.join(workdir, 'metrics.jsonl'), strict=False
  )
  visualize.save_image(
    visualize.plot_training_curves(lines), os.path.join(workdir, 'curves.png')
  )
  workdir_lib.write_run_record(
    workdir, step=step, seconds=control.seconds, metrics=result.metrics
  )
  logging.info(
    'Done: mIoU %.4f at the last step. Next, with --weights=%s: python -m '
    'deeplab.predict --images=... --output=..., or python -m export.main '
    '--output=...; both take the checkpoint with the best mIoU',
    result.metrics['miou'],
    workdir,
  )
