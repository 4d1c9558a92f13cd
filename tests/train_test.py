import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import shapes_mnv2
from deeplab import describe
from deeplab import evaluate
from deeplab import metrics
from deeplab import networks
from deeplab import parallel
from deeplab import train
from deeplab import workdir as workdir_lib
from deeplab.data import catalog
from deeplab.data import datasets
from deeplab.inference import predictors
from deeplab.models import registry
from deeplab.training import checkpoints
from deeplab.training import metric_writer
from deeplab.training import train_step
from tests import configs_test
from tests import helpers
from tests import runs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _variables(workdir):
  loaded, step, _ = checkpoints.load_variables(
    workdir_lib.checkpoint_dir(workdir), 'latest'
  )
  return loaded, step


def _assert_bitwise_equal(a, b):
  leaves_a, leaves_b = jax.tree.leaves(a), jax.tree.leaves(b)
  assert len(leaves_a) == len(leaves_b)
  for x, y in zip(leaves_a, leaves_b, strict=True):
    assert x.tobytes() == y.tobytes()


def _patch_batches(monkeypatch, change):
  """Passes each batch through `change(step, batch)` before the step."""
  original = datasets.Dataset.train_batches

  def patched(self, *, start_step=0, **kwargs):
    batches = original(self, start_step=start_step, **kwargs)
    for step, batch in enumerate(batches, start_step + 1):
      yield change(step, batch)

  monkeypatch.setattr(datasets.Dataset, 'train_batches', patched)


def test_a_run_writes_its_files(smoke_run):
  names = set(os.listdir(smoke_run.workdir))
  assert {'config.json', 'metrics.jsonl', 'checkpoints', 'eval'} <= names
  assert any(name.startswith('events.') for name in names)
  assert os.path.getsize(os.path.join(smoke_run.workdir, 'curves.png')) > 5000
  # Six steps, a checkpoint every two, the latest two kept.
  saved = os.listdir(workdir_lib.checkpoint_dir(smoke_run.workdir))
  assert {name for name in saved if name.isdigit()} == {'4', '6'}

  lines = metric_writer.read_metrics(
    os.path.join(smoke_run.workdir, 'metrics.jsonl')
  )
  training = [line for line in lines if line['split'] == 'train']
  assert [line['step'] for line in training] == [2, 4, 6]
  fields = ('loss', 'learning_rate', 'grad_norm', 'update_norm', 'param_norm')
  assert all(line[f] > 0 for line in training for f in fields)
  (scored,) = (line for line in lines if line['split'] == 'val')
  assert scored['step'] == 6
  assert scored['miou'] == smoke_run.metrics['miou']
  # 100 drawn images of 128x128, less their void borders.
  path = os.path.join(smoke_run.workdir, 'eval', 'last', 'confusion.json')
  with open(path, encoding='utf-8') as f:
    confusion = np.array(json.load(f)['confusion'])
  assert 0.5 * 100 * 128**2 < confusion.sum() < 100 * 128**2


def test_a_finished_run_is_not_repeated(smoke_run):
  before, _ = _variables(smoke_run.workdir)
  again = train.train(smoke_run.config, smoke_run.workdir)
  np.testing.assert_allclose(again['miou'], smoke_run.metrics['miou'])
  _assert_bitwise_equal(before, _variables(smoke_run.workdir)[0])


def test_an_interrupted_run_ends_bitwise_equal(
  smoke_run, tmp_path, monkeypatch
):
  def stop(step, batch):
    if step == 6:
      raise KeyboardInterrupt
    return batch

  workdir = str(tmp_path / 'run')
  with monkeypatch.context() as patch:
    _patch_batches(patch, stop)
    with pytest.raises(KeyboardInterrupt):
      train.train(smoke_run.config, workdir)
  train.train(smoke_run.config, workdir)
  expected, step = _variables(smoke_run.workdir)
  assert step == 6
  _assert_bitwise_equal(expected, _variables(workdir)[0])
  lines = metric_writer.read_metrics(os.path.join(workdir, 'metrics.jsonl'))
  assert [x['step'] for x in lines if x['split'] == 'train'] == [2, 4, 6]


def test_sigterm_saves_and_the_run_resumes(smoke_run, tmp_path, monkeypatch):
  def send_sigterm(step, batch):
    if step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return batch

  workdir = str(tmp_path / 'run')
  with monkeypatch.context() as patch:
    _patch_batches(patch, send_sigterm)
    assert train.train(smoke_run.config, workdir) == {}
  assert _variables(workdir)[1] == 3
  train.train(smoke_run.config, workdir)
  _assert_bitwise_equal(
    _variables(smoke_run.workdir)[0], _variables(workdir)[0]
  )


def test_sigterm_while_the_step_runs_is_not_missed(
  smoke_run, tmp_path, monkeypatch
):
  """It arrives after the step has started, and no save is due."""
  check, sent = train._check_finite, []

  def send_sigterm(state, workdir):
    if int(state.step) == 2 and not sent:
      sent.append(2)
      os.kill(os.getpid(), signal.SIGTERM)
    check(state, workdir)

  workdir = str(tmp_path / 'run')
  config = runs.config(
    smoke_run.config.data.data_dir, checkpoint__every_steps=100
  )
  with monkeypatch.context() as patch:
    patch.setattr(train, '_check_finite', send_sigterm)
    assert train.train(config, workdir) == {}
  assert _variables(workdir)[1] == 2


def test_sigterm_interrupts_an_evaluation(smoke_run, tmp_path, monkeypatch):
  examples = datasets.Dataset.examples
  seen = []

  def send_sigterm(*args, **kwargs):
    for example in examples(*args, **kwargs):
      seen.append(example['name'])
      if len(seen) == 5:
        os.kill(os.getpid(), signal.SIGTERM)
      yield example

  workdir = str(tmp_path / 'run')
  # 600 images in batches of 4: evaluations after steps 3 and 6.
  config = runs.config(
    smoke_run.config.data.data_dir, eval__every_epochs=3 / 150
  )
  with monkeypatch.context() as patch:
    patch.setattr(datasets.Dataset, 'examples', send_sigterm)
    assert train.train(config, workdir) == {}
  assert 5 <= len(seen) < 100
  assert _variables(workdir)[1] == 3
  # The checkpoint has no score, rather than that of half a split.
  _, _, miou = checkpoints.load_variables(
    workdir_lib.checkpoint_dir(workdir), 'best'
  )
  assert np.isnan(miou)
  train.train(config, workdir)
  _assert_bitwise_equal(
    _variables(smoke_run.workdir)[0], _variables(workdir)[0]
  )


def _fixed_scores(monkeypatch, values):
  """Makes evaluations return these values of mIoU, in this order."""
  evaluated = evaluate.evaluate_predictor

  def score(*args, **kwargs):
    result = evaluated(*args, **kwargs)
    return dataclasses.replace(
      result, metrics=result.metrics | {'miou': values.pop(0)}
    )

  monkeypatch.setattr(evaluate, 'evaluate_predictor', score)


@pytest.mark.full
def test_a_plateau_survives_an_interruption(smoke_run, tmp_path, monkeypatch):
  config = runs.config(
    smoke_run.config.data.data_dir,
    total_steps=8,
    eval__every_epochs=2 / 150,
    schedule__name='plateau',
    schedule__warmup_steps=0,
    schedule__plateau__patience=1,
    schedule__plateau__factor=0.25,
  )

  def stop(step, batch):
    if step == 6:
      raise KeyboardInterrupt
    return batch

  def rates(workdir):
    lines = metric_writer.read_metrics(os.path.join(workdir, 'metrics.jsonl'))
    return [x['learning_rate'] for x in lines if x['split'] == 'train']

  # Evaluations after steps 2, 4, 6, 8: the second and the fourth are worse.
  scores = [0.5, 0.4, 0.6, 0.1]
  whole, killed = str(tmp_path / 'whole'), str(tmp_path / 'killed')
  with monkeypatch.context() as patch:
    _fixed_scores(patch, list(scores))
    train.train(config, whole)
  np.testing.assert_allclose(
    np.array(rates(whole)[1:]) / 3e-3, [1, 0.25, 0.25], rtol=1e-3
  )
  with monkeypatch.context() as patch:
    _fixed_scores(patch, list(scores))
    with patch.context() as crash:
      _patch_batches(crash, stop)
      with pytest.raises(KeyboardInterrupt):
        train.train(config, killed)
    train.train(config, killed)
  assert rates(killed) == rates(whole)
  _assert_bitwise_equal(_variables(whole)[0], _variables(killed)[0])


@pytest.mark.full
def test_early_stopping_ends_a_run_for_good(smoke_run, tmp_path, monkeypatch):
  config = runs.config(
    smoke_run.config.data.data_dir,
    eval__every_epochs=1 / 150,
    early_stopping__patience=2,
  )
  workdir = str(tmp_path / 'run')
  with monkeypatch.context() as patch:
    _fixed_scores(patch, [0.5, 0.4, 0.3])
    assert train.train(config, workdir)['miou'] == 0.3
  assert _variables(workdir)[1] == 3
  again = train.train(config, workdir)
  assert _variables(workdir)[1] == 3
  assert 0 < again['miou'] < 1


@pytest.mark.full
def test_a_time_limit_is_resumable(smoke_run, tmp_path, monkeypatch):
  """Each reading of the clock takes a minute."""
  now = [0.0]

  def monotonic():
    now[0] += 60.0
    return now[0]

  monkeypatch.setattr(train, 'time', types.SimpleNamespace(monotonic=monotonic))
  workdir = str(tmp_path / 'run')

  def limited(minutes):
    return runs.config(
      smoke_run.config.data.data_dir, log_every_steps=1, max_minutes=minutes
    )

  assert 'miou' in train.train(limited(2.0), workdir)
  assert _variables(workdir)[1] == 2
  # No time is left; then the limit is raised.
  train.train(limited(2.0), workdir)
  assert _variables(workdir)[1] == 2
  train.train(limited(5.0), workdir)
  assert _variables(workdir)[1] == 5


def test_missing_results_of_a_killed_run_are_written(smoke_run, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(smoke_run.workdir, workdir)
  shutil.rmtree(workdir / 'eval')
  (workdir / 'curves.png').unlink()
  train.train(smoke_run.config, str(workdir))
  assert (workdir / 'eval' / 'last' / 'metrics.json').exists()
  assert (workdir / 'curves.png').exists()


def test_a_config_that_cannot_start_writes_nothing(data_dir, tmp_path):
  with pytest.raises(ValueError, match='batch_size=4000'):
    train.train(runs.config(data_dir, batch_size=4000), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_config_without_checkpoints_may_be_overwritten(data_dir, tmp_path):
  workdir = str(tmp_path / 'run')
  config = runs.config(data_dir)
  workdir_lib.write_or_check_config(workdir, config)
  config = runs.config(data_dir, batch_size=2)
  workdir_lib.write_or_check_config(workdir, config)
  assert workdir_lib.read_config(workdir).batch_size == 2


@pytest.mark.parametrize(
  'field',
  ['batch_size', 'accumulate_steps', 'log_every_steps', 'eval__batch_size'],
)
def test_counts_of_zero_are_refused(field, data_dir, tmp_path):
  message = field.replace('__', '.') + '=0 must be greater than 0'
  with pytest.raises(ValueError, match=message):
    train.train(runs.config(data_dir, **{field: 0}), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_samples_show_image_label_and_prediction():
  info = catalog.INFOS['shapes']
  samples = tuple(
    evaluate.Sample(
      'x',
      np.zeros((*size, 3), np.uint8),
      np.zeros(size, np.uint8),
      np.ones(size, np.uint8),
    )
    for size in ((20, 30), (16, 40))
  )
  result = evaluate.Result({}, np.zeros((6, 6)), np.zeros((2, 6)), 2, samples)
  pictures = train._draw_samples(result, info)
  assert pictures.shape == (2, 16, 3 * 30 + 8, 3)
  # Their last columns are the prediction's.
  assert (pictures[:, :, -30:] == np.array(info.palette[1])).all()


def test_nan_names_its_step_and_keeps_the_last_checkpoint(
  smoke_run, tmp_path, monkeypatch
):
  def spoil(step, batch):
    if step == 3:
      batch['image'][0, 0, 0, 0] = np.nan
    return batch

  workdir = str(tmp_path / 'run')
  _patch_batches(monkeypatch, spoil)
  with pytest.raises(FloatingPointError, match=r'step 3 are not finite'):
    train.train(smoke_run.config, workdir)
  assert _variables(workdir)[1] == 2


def test_a_work_directory_belongs_to_one_config(smoke_run, data_dir):
  other = runs.config(data_dir, optimizer__learning_rate=0.5, seed=3)
  with pytest.raises(
    ValueError, match=r'learning_rate: was 0\.003, is now 0\.5'
  ):
    train.train(other, smoke_run.workdir)
  free = runs.config(data_dir, log_every_steps=1, data__threads=1)
  workdir_lib.write_or_check_config(
    smoke_run.workdir, free
  )  # fields that do not change the result
  workdir_lib.write_or_check_config(smoke_run.workdir, smoke_run.config)


def test_wrong_sizes_are_refused(data_dir, tmp_path):
  config = runs.config(data_dir, batch_size=4000)
  with pytest.raises(ValueError, match=r'batch_size=4000 is more than the 600'):
    train.train(config, str(tmp_path / 'run'))
  config = runs.config(data_dir, accumulate_steps=4)
  with pytest.raises(ValueError, match=r'leaves BatchNorm a single image'):
    train.build_train_step(helpers.network(config, 6), 10, None)


@pytest.mark.full
def test_frozen_norms_keep_their_statistics(data_dir):
  config = runs.config(data_dir, model__frozen_norms=True, batch_size=1)
  step, _ = train.build_train_step(helpers.network(config, 6), 10, None)
  state = train_step.init_state(
    step.model, step.optimizer, channels=3, seed=0, ema=False
  )
  rng = np.random.default_rng(0)
  batch = {
    'image': 3 + rng.standard_normal((1, 33, 33, 3), np.float32),
    'label': rng.integers(0, 6, (1, 33, 33)).astype(np.uint8),
    'index': np.zeros(1, np.uint32),
  }
  after, _ = jax.jit(step)(state, batch)
  same = lambda old, new: jax.tree.leaves(
    jax.tree.map(lambda x, y: bool((x == y).all()), old, new)
  )
  assert len(same(state.batch_stats, after.batch_stats)) > 10
  assert all(same(state.batch_stats, after.batch_stats))
  assert not any(same(state.params['encoder'], after.params['encoder']))


@pytest.mark.full
def test_the_evaluated_loss_is_that_of_the_recipe(tmp_path, data_dir):
  run = runs.smoke(
    str(tmp_path / 'run'),
    data_dir,
    total_steps=2,
    loss__terms=('sigmoid_cross_entropy',),
    eval__loss=True,
  )
  loss = run.metrics['loss']
  # All logits are about equal: near log 2 for sigmoids; softmax has log 6.
  assert 0.3 < loss < 1.2
  again = evaluate.evaluate_workdir(run.workdir, which='latest')
  assert again['checkpoint'].metrics['loss'] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_the_step_lowers_for_accelerators(platform, monkeypatch, data_dir):
  monkeypatch.setattr(parallel, 'platform', lambda: 'gpu')
  config = runs.config(data_dir)
  assert config.model.depthwise == 'conv'
  config = runs.config(
    data_dir, model__depthwise='shifted', model__pointwise='matmul'
  )
  step, _ = train.build_train_step(helpers.network(config, 6), 10, None)
  state, batch = describe.abstract_step_inputs(
    helpers.network(config, 6), (65, 65)
  )
  text = (
    jax.jit(step)
    .trace(state, batch)
    .lower(lowering_platforms=(platform,))
    .as_text()
  )
  groups = {int(n) for n in re.findall(r'feature_group_count = (\d+)', text)}
  assert max(groups) >= 8  # real depthwise convolutions


def test_one_batch_overfits(data_dir):
  """The network of the quick start, on four whole images."""
  config = shapes_mnv2.get_config().unlock()
  config.data.data_dir = data_dir
  config.batch_size = 4
  config.schedule.warmup_steps = 0
  config.model.depthwise = config.model.pointwise = 'conv'
  dataset = datasets.Dataset(config.data)
  info = dataset.info
  batches = dataset.train_batches(
    seed=config.seed, batch_size=config.batch_size
  )
  batch = next(batches)
  batches.close()
  step, _ = train.build_train_step(networks.Network(config, dataset), 150, None)
  state = train_step.init_state(
    step.model, step.optimizer, channels=3, seed=0, ema=False
  )
  update = jax.jit(step, donate_argnums=0)
  device_batch = jax.tree.map(jnp.asarray, batch)
  for _ in range(150):
    state, _ = update(state, device_batch)
  logits = jax.jit(step.model.apply)(
    state.variables, device_batch['image']
  ).logits
  confusion = metrics.ConfusionMatrix(info.num_classes)
  confusion.add(batch['label'], predictors.argmax(np.asarray(logits)))
  scores = metrics.compute_scores(confusion.matrix, info.class_names)
  assert scores['miou'] > 0.95


# Fields that training on `shapes` does not read.
_EXPORT = {'eval.static_size'}
_NAMES = {'name'}


def _unchosen(config):
  """Returns the paths of sections that the config does not select."""
  paths = set()
  for section, chosen in (
    ('optimizer', {config.optimizer.name}),
    ('schedule', {config.schedule.name}),
    ('data.augment', set(config.data.augment.ops)),
    ('loss', {*config.loss.terms, *config.loss.auxiliary_terms}),
  ):
    node = config
    for part in section.split('.'):
      node = node[part]
    for path in runs.leaves(node, f'{section}.'):
      alternative = path[len(section) + 1 :].split('.')
      if len(alternative) > 1 and alternative[0] not in chosen:
        paths.add(path)
  return paths


@pytest.mark.parametrize(('module', 'variant'), configs_test.CASES)
def test_every_field_is_read(module, variant, smoke_run):
  config = configs_test.get(module, variant)
  seen = set()
  spied = runs.Spy(config, seen)
  catalog.info_for(spied.data)
  # A smoke variant keeps the fields of the data set that it replaces.
  catalog.info_for(runs.Spy(configs_test.get(module, '').data, seen, 'data.'))
  registry.build_model(spied.model, 3)  # refuses fields that no class has
  conditional = {
    # Read only if another field has a certain value.
    *{'eval.window', 'eval.stride', 'total_steps', 'epochs', 'data.root'},
    *{'init_skip', 'data.depth'},
    *{'data.pool', 'data.pool_share', 'data.pool_seed'},
    *{'data.images', 'data.labels'},
  }
  # `tests/quantization/training_test.py` checks these with a run in int8.
  conditional |= runs.leaves(config.quantization, 'quantization.')
  conditional.remove('quantization.name')
  read = seen | smoke_run.read | _EXPORT | _NAMES | conditional
  chosen = {
    f'optimizer.{config.optimizer.name}',
    f'schedule.{config.schedule.name}',
    *(f'data.augment.{op}' for op in config.data.augment.ops),
    *(f'loss.{term}' for term in config.loss.terms),
    *(f'loss.{term}' for term in config.loss.auxiliary_terms),
  }
  unread = {
    path
    for path in runs.leaves(config) - read - _unchosen(config)
    if not any(path.startswith(f'{c}.') for c in chosen)
  }
  assert not unread


def _command(workdir, data_dir, *more):
  return [
    *(sys.executable, '-m', 'deeplab.main'),
    '--config=configs/shapes_mnv2.py:smoke',
    f'--workdir={workdir}',
    f'--config.data.data_dir={data_dir}',
    *more,
  ]


@pytest.mark.full
def test_ten_random_kills_change_nothing(tmp_path, data_dir):
  more = ('--config.total_steps=400', '--config.checkpoint.every_steps=7')
  whole, killed = str(tmp_path / 'whole'), str(tmp_path / 'killed')
  runs_whole = subprocess.run(
    _command(whole, data_dir, *more), cwd=ROOT, check=True
  )
  assert runs_whole.returncode == 0
  rng = random.Random(0)
  kills = 0
  while True:
    process = subprocess.Popen(_command(killed, data_dir, *more), cwd=ROOT)
    if kills == 10:
      assert process.wait() == 0
      break
    # Some kills hit start-up, some a save, some an evaluation.
    started = time.monotonic()
    limit = rng.uniform(6, 25)
    while time.monotonic() - started < limit and process.poll() is None:
      time.sleep(0.1)
    if process.poll() is None:
      process.send_signal(signal.SIGKILL)
      kills += 1
    else:
      assert process.returncode == 0
      break
    process.wait()
  print(f'{kills} kills')
  assert kills == 10
  expected, step = _variables(whole)
  assert step == 400
  _assert_bitwise_equal(expected, _variables(killed)[0])


@pytest.mark.parametrize(
  'limit', [8192, pytest.param(10, marks=pytest.mark.full)]
)
def test_a_run_on_a_full_disk_loses_nothing(
  limit, smoke_run, tmp_path, monkeypatch
):
  workdir = str(tmp_path / 'run')
  with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

    def fill(step, batch):
      if step == 4:
        stack.enter_context(helpers.full_disk(limit))
      return batch

    _patch_batches(patch, fill)
    # The save of step 2, still in the background, may fail too.
    with pytest.raises(OSError, match='free some space and run the same'):
      train.train(smoke_run.config, workdir)
  train.train(smoke_run.config, workdir)
  _assert_bitwise_equal(
    _variables(smoke_run.workdir)[0], _variables(workdir)[0]
  )


def test_a_full_disk_is_one_error(smoke_run, tmp_path):
  state = train_step.init_state(
    registry.build_model(smoke_run.config.model, 6),
    train.build_train_step(helpers.network(smoke_run.config, 6), 10, None)[
      0
    ].optimizer,
    channels=3,
    seed=0,
    ema=False,
  )
  saved = checkpoints.Checkpoints(
    str(tmp_path / 'checkpoints'), keep_latest=2, keep_best=1
  )
  saved.save(state, 1, 0.5)
  saved.wait()
  with (
    helpers.full_disk(4096),
    pytest.raises(OSError, match=r'newest complete one is step 1; free'),
  ):
    saved.save(state.replace(step=jnp.int32(2)), 2, 0.6)
    saved.wait()
  variables, step = _variables(str(tmp_path))
  assert step == 1
  _assert_bitwise_equal(variables, jax.tree.map(np.asarray, state.variables))
