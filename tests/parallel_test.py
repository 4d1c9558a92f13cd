import io
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplab import parallel

# A process uses a model and forks; its child tries to.
FORKED = """
import os, sys
import numpy as np
from deeplab import parallel, predict
predictor = parallel.MappedPredict(lambda scale, x: x * scale)
images = np.ones((1, 2), np.float32)
predictor(np.float32(3), images)
if os.fork():
  sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
for use in (
  lambda: predictor(np.float32(3), images),
  lambda: predict.load_segmenter('runs/a'),
):
  try:
    use()
  except ValueError as error:
    print(error, flush=True)
os._exit(7)
"""


def test_a_forked_process_is_told():
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', FORKED],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )
  assert done.returncode == 7, done.stderr
  lines = done.stdout.splitlines()
  assert len(lines) == 2
  for line in lines:
    assert re.fullmatch(
      r'process \d+ was forked from \d+, which has used a model before, and '
      r'JAX does not survive that: start processes by multiprocessing\.'
      r"get_context\('spawn'\), or load the first model after the fork",
      line,
    )


def test_tests_see_two_devices():
  assert jax.local_device_count() == 2


def test_split_keeps_order_and_refuses_a_remainder():
  parts = parallel.split({'x': np.arange(6)})
  np.testing.assert_array_equal(parts['x'], [[0, 1, 2], [3, 4, 5]])
  with pytest.raises(ValueError, match=r'a batch of 5 images .* 2 devices'):
    parallel.split(np.arange(5))


@pytest.mark.parametrize('count', [1, 2, 3, 4])
def test_mapped_predict_pads_and_drops(count):
  run = parallel.MappedPredict(lambda scale, x: x * scale)
  images = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
  np.testing.assert_array_equal(run(jnp.float32(3), images), 3 * images)


def test_copies_that_differ_are_named():
  step = parallel.map_train(
    lambda s, x: (
      {
        'same': s['same'] + jax.lax.psum(x.sum(), parallel.AXIS),
        'not': s['not'] + x.sum(),
      },
      x,
    )
  )
  zero = {'same': jnp.float32(0), 'not': jnp.float32(0)}
  state, _ = step(zero, np.array([[1.0], [2.0]], np.float32))
  assert parallel.copies_differ(state) == ["['not']"]


def test_one_process_needs_no_global_arrays():
  state = {'x': jnp.ones(3)}
  assert parallel.to_global(state) is state
  assert parallel.to_local(state) is state


def test_replicated_state_has_the_sharding_of_the_step():
  # Else the step would be compiled again for its own result.
  step = parallel.map_train(
    lambda s, x: (s + jax.lax.psum(x.sum(), parallel.AXIS), x)
  )
  state = parallel.replicate(jnp.float32(1))
  assert state == 1
  placement = state.sharding
  assert len(placement.device_set) == 2
  state, _ = step(state, np.ones((2, 1), np.float32))
  assert state.sharding == placement


def test_the_step_donates_the_state(caplog):
  step = parallel.map_train(
    lambda s, x: (s + jax.lax.psum(x.sum(), parallel.AXIS), x)
  )
  state = parallel.replicate(jnp.ones((256, 1024)))
  batch = np.ones((2, 1), np.float32)
  with jax.log_compiles():
    spent = parallel.compile_ahead(step, state, batch)
    assert 'Finished XLA compilation' in caplog.text
    caplog.clear()
    after, _ = step(state, batch)
    assert 'compilation' not in caplog.text  # it is not compiled again
  assert spent['reused'] == 1.0  # MiB
  assert 0.25e-3 < spent['gflops'] < 1e-3  # an addition a number
  assert state.is_deleted() and not after.is_deleted()


def test_metrics_are_those_of_the_first_device():
  step = parallel.map_train(lambda s, x: (s, {'x': x.sum()}))
  _, metrics = step(jnp.float32(0), np.array([[3.0], [3.0]], np.float32))
  assert parallel.first(metrics) == {'x': 3.0}


@pytest.fixture
def joined(monkeypatch):
  """Returns the arguments that `jax.distributed` would have been given."""
  calls = []
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda *a, **k: calls.append((a, k))
  )
  for name in (
    'SLURM_STEP_NUM_TASKS',
    'SLURM_STEP_NUM_NODES',
    'TPU_WORKER_HOSTNAMES',
    'MEGASCALE_NUM_SLICES',
  ):
    monkeypatch.delenv(name, raising=False)
  return calls


def test_a_single_process_joins_no_other(joined):
  parallel.start()
  assert joined == []
  with pytest.raises(ValueError, match='--processes and --process go together'):
    parallel.start('localhost:1234', 2)


@pytest.mark.parametrize(
  ('variables', 'local'),
  [
    ({'SLURM_STEP_NUM_TASKS': '2', 'SLURM_STEP_NUM_NODES': '2'}, []),
    ({'SLURM_STEP_NUM_TASKS': '2', 'SLURM_STEP_NUM_NODES': '1'}, None),
    ({'TPU_WORKER_HOSTNAMES': '10.0.0.1,10.0.0.2'}, None),
    ({'TPU_WORKER_HOSTNAMES': '10.0.0.1', 'MEGASCALE_NUM_SLICES': '2'}, None),
  ],
)
def test_slurm_and_pods_are_found(joined, variables, local, monkeypatch):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  parallel.start()
  more = {'local_device_ids': local, 'heartbeat_timeout_seconds': 30}
  assert joined == [((None, None, None), more)]


# Prints the GPUs that JAX lets each process use.
SEEN = """
import os, socket
os.environ |= {
  'SLURM_JOB_ID': '1', 'SLURM_STEP_NODELIST': 'localhost', 'SLURM_NTASKS': '1',
  'SLURM_PROCID': '0', 'SLURM_LOCALID': '0',
}
import jax
from deeplab import parallel
parallel._connect_processes = lambda: None
with socket.socket() as s:
  s.bind(('localhost', 0))
  port = s.getsockname()[1]
parallel.start(f'localhost:{port}', 1, 0)
print(jax.config.values['jax_cuda_visible_devices'])
"""


def test_a_slurm_task_uses_all_devices_of_its_node():
  done = subprocess.run(
    [sys.executable, '-c', SEEN],
    cwd=pathlib.Path(__file__).resolve().parent.parent,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == ['all']


def test_the_metadata_server_names_the_pod(joined, monkeypatch):
  asked = []

  def reply(request, timeout):
    asked.append(request.full_url)
    return io.BytesIO(b'a:8470:x,b:8470:y')

  monkeypatch.setattr(parallel.urllib.request, 'urlopen', reply)
  monkeypatch.setattr(parallel.importlib.util, 'find_spec', lambda _: object())
  parallel.start()
  assert len(joined) == 1
  assert asked[0].endswith('attributes/worker-network-endpoints')


def test_a_failed_process_ends_at_once(joined, monkeypatch, capsys):
  parallel.end(ValueError('x'))  # alone: nothing
  left = []
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(parallel.os, '_exit', left.append)
  try:
    raise TimeoutError('barrier') from jax.errors.JaxRuntimeError('gone\nx')
  except TimeoutError as error:
    parallel.end(error)
  parallel.end(SystemExit('Error: batch_size=3 is odd'))
  assert left == [1, 1]
  lost, mended = capsys.readouterr().err.strip().split('(process 0 of 1)')[:2]
  assert 'another process of this run was lost' in lost and 'barrier' in lost
  assert mended.strip() == 'Error: batch_size=3 is odd'


def test_a_compiled_function_is_the_same_in_every_process():
  """Text without addresses: the persistent cache finds it again."""
  texts = [
    parallel.MappedPredict(lambda scale, x: x * scale)
    .lower(np.float32(2), (3, 5), np.float32)
    .as_text()
    for _ in range(2)
  ]
  assert texts[0] == texts[1]
  assert '0x' not in texts[0]
  assert f'"{parallel.AXIS}"' in texts[0]


def test_a_shape_is_lowered_for_the_padded_batch():
  run = parallel.MappedPredict(lambda scale, x: x * scale)
  lowered = run.lower(np.float32(2), (3, 5), np.float32)
  assert [leaf.shape for leaf in jax.tree.leaves(lowered.in_avals)] == [
    (),
    (2, 2, 5),
  ]
