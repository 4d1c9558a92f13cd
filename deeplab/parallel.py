"""Data parallelism over devices and processes: the only file that uses pmap.

A step is written for one device's share of the batch and knows only the name
of an axis (`AXIS`). This module maps it over the devices of all processes,
splits batches, gathers results, and turns host-local state into global arrays
for a checkpoint that several processes write together.
"""

from collections.abc import Callable
import importlib.util
import os
import sys
from typing import Any
import urllib.request

from absl import logging
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import utils as ocp_utils

PyTree = Any
AXIS = 'batch'

# A process that does not answer for so long counts as lost, and the others end.
HEARTBEAT_SECONDS = 30
# The process that used the devices first.
_user_pid: int | None = None
_METADATA = 'http://metadata.google.internal/computeMetadata/v1/instance/'


def _tpu_hosts() -> int:
  """Returns the number of hosts of this TPU pod; 1 outside a pod."""
  names = os.environ.get('TPU_WORKER_HOSTNAMES', '')
  if not names and importlib.util.find_spec('libtpu') is not None:
    request = urllib.request.Request(
      _METADATA + 'attributes/worker-network-endpoints',
      headers={'Metadata-Flavor': 'Google'},
    )
    try:
      with urllib.request.urlopen(request, timeout=2) as reply:
        names = reply.read().decode()
    except OSError:
      return 1  # not a machine of Google Cloud
  slices = int(os.environ.get('MEGASCALE_NUM_SLICES', 1))
  return len(names.split(',')) * slices


def start(
  coordinator: str = '', processes: int = 0, process: int | None = None
) -> None:
  """Joins the other processes of this run; every command calls it first.

  Without arguments, the environment of SLURM (a step of several tasks) or of a
  TPU pod is used; without these, the process runs alone. It uses all devices of
  its machine; where SLURM started several processes on one machine, each of
  them uses one GPU.

  Args:
    coordinator: 'HOST:PORT' of process 0.
    processes: number of processes.
    process: number of this process, from 0.

  Raises:
    ValueError: only some of the arguments are given.
  """
  given = (bool(coordinator), processes > 0, process is not None)
  if any(given) and not all(given):
    raise ValueError(
      '--coordinator, --processes and --process go together: HOST:PORT of '
      'process 0, the number of processes, and the number of this one'
    )
  tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1))
  if not all(given) and tasks == 1 and _tpu_hosts() == 1:
    return
  # Under SLURM, JAX takes a single GPU for each task unless it is told which:
  # an empty list restricts nothing.
  nodes = int(os.environ.get('SLURM_STEP_NUM_NODES', 1))
  jax.distributed.initialize(
    coordinator or None,
    processes or None,
    process,
    local_device_ids=[] if all(given) or 1 < tasks == nodes else None,
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )
  if jax.process_index():
    logging.set_verbosity(logging.WARNING)  # process 0 logs for all
  _connect_processes()


def _connect_processes() -> None:
  """Opens each kind of connection between processes that training uses.

  On CPUs the first collective over a group of devices connects them, and fails
  if one process is 30 seconds later than the others; later collectives wait.
  Without this, that could be the first training step, which one process may
  have in its compilation cache while another one still compiles it.
  """
  total = jax.pmap(lambda x: jax.lax.psum(x, AXIS), axis_name=AXIS)
  jax.block_until_ready(total(np.ones(jax.local_device_count())))
  of_first_host(np.ones(1))
  any_host(False)


def _lost_process_error(error: BaseException | None) -> str:
  """Returns JAX's message if a lost process caused the error, else ''."""
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):
      return str(error).splitlines()[0]
    error = error.__cause__ or error.__context__
  return ''


def end(error: BaseException) -> None:
  """Ends this process at once if it is one of several.

  A normal exit of the interpreter would wait for the other processes, which
  wait for this one in the middle of a step.

  Args:
    error: the error that ended the work; it is printed.
  """
  if not jax.distributed.is_initialized():
    return
  message = f'Error: {error}'
  if isinstance(error, SystemExit):
    message = str(error)  # already formatted
  if _lost_process_error(error):
    message = (
      'Error: another process of this run was lost, or the network to it '
      f'({_lost_process_error(error)}); start all of them again with the same '
      '--workdir to '
      'go on from the last checkpoint'
    )
  print(
    f'{message}\n(process {jax.process_index()} of {jax.process_count()})',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)


def refuse_fork() -> None:
  """Raises ValueError in a process forked from one that has used the devices.

  JAX and TensorStore compute in threads, and a forked process has none: it
  would wait for ever.
  """
  global _user_pid
  if _user_pid is None:
    _user_pid = os.getpid()
  if _user_pid != os.getpid():
    raise ValueError(
      f'process {os.getpid()} was forked from {_user_pid}, which has used a '
      'model before, and JAX does not survive that: start processes by '
      "multiprocessing.get_context('spawn'), or load the first model after "
      'the fork'
    )


def platform() -> str:
  """Returns 'cpu', 'gpu' or 'tpu'."""
  return jax.default_backend()


def device_count() -> int:
  """Returns the number of devices of all processes."""
  return jax.device_count()


def split(batch: PyTree) -> PyTree:
  """Splits this host's batch [b, ...] into [devices, b / devices, ...].

  Raises:
    ValueError: the batch does not divide over the devices.
  """
  n = jax.local_device_count()

  def cut(x):
    if x.shape[0] % n:
      raise ValueError(
        f'a batch of {x.shape[0]} images does not divide over {n} devices; '
        f'set batch_size to a multiple of {n * jax.process_count()}'
      )
    return x.reshape(n, x.shape[0] // n, *x.shape[1:])

  return jax.tree.map(cut, batch)


def map_train(step: Callable) -> Callable:
  """Maps `step(state, batch) -> (state, metrics)` over the devices.

  Args:
    step: the step of one device. It must reduce everything over `AXIS` that
      would differ between devices; `copies_differ` checks that.

  Returns:
    A function of the replicated state, whose buffers are donated, and of a
    batch from `split`, to the new replicated state and metrics with one equal
    value a device.
  """
  return jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, 0),
    donate_argnums=(0,),
  )


def compile_ahead(
  step: Callable, state: PyTree, batch: PyTree
) -> dict[str, float]:
  """Compiles a mapped step, and returns its cost on one device.

  Args:
    step: a function from `map_train`; later calls with arguments of the same
      shapes do not compile again.
    state: the replicated state.
    batch: a batch from `split`.

  Returns:
    'gflops' (a multiply-add counts as two), and in MiB 'arguments' (state and
    batch), 'reused' (donated arguments) and 'work' (temporary memory); without
    those that the back end does not report.
  """
  compiled = step.lower(state, batch).compile()  # type: ignore[attr-defined]
  spent = {}
  cost = compiled.cost_analysis()
  if cost and cost.get('flops', 0) > 0:
    spent['gflops'] = cost['flops'] / 1e9
  memory = compiled.memory_analysis()
  if memory is not None:
    spent |= {
      'arguments': memory.argument_size_in_bytes / 2**20,
      'reused': memory.alias_size_in_bytes / 2**20,
      'work': memory.temp_size_in_bytes / 2**20,
    }
  return spent


def first(metrics: dict[str, jax.Array]) -> dict[str, float]:
  """Returns the metrics of this process's first device."""
  return {
    name: float(np.ravel(value.addressable_data(0))[0])
    for name, value in metrics.items()
  }


def replicate(state: PyTree) -> PyTree:
  """Copies the state to every local device, as a mapped step returns it.

  A step that is given the state of one device would be compiled for that, and
  once more, at the second step, for its own result.
  """
  copy = jax.pmap(
    lambda state, devices: (jax.tree.map(jnp.copy, state), devices),
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, 0),
  )
  return copy(state, np.arange(jax.local_device_count()))[0]


class MappedPredict:
  """A function `predict(variables, images) -> array` over the local devices."""

  def __init__(self, predict: Callable):
    """Maps a function over the devices of this process.

    Args:
      predict: maps variables and images [b, ...] to an array [b, ...].
    """
    # Each host evaluates its own share: it maps over its own devices. An axis
    # without a name would get an address of this process, and no other process
    # would find the compiled function in the cache.
    self._mapped: Any = jax.pmap(
      predict,
      axis_name=AXIS,
      in_axes=(None, 0),
      devices=jax.local_devices(),
    )

  def lower(
    self, variables: PyTree, shape: tuple[int, ...], dtype: Any
  ) -> jax.stages.Lowered:
    """Traces the function for images of one shape.

    Args:
      variables: as they will be given to the function.
      shape: of the images, [b, ...].
      dtype: of the images.
    """
    n = jax.local_device_count()
    split_shape = (n, -(-shape[0] // n), *shape[1:])
    return self._mapped.lower(
      variables, jax.ShapeDtypeStruct(split_shape, dtype)
    )

  def __call__(self, variables: PyTree, images: np.ndarray) -> np.ndarray:
    """Computes images [b, ...] and returns a NumPy array [b, ...].

    A shape that `lower(...).compile()` has compiled is not compiled again. The
    batch need not divide over the devices: it is padded, and the padding is
    dropped.
    """
    refuse_fork()
    n, count = jax.local_device_count(), images.shape[0]
    pad = -count % n
    if pad:
      images = np.concatenate([images, np.repeat(images[-1:], pad, axis=0)])
    out = np.asarray(jax.device_get(self._mapped(variables, split(images))))
    return out.reshape(count + pad, *out.shape[2:])[:count]


def copies_differ(state: PyTree) -> list[str]:
  """Returns the paths of leaves whose device copies are not bitwise equal."""
  paths = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if not isinstance(leaf, jax.Array):
      continue
    copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    if any(c.tobytes() != copies[0].tobytes() for c in copies[1:]):
      paths.append(jax.tree_util.keystr(path))
  return paths


def any_host(flag: bool) -> bool:
  """Returns True if `flag` is True on any process; every process calls it."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def first_host_first(work: Callable[[], None]) -> None:
  """Runs `work` on process 0 and then on the others, which may reuse it."""
  if jax.process_index() == 0:
    work()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('first_host_first')
  if jax.process_index() > 0:
    work()


def text_of_first_host(text: str) -> str:
  """Returns the text of process 0, of up to 4096 bytes, on every process."""
  if jax.process_count() == 1:
    return text
  data = np.zeros(4096, np.uint8)
  own = np.frombuffer(text.encode(), np.uint8)
  data[: own.size] = own
  return bytes(of_first_host(data)).rstrip(b'\0').decode()


def of_first_host(tree: PyTree) -> PyTree:
  """Returns the arrays of process 0; every process calls it."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


def to_global(state: PyTree) -> PyTree:
  """Converts replicated state for a checkpoint that all processes write.

  A single process writes its arrays as they are. With several, each array must
  be one global array that every process holds a copy of.
  """
  if jax.process_count() == 1:
    return state
  return jax.tree.map(
    ocp_utils.fully_replicated_host_local_array_to_global_array, state
  )


def to_local(state: PyTree) -> PyTree:
  """Returns arrays of this process's first device; undoes `to_global`."""
  if jax.process_count() == 1:
    return state
  return jax.tree.map(lambda x: x.addressable_data(0), state)


def sum_over_hosts(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds int64 arrays over all processes, exactly; every process calls it."""
  if jax.process_count() == 1:
    return counts
  # JAX has no int64 by default: they are sent as pairs of uint32.
  halves = {k: np.atleast_1d(v).view(np.uint32) for k, v in counts.items()}
  gathered = multihost_utils.process_allgather(halves)
  return {
    k: np.ascontiguousarray(gathered[k])
    .view(np.int64)
    .sum(axis=0)
    .reshape(v.shape)
    for k, v in counts.items()
  }


def kernels() -> dict[str, Any]:
  """Returns arguments of `registry.build_model` that suit this platform.

  On a CPU the config chooses how depthwise and 1x1 convolutions are computed
  ({}); accelerators always use `lax.conv_general_dilated`.
  """
  if platform() == 'cpu':
    return {}
  return {'depthwise': 'conv', 'pointwise': 'conv'}
