"""Several processes train and evaluate as one would, and end together."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from deeplab import workdir as workdir_lib
from deeplab.training import checkpoints
from deeplab.training import metric_writer

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Small steps: a network with random weights multiplies rounding errors, and two
# processes add up in another order than one.
SGD = (
  '--config.model.head.image_pooling=False',
  '--config.batch_size=16',
  '--config.optimizer.name=sgd',
  '--config.optimizer.learning_rate=2e-5',
  '--config.schedule.warmup_steps=0',
  '--config.total_steps=10',
  '--config.log_every_steps=1',
  '--config.checkpoint.every_steps=5',
  '--config.profile_steps=3:5',
)


# Our message, or JAX's own if it ends the process before Python can.
LOST = (
  'another process of this run was lost',
  'This most likely indicates that another task died',
)

# One process reaches every kind of collective too late for Gloo to connect.
LATE = """
import sys, time
import jax, numpy as np
from deeplab import parallel
parallel.start(sys.argv[1], 2, int(sys.argv[2]))
time.sleep(35 * jax.process_index())
total = parallel.map_train(
  lambda state, x: (state, jax.lax.psum(x, parallel.AXIS))
)
batch = parallel.split(np.full(2, 1.5, np.float32))
print(parallel.first({'sum': total(np.zeros(1, np.float32), batch)[1]})['sum'])
print(parallel.sum_over_hosts({'n': np.full(1, 2**40 + 1)})['n'])
print(parallel.text_of_first_host(f'of {jax.process_index()}'))
"""


def _start(devices, *arguments, command=('-m', 'deeplab.main')):
  flags = (
    f'--xla_force_host_platform_device_count={devices} '
    '--xla_backend_optimization_level=0'
  )
  return subprocess.Popen(
    [sys.executable, *command, *arguments],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': flags},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _address():
  """Returns the address of a coordinator on a free port."""
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return f'localhost:{s.getsockname()[1]}'


def _pair(*arguments):
  """Starts two processes of two devices each, as one run."""
  address = _address()
  return [
    _start(
      2,
      *arguments,
      f'--coordinator={address}',
      '--processes=2',
      f'--process={i}',
    )
    for i in range(2)
  ]


def _wait(*processes):
  """Returns the standard error of each; all must exit with 0."""
  log = [process.communicate(timeout=600)[1] for process in processes]
  for process, text in zip(processes, log, strict=True):
    assert process.returncode == 0, text
  return log


def _training(workdir, data_dir, *more):
  return (
    '--config=configs/shapes_mnv2.py:smoke',
    f'--workdir={workdir}',
    f'--config.data.data_dir={data_dir}',
    *more,
  )


@pytest.mark.full
def test_a_late_process_is_waited_for():
  address = _address()
  pair = [_start(1, address, str(i), command=('-c', LATE)) for i in range(2)]
  for process in pair:
    log, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    # Gloo prints to the standard output too.
    assert log.splitlines()[-3:] == ['3.0', '[2199023255554]', 'of 0']


@pytest.fixture(scope='module')
def both(tmp_path_factory, data_dir):
  """Returns (workdir of two processes, of one, logs of the two)."""
  folder = tmp_path_factory.mktemp('processes')
  two, one = folder / 'two', folder / 'one'
  log = _wait(*_pair(*_training(two, data_dir, *SGD)))
  _wait(_start(4, *_training(one, data_dir, *SGD)))
  return two, one, log


def _parameters(workdir):
  variables, step, _ = checkpoints.load_variables(
    workdir_lib.checkpoint_dir(str(workdir)), 'latest'
  )
  assert step == 10
  return variables


def _assert_same(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    found['params'],
    expected['params'],
  )
  worst = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), found['params'], expected['params']
  )
  print('largest difference of a parameter:', max(jax.tree.leaves(worst)))


@pytest.mark.full
def test_two_processes_train_as_one(both):
  two, one, _ = both
  _assert_same(_parameters(two), _parameters(one))
  lines, others = (
    metric_writer.read_metrics(str(workdir / 'metrics.jsonl'))
    for workdir in both[:2]
  )
  assert lines[0]['loss'] == pytest.approx(others[0]['loss'], rel=1e-6)
  assert lines[0]['grad_norm'] == pytest.approx(
    others[0]['grad_norm'], rel=1e-3
  )
  # Without the other's share, the ten steps would end further apart.
  assert sum(line.get('update_norm', 0) for line in lines) > 3e-4


@pytest.mark.full
@pytest.mark.parametrize('before', ['two', 'one'])
def test_another_number_of_processes_resumes(before, both, data_dir, tmp_path):
  """One process resumes a run of two, and two a run of one."""
  two, one, _ = both
  rest = tmp_path / 'rest'
  shutil.copytree({'two': two, 'one': one}[before], rest)
  shutil.rmtree(rest / 'checkpoints' / '10')
  training = _training(rest, data_dir, *SGD)
  after = [_start(4, *training)] if before == 'two' else _pair(*training)
  assert 'Resuming from step 5 of' in _wait(*after)[0]
  _assert_same(_parameters(rest), _parameters(one))


@pytest.mark.full
def test_two_processes_write_one_log_and_one_checkpoint(both):
  two, _, log = both
  lines = metric_writer.read_metrics(str(two / 'metrics.jsonl'))
  assert [x['step'] for x in lines if x['split'] == 'train'] == [*range(1, 11)]
  assert len(list(two.glob('events.*'))) == 1
  assert len(list(two.glob('plugins/profile/*/*.xplane.pb'))) == 1
  names = {path.name for path in (two / 'checkpoints').iterdir()}
  assert names == {'5', '10'}
  assert 'step 5/10' in log[0] and 'Done: mIoU' in log[0]
  assert 'step 5/10' not in log[1] and 'Done: mIoU' not in log[1]
  record = json.loads((two / 'run.json').read_text())
  assert (record['hosts'], record['devices']) == (2, 4)


@pytest.mark.full
def test_two_processes_count_the_same_confusion(both):
  two, _, _ = both
  evaluation = ('--mode=evaluate', f'--workdir={two}')
  path = two / 'eval' / 'checkpoint' / 'confusion.json'
  _wait(*_pair(*evaluation))
  counted = json.loads(path.read_text())
  path.unlink()
  _wait(_start(4, *evaluation))
  assert json.loads(path.read_text()) == counted
  assert np.sum(counted['confusion']) > 100 * 64 * 64


def _saved(workdir):
  """Returns the newest step that was saved; 0 if there is none."""
  names = [path.name for path in workdir.glob('checkpoints/*')]
  return max((int(name) for name in names if name.isdigit()), default=0)


def _wait_for_a_save(workdir, after, *processes):
  deadline = time.monotonic() + 400
  while _saved(workdir) <= after:
    assert time.monotonic() < deadline
    for process in processes:
      assert process.poll() is None, process.communicate()[1]
    time.sleep(0.2)


@pytest.mark.full
@pytest.mark.parametrize('lost', [1, 0])
def test_a_lost_process_ends_the_other_and_the_run_resumes(
  lost, tmp_path, data_dir
):
  """Process 0 is the coordinator."""
  workdir = tmp_path / 'run'
  training = _training(
    workdir,
    data_dir,
    '--config.total_steps=100000',
    '--config.log_every_steps=5',
    '--config.checkpoint.every_steps=5',
  )
  # SIGTERM to one makes both save and exit.
  pair = _pair(*training)
  _wait_for_a_save(workdir, 0, *pair)
  pair[1].send_signal(signal.SIGTERM)
  log = _wait(*pair)
  assert 'SIGTERM: saved step' in log[0]
  saved = _saved(workdir)

  pair = _pair(*training)
  _wait_for_a_save(workdir, saved, *pair)
  pair[lost].kill()
  began = time.monotonic()
  left = pair[1 - lost]
  log = left.communicate(timeout=120)[1]
  spent = time.monotonic() - began
  print(f'the other ended after {spent:.1f} s')
  assert spent < 60
  assert left.returncode != 0
  assert any(message in log for message in LOST), log
  told = {1 - lost: log, lost: pair[lost].communicate()[1]}
  assert f'Resuming from step {saved} of' in told[0]

  # One process resumes the run of two.
  saved = _saved(workdir)
  alone = _start(4, *training)
  _wait_for_a_save(workdir, saved, alone)
  alone.send_signal(signal.SIGTERM)
  (log,) = _wait(alone)
  assert f'Resuming from step {saved} of' in log
