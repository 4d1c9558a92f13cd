"""Devices and processes: the only file that says pmap.

A step is written for one device's share of the batch and knows only the name
of an axis (`AXIS`). Here it is spread over the devices of all processes,
batches are cut and results gathered, and host-local state becomes global arrays
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

# A process that does not answer for so long is lost, and the others end.
HEARTBEAT_SECONDS = 30
_METADATA = 'http://metadata.google.internal/computeMetadata/v1/instance/'


def _tpu_hosts() -> int:
  """Returns the number of hosts of the TPU pod that this one is of, or 1."""
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
      return 1  # no machine of Google's
  slices = int(os.environ.get('MEGASCALE_NUM_SLICES', 1))
  return len(names.split(',')) * slices


def start(
  coordinator: str = '', processes: int = 0, process: int | None = None
) -> None:
  """Joins the other processes of this run; every command calls it first.

  Without arguments SLURM's variables (a step of several tasks) and those of a
  TPU pod tell; where they do not, this process is alone. It takes all devices
  of its machine, or, where SLURM started several on one, a GPU each.

  Args:
    coordinator: 'HOST:PORT' of process 0.
    processes: how many there are.
    process: which one this is.

  Raises:
    ValueError: only some of the arguments are given.
  """
  given = (bool(coordinator), processes > 0, process is not None)
  if any(given) and not all(given):
    raise ValueError(
      '--coordinator, --processes and --process go together: HOST:PORT of '
      'process 0, how many there are, and which one this is'
    )
  tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS', 1))
  if not all(given) and tasks == 1 and _tpu_hosts() == 1:
    return
  # Under SLURM, JAX takes a single GPU for each task unless it is told which:
  # an empty list is no restriction.
  nodes = int(os.environ.get('SLURM_STEP_NUM_NODES', 1))
  jax.distributed.initialize(
    coordinator or None,
    processes or None,
    process,
    local_device_ids=[] if all(given) or 1 < tasks == nodes else None,
    heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
  )
  if jax.process_index():
    logging.set_verbosity(logging.WARNING)  # the first one tells
  _connect_processes()


def _connect_processes() -> None:
  """Connects the processes in each of the ways in which they will talk.

  On CPUs the first sum over a group of devices connects them, and fails where
  one comes 30 seconds after the others. Later sums wait; and by the first step
  one process may have loaded what another has yet to compile.
  """
  total = jax.pmap(lambda x: jax.lax.psum(x, AXIS), axis_name=AXIS)
  jax.block_until_ready(total(np.ones(jax.local_device_count())))
  of_first_host(np.ones(1))
  any_host(False)


def _lost_process_error(error: BaseException | None) -> str:
  """Returns what JAX said of a lost process, where that was the cause."""
  while error is not None:
    if isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):
      return str(error).splitlines()[0]
    error = error.__cause__ or error.__context__
  return ''


def end(error: BaseException) -> None:
  """Ends this process at once if others would wait for it.

  An interpreter that ends in peace waits for the other processes, which wait
  for this one in the middle of a step.

  Args:
    error: why the work ended; it is printed.
  """
  if not jax.distributed.is_initialized():
    return
  message = f'Error: {error}'
  if isinstance(error, SystemExit):
    message = str(error)  # it is said so already
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


def platform() -> str:
  """Returns 'cpu', 'gpu' or 'tpu'."""
  return jax.default_backend()


def device_count() -> int:
  """Returns the number of devices of all processes."""
  return jax.device_count()


def split(batch: PyTree) -> PyTree:
  """Cuts this host's batch [b, ...] into [devices, b / devices, ...].

  Raises:
    ValueError: the batch does not divide.
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
  """Spreads `step(state, batch) -> (state, metrics)` over the devices.

  The state goes in and comes out as one copy a device; its buffers are reused
  for the result. The step must reduce over `AXIS` whatever would differ
  between devices (`copies_differ` tells). The batch is that of `split`;
  metrics come back one a device, all equal.
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
  """Compiles the step of `map_train`, and returns what one device spends.

  Args:
    step: of `map_train`; calls with such arguments do not compile again.
    state: as the step takes it.
    batch: likewise.

  Returns:
    'gflops' (a multiply-add is two), and in MiB 'arguments' (state and batch),
    'reused' (those of them that the result takes the place of) and 'work';
    those that the back end tells.
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
  """Returns the numbers of this process's first device."""
  return {
    name: float(np.ravel(value.addressable_data(0))[0])
    for name, value in metrics.items()
  }


def replicate(state: PyTree) -> PyTree:
  """Returns the state as `map_train` returns it: one copy a local device.

  A step that is given the state of one device is compiled for that, and at
  the second step once more for its own result.
  """
  copy = jax.pmap(
    lambda state, devices: (jax.tree.map(jnp.copy, state), devices),
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, 0),
  )
  return copy(state, np.arange(jax.local_device_count()))[0]


def map_predict(predict: Callable) -> Callable:
  """Spreads `predict(variables, images) -> array` over the local devices.

  Returns:
    A function of (variables, images [b, ...] NumPy) to a NumPy array [b, ...];
    b need not divide over the devices, the rest is padding that is dropped.
  """
  # Hosts evaluate shares of their own: each maps over its own devices.
  mapped = jax.pmap(predict, in_axes=(None, 0), devices=jax.local_devices())

  def run(variables: PyTree, images: np.ndarray) -> np.ndarray:
    n, count = jax.local_device_count(), images.shape[0]
    pad = -count % n
    if pad:
      images = np.concatenate([images, np.repeat(images[-1:], pad, axis=0)])
    out = np.asarray(jax.device_get(mapped(variables, split(images))))
    return out.reshape(count + pad, *out.shape[2:])[:count]

  return run


def copies_differ(state: PyTree) -> list[str]:
  """Returns the paths of leaves whose device copies are not bitwise equal."""
  bad = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if not isinstance(leaf, jax.Array):
      continue
    copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    if any(c.tobytes() != copies[0].tobytes() for c in copies[1:]):
      bad.append(jax.tree_util.keystr(path))
  return bad


def any_host(flag: bool) -> bool:
  """Returns whether it is set on any process; every process calls it."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array(flag)).any())


def first_host_first(work: Callable[[], None]) -> None:
  """Does work on process 0 and then on the others, which may find it done."""
  if jax.process_index() == 0:
    work()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('first_host_first')
  if jax.process_index() > 0:
    work()


def text_of_first_host(text: str) -> str:
  """Returns the first process' text, of up to 4096 bytes."""
  if jax.process_count() == 1:
    return text
  data = np.zeros(4096, np.uint8)
  own = np.frombuffer(text.encode(), np.uint8)
  data[: own.size] = own
  return bytes(of_first_host(data)).rstrip(b'\0').decode()


def of_first_host(tree: PyTree) -> PyTree:
  """Returns the first process' arrays; every process calls it."""
  if jax.process_count() == 1:
    return tree
  return multihost_utils.broadcast_one_to_all(tree)


def to_global(state: PyTree) -> PyTree:
  """Makes mapped state ready for a checkpoint of all processes together.

  One process writes its arrays as they are; with several, each array must be
  one global array that every process holds a copy of.
  """
  if jax.process_count() == 1:
    return state
  return jax.tree.map(
    ocp_utils.fully_replicated_host_local_array_to_global_array, state
  )


def to_local(state: PyTree) -> PyTree:
  """Undoes `to_global`: arrays of this process's first device."""
  if jax.process_count() == 1:
    return state
  return jax.tree.map(lambda x: x.addressable_data(0), state)


def sum_over_hosts(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds int64 arrays of all processes, exactly; every process calls it."""
  if jax.process_count() == 1:
    return counts
  # JAX holds no int64 by default: the bits travel as pairs of uint32.
  words = {k: np.atleast_1d(v).view(np.uint32) for k, v in counts.items()}
  gathered = multihost_utils.process_allgather(words)
  return {
    k: np.ascontiguousarray(gathered[k])
    .view(np.int64)
    .sum(axis=0)
    .reshape(v.shape)
    for k, v in counts.items()
  }


def kernels() -> dict[str, Any]:
  """Returns `registry.build_model`'s overrides for the platform at hand.

  The CPU forms of depthwise and 1x1 convolutions are the config's to choose;
  everything else runs real convolutions.
  """
  if platform() == 'cpu':
    return {}
  return {'depthwise': 'conv', 'pointwise': 'conv'}
