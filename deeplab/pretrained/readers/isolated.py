"""Reads a weight file by a native library in a process of its own.

On damaged files HDF5 may loop for ever or take gigabytes, which cannot be
caught; the end of another process can. It gets a limit of processor time and of
memory, and sends the tensors as plain numbers.
"""

from collections.abc import Callable
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from typing import IO
from typing import Any

import ml_dtypes  # noqa: F401, makes NumPy know bfloat16 by its name
import numpy as np

_ERRORS = {'value': ValueError, 'os': OSError, 'fault': RuntimeError}

# Processor time of a small file, and bytes that are read in a second more.
_CPU_SECONDS = 5
_BYTES_PER_CPU_SECOND = 20 << 20
# Address space beyond that of the library, for a small file and for each byte.
_MEMORY_BYTES = 1 << 30
_MEMORY_PER_BYTE = 24

# The only program that a reader starts.
PROGRAM = (
  'import sys; from deeplab.pretrained.readers import isolated; '
  'isolated.serve(*sys.argv[1:])'
)


def read(
  reader: Callable[[str], Any],
  library: str,
  path: str,
  cpu_seconds: int = _CPU_SECONDS,
) -> dict[str, np.ndarray]:
  """Calls a reader in another process and returns its tensors.

  Args:
    reader: a function of a module, from a path to tensors by name.
    library: the module that may end the process; imported before the limits.
    path: the file.
    cpu_seconds: processor time to read a small file; large ones get more.

  Raises:
    ValueError: of the reader, or the library ended the process.
    OSError: of the reader.
  """
  paths = [os.path.abspath(folder) for folder in sys.path]
  names = (reader.__module__, reader.__name__, library, os.path.abspath(path))
  with subprocess.Popen(
    [sys.executable, '-P', '-c', PROGRAM, *names, str(cpu_seconds)],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
  ) as process:
    assert process.stdout is not None
    tensors = _receive(process.stdout)
    status = process.wait()
  if tensors is not None:
    return tensors
  if status >= 0:
    raise RuntimeError(f'the reader of {path} ended with status {status}')
  if status == -signal.SIGXCPU:
    end = 'did not end'
  else:
    end = f'ended by {signal.Signals(-status).name}'
  raise ValueError(
    f'{path} is damaged: {library} {end} when it read the file; download it '
    'again'
  )


def _receive(stream: IO[bytes]) -> dict[str, np.ndarray] | None:
  """Returns the tensors that `_send` wrote; None if they are not whole."""
  start = stream.readline()
  if not start.endswith(b'\n'):
    return None
  header = json.loads(start)
  if 'error' in header:
    raise _ERRORS[header['kind']](header['error'])
  tensors = {}
  for name, dtype, shape in header['tensors']:
    tensors[name] = np.empty(shape, dtype)
    content = tensors[name].reshape(-1).view(np.uint8).data
    while content:
      count = stream.readinto(content)  # type: ignore[attr-defined]
      if not count:
        return None
      content = content[count:]
  return tensors


def _send(stream: IO[bytes], tensors: dict[str, np.ndarray]) -> None:
  """Writes a line of JSON with names, types and shapes; then the numbers."""
  arrays = {
    name: np.asarray(value).astype(value.dtype.newbyteorder('='), copy=False)
    for name, value in tensors.items()
  }
  header = [[name, x.dtype.name, x.shape] for name, x in arrays.items()]
  stream.write(json.dumps({'tensors': header}).encode() + b'\n')
  for value in arrays.values():
    flat = np.ascontiguousarray(value).reshape(-1)
    stream.write(flat.view(np.uint8).data)


def _send_error(stream: IO[bytes], kind: str, reason: str) -> None:
  """Writes a line of JSON with an error, a key of `_ERRORS`."""
  stream.write(json.dumps({'error': reason, 'kind': kind}).encode() + b'\n')


def _limit_process(path: str, cpu_seconds: int) -> None:
  """Limits the processor time and the memory of this process."""
  import resource  # not on Windows

  size = os.path.getsize(path)
  usage = resource.getrusage(resource.RUSAGE_SELF)
  seconds = usage.ru_utime + usage.ru_stime + cpu_seconds
  limit = int(seconds + size / _BYTES_PER_CPU_SECOND) + 1
  resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
  if sys.platform == 'linux':
    with open('/proc/self/statm', encoding='ascii') as f:
      used = int(f.read().split()[0]) * resource.getpagesize()
    limit = used + _MEMORY_BYTES + _MEMORY_PER_BYTE * size
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed != resource.RLIM_INFINITY:
      limit = min(limit, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(
  module: str, function: str, library: str, path: str, cpu_seconds: str
) -> None:
  """Runs a reader in this process and writes its tensors to stdout."""
  with os.fdopen(os.dup(1), 'wb') as stream:
    os.dup2(2, 1)  # what the library prints is no tensor
    try:
      reader = getattr(importlib.import_module(module), function)
      importlib.import_module(library)
      _limit_process(path, int(cpu_seconds))
      tensors = reader(path)
    except MemoryError:
      reason = f'{path} is damaged: it needs far more memory than its size'
      _send_error(stream, 'value', reason)
    except ValueError as e:
      _send_error(stream, 'value', str(e))
    except OSError as e:
      _send_error(stream, 'os', str(e))
    except Exception:  # a fault of the reader, not of the file
      _send_error(stream, 'fault', traceback.format_exc())
    else:
      _send(stream, tensors)
