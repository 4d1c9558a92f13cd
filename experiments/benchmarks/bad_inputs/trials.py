"""Opens damaged inputs in worker processes and judges what happens.

A worker is a process that lives for many trials and is replaced when it dies.
Before each trial it makes the input from (seed, kind, number) alone. While the
input is open an audit hook refuses and records programs that are started, code
that is run and files that are written outside of the output folder.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import dataclasses
import fnmatch
import hashlib
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from typing import Any

import h5py
import numpy as np

from deeplab import cli
from deeplab.pretrained.readers import isolated
from experiments.benchmarks.bad_inputs import mutations

# In the order of the table. An input of 'same' and 'other' was accepted: what
# was read equals what a genuine sample gives, or differs from it.
ACCEPTED = ('same', 'other', 'sentence')
FAILURES = (
  *('traceback', 'hang', 'memory', 'crash', 'wrote outside'),
  *('read outside', 'executed'),
)
OUTCOMES = (*ACCEPTED, *FAILURES)

_MIB = 2**20
# Importing the readers and opening the genuine samples once.
_START_SECONDS = 600.0
# A worker that grew by so much over its trials is replaced.
_LEAK_BYTES = 2 << 30

_EXECUTING_EVENTS = (
  *('os.exec', 'os.fork', 'os.forkpty', 'os.posix_spawn', 'os.spawn'),
  *('os.system', 'pickle.find_class', 'pty.spawn', 'socket.connect'),
  *('socket.getaddrinfo', 'subprocess.Popen', 'urllib.Request'),
)
_WRITING_EVENTS = (
  *('os.chmod', 'os.link', 'os.mkdir', 'os.remove', 'os.rename', 'os.rmdir'),
  *('os.symlink', 'os.truncate', 'os.utime'),
)
# Modules of Python that define classes by code that they compose.
_GENERATORS = ('/dataclasses.py', '/collections/__init__.py')
_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


# Content of files in the working directory of a worker, which no input may
# read. Files that point at them are among the hostile samples.
SECRET = b'SECRET of another folder'


@dataclasses.dataclass(frozen=True)
class Kind:
  """One kind of input.

  Attributes:
    writers: each writes a genuine sample into an empty folder.
    damaged: pattern of the names of the files that get damaged.
    open: opens a folder as the product does; returns what it read.
    hostile: each writes a sample that must not be opened.
  """

  writers: tuple[Callable[[pathlib.Path], None], ...]
  damaged: str
  open: Callable[[pathlib.Path], Any]
  hostile: tuple[Callable[[pathlib.Path], None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Limits:
  """Bounds of one trial.

  Attributes:
    seconds: wall time to open an input.
    memory_bytes: resident memory that opening an input may add.
  """

  seconds: float = 10.0
  memory_bytes: int = 1024 * _MIB


@dataclasses.dataclass(frozen=True)
class Trial:
  """One input: the same three values give the same bytes.

  Attributes:
    kind: name of the kind.
    number: number of the trial within its kind.
    seed: seed of the campaign.
  """

  kind: str
  number: int
  seed: int = 0

  def __str__(self) -> str:
    return f'{self.kind}:{self.number}'


@dataclasses.dataclass(frozen=True)
class Result:
  """Outcome of opening one input.

  Attributes:
    outcome: one of `OUTCOMES`.
    line: last line of the exception, or a description.
    place: innermost line of the project that raised it; '' if there is none.
    details: the traceback.
    seconds: wall time.
    memory_bytes: resident memory that was added at the peak.
  """

  outcome: str
  line: str = ''
  place: str = ''
  details: str = ''
  seconds: float = 0.0
  memory_bytes: int = 0


def digest(value: Any) -> str:
  """Hashes what a reader returned: nested containers and arrays [any shape].

  Raises:
    AssertionError: it holds the content of the secret file.
  """
  hashed = hashlib.sha256()

  def add(x: Any) -> None:
    if isinstance(x, Mapping):
      x = [[key, x[key]] for key in sorted(x, key=repr)]
    if isinstance(x, list | tuple):
      hashed.update(f'list {len(x)} '.encode())
      for item in x:
        add(item)
      return
    kind, data = type(x).__name__, x
    if isinstance(x, np.ndarray | np.generic):
      kind, data = f'{x.dtype} {x.shape}', np.asarray(x).tobytes()
    elif not isinstance(x, bytes):
      data = repr(x).encode('utf-8', 'surrogatepass')
    if SECRET in data:
      raise AssertionError('it gave away a file of another folder')
    hashed.update(f'{kind} {len(data)} '.encode() + data)

  add(value)
  return hashed.hexdigest()


def read_folder(folder: pathlib.Path) -> dict[str, bytes]:
  """Returns the content of all files of a folder by their relative paths."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def write_folder(folder: pathlib.Path, files: Mapping[str, bytes]) -> None:
  """Writes files by their relative paths into an empty folder."""
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True)
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def write_secrets(path: pathlib.Path) -> None:
  """Writes the files that hostile samples point at."""
  (path / 'secret.txt').write_bytes(SECRET)
  with h5py.File(path / 'secret.h5', 'w') as f:
    f['x'] = np.frombuffer(SECRET, np.uint8)


def make_samples(
  kind: Kind, folder: pathlib.Path
) -> tuple[list[dict[str, bytes]], list[dict[str, bytes]]]:
  """Writes the genuine and the hostile samples of a kind and reads them back.

  Args:
    kind: the kind.
    folder: an absolute path, which is emptied and left empty.
  """
  made = []
  for writers in (kind.writers, kind.hostile):
    samples = []
    for write in writers:
      write_folder(folder, {})
      write(folder)
      samples.append(read_folder(folder))
    made.append(samples)
  write_folder(folder, {})
  return made[0], made[1]


def make_input(
  trial: Trial,
  kind: Kind,
  genuine: list[dict[str, bytes]],
  hostile: list[dict[str, bytes]],
) -> dict[str, bytes]:
  """Returns the files of a trial by their relative paths.

  Args:
    trial: the trial.
    kind: its kind.
    genuine: its genuine samples.
    hostile: its hostile samples; the first trials open them as they are.
  """
  if trial.number < len(hostile):
    return hostile[trial.number]
  rng = random.Random(f'{trial.seed}/{trial.kind}/{trial.number}')
  samples = genuine * 3 + hostile
  files = dict(rng.choice(samples))
  name = rng.choice(fnmatch.filter(sorted(files), kind.damaged))
  others = [
    content
    for sample in samples
    for other, content in sorted(sample.items())
    if fnmatch.fnmatch(other, kind.damaged) and content != files[name]
  ]
  files[name] = mutations.mutate(rng, name, files[name], others)
  return files


class _Watch:
  """An audit hook that records and refuses what an input must not cause.

  Attributes:
    found: (outcome, description) of each event since `active` was set.
  """

  def __init__(self, output: pathlib.Path):
    self._output = f'{output}{os.sep}'
    self.active = False
    self.found: list[tuple[str, str]] = []

  def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
    if not self.active:
      return
    # The reader of HDF5 files runs in a process of its own, with limits.
    if event == 'subprocess.Popen' and isolated.PROGRAM in arguments[1]:
      return
    outcome = ''
    if event in _EXECUTING_EVENTS:
      outcome = 'executed'
    elif event == 'exec':
      # Modules that a reader imports late have a file.
      file = getattr(arguments[0], 'co_filename', '')
      caller = sys._getframe(1).f_code.co_filename
      if file == '<string>' and not caller.endswith(_GENERATORS):
        outcome = 'executed'
    elif event == 'open':
      path, _, flags = arguments
      if isinstance(path, str | bytes) and flags & _WRITING_FLAGS:
        outcome = self._judge_path(path)
    elif event in ('os.remove', 'os.rmdir'):
      outcome = self._judge_path(*arguments)
    elif event in _WRITING_EVENTS:
      outcome = next(filter(None, map(self._judge_path, arguments[:2])), '')
    if outcome:
      self.found.append((outcome, f'{event} {arguments!r}'[:300]))
      raise PermissionError(f'an input caused {event}')

  def _judge_path(self, path: Any, dir_fd: int = -1) -> str:
    if not isinstance(path, str | bytes | os.PathLike) or path == os.devnull:
      return ''
    parent = '.' if dir_fd < 0 else os.readlink(f'/proc/self/fd/{dir_fd}')
    full = os.path.abspath(os.path.join(parent, os.fsdecode(path)))
    # A temporary file without a name is opened by the folder's.
    inside = f'{full}{os.sep}'.startswith(self._output)
    return '' if inside else 'wrote outside'


def _read_status(field: str) -> int:
  """Returns a field of /proc/self/status in bytes."""
  with open('/proc/self/status', encoding='ascii') as f:
    for line in f:
      if line.startswith(f'{field}:'):
        return int(line.split()[1]) * 1024
  raise OSError(f'/proc/self/status has no {field}')


@contextlib.contextmanager
def _limit_address_space(extra: int):
  """Limits the virtual memory that this process may add.

  Args:
    extra: bytes; more raise MemoryError or end the process.
  """
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  limit = _read_status('VmSize') + extra
  resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def judge_error(error: BaseException, names: Iterable[str]) -> str:
  """Returns the outcome of an exception that a reader raised.

  Args:
    error: the exception.
    names: paths of the input's files and folder, one of whose names a sentence
      must have; the folder's as the whole path.
  """
  if isinstance(error, MemoryError):
    return 'memory'
  text = str(error)
  named = any(
    (name if os.path.isabs(name) else os.path.basename(name)) in text
    for name in names
  )
  if isinstance(error, cli.USER_ERRORS) and named:
    return 'sentence'
  return 'traceback'


def _place(error: BaseException) -> str:
  """Returns the innermost line of the project in a traceback, 'file:line'."""
  root = str(pathlib.Path(cli.__file__).parent.parent)
  place = ''
  for frame, line in traceback.walk_tb(error.__traceback__):
    file = frame.f_code.co_filename
    if file.startswith(root) and 'bad_inputs' not in file:
      place = f'{file.removeprefix(root).lstrip(os.sep)}:{line}'
  return place


class _Opener:
  """Opens inputs in this process; a worker has one."""

  def __init__(self, kinds: Mapping[str, Kind], limits: Limits):
    self._kinds, self._limits = kinds, limits
    self._folder = pathlib.Path.cwd()
    self._input = self._folder / 'input'
    self._samples: dict[str, Any] = {}
    self._digests: dict[str, set[str]] = {}
    self._watch = _Watch(self._folder / 'output')
    sys.addaudithook(self._watch)

  def prepare(self, trial: Trial) -> dict[str, bytes]:
    """Writes the input of a trial; the first of a kind opens its samples."""
    kind = self._kinds[trial.kind]
    if trial.kind not in self._samples:
      self._samples[trial.kind] = make_samples(kind, self._input)
      self._digests[trial.kind] = set()
      for files in self._samples[trial.kind][0]:
        write_folder(self._input, files)
        self._digests[trial.kind].add(digest(kind.open(self._input)))
    files = make_input(trial, kind, *self._samples[trial.kind])
    write_folder(self._input, files)
    write_folder(self._folder / 'output', {})
    return files

  def open(self, trial: Trial, files: Mapping[str, bytes]) -> Result:
    """Opens the input that `prepare` wrote, and judges what happens."""
    before = _read_status('VmRSS')
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as f:
      f.write('5')  # resets the peak, VmHWM
    outcome, line, place, details = '', '', '', ''
    self._watch.found.clear()
    start = time.perf_counter()
    with _limit_address_space(4 * self._limits.memory_bytes):
      try:
        self._watch.active = True
        value = self._kinds[trial.kind].open(self._input)
        self._watch.active = False
        found = digest(value)
        outcome = 'same' if found in self._digests[trial.kind] else 'other'
        del value
      except BaseException as error:  # a panic of native code is one
        self._watch.active = False
        outcome = judge_error(error, [*files, str(self._input)])
        if isinstance(error, AssertionError) and not _place(error):
          outcome = 'read outside'
        line = traceback.format_exception_only(error)[-1].strip()
        place, details = (
          _place(error),
          ''.join(traceback.format_exception(error)),
        )
    seconds = time.perf_counter() - start
    memory = max(0, _read_status('VmHWM') - before)
    if memory > self._limits.memory_bytes and outcome in ACCEPTED:
      outcome, line = 'memory', f'{memory / _MIB:.0f} MiB, then {line}'
    strays = self._remove_strays()
    if strays or read_folder(self._input) != files:
      self._watch.found.append(('wrote outside', f'{strays or "the input"}'))
    for found_outcome, text in self._watch.found:
      outcome, line = found_outcome, text
      if outcome == 'executed':
        break
    return Result(outcome, line, place, details, seconds, memory)

  def _remove_strays(self) -> list[str]:
    """Removes files that do not belong into the folder; returns their names."""
    known = {'input', 'output', 'secret.h5', 'secret.txt', 'stderr.txt'}
    strays = [x for x in self._folder.iterdir() if x.name not in known]
    for path in strays:
      shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sorted(path.name for path in strays)


def _work(
  connection: Any,
  kinds: Mapping[str, Kind],
  limits: Limits,
  folder: str,
) -> None:
  """Runs a worker: answers each trial with None when it starts, then a Result.

  Native code writes what it thinks of an input to stderr, which goes to a file.
  """
  os.chdir(folder)
  descriptor = os.open('stderr.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(descriptor, 1)
  os.dup2(descriptor, 2)
  try:
    _answer_trials(connection, kinds, limits, pathlib.Path(folder))
  except EOFError:
    pass
  except BaseException:
    traceback.print_exc()
    sys.stderr.flush()
  os._exit(1)  # threads of native code do not always end


def _answer_trials(
  connection: Any,
  kinds: Mapping[str, Kind],
  limits: Limits,
  folder: pathlib.Path,
) -> None:
  """Opens the inputs that the connection asks for until it is closed."""
  write_secrets(folder)
  (folder / 'output').mkdir()
  os.environ['TMPDIR'] = tempfile.tempdir = str(folder / 'output')
  cli.set_up()
  opener = _Opener(kinds, limits)
  first = 0
  while True:
    trial = connection.recv()
    files = opener.prepare(trial)
    os.ftruncate(2, 0)
    os.lseek(2, 0, os.SEEK_SET)
    connection.send(None)
    result = opener.open(trial, files)
    first = first or _read_status('VmRSS')
    leaks = _read_status('VmRSS') - first > _LEAK_BYTES
    connection.send((result, leaks))


class Worker:
  """A process that opens inputs, replaced when it dies.

  Attributes:
    folder: its folder; `input` in it holds the last input.
  """

  def __init__(
    self,
    kinds: Mapping[str, Kind],
    limits: Limits,
    folder: pathlib.Path,
  ):
    self._kinds, self._limits = kinds, limits
    self.folder = folder
    self._process: Any = None
    self._connection: Any = None

  def run(self, trial: Trial) -> Result:
    """Opens the input of a trial.

    An input that takes too long is opened once more: other programs may have
    kept this machine busy.

    Raises:
      RuntimeError: the worker cannot open the genuine samples.
    """
    result = self._run_once(trial)
    if result.outcome == 'hang':
      result = self._run_once(trial)
    return result

  def _run_once(self, trial: Trial) -> Result:
    if self._process is None:
      self._start()
    try:
      self._connection.send(trial)
      if not self._connection.poll(_START_SECONDS):
        raise EOFError
      self._connection.recv()
    except (EOFError, OSError):
      stderr = self._read_stderr()
      self.close()
      raise RuntimeError(
        f'{trial}: the worker failed before it opened the input:\n{stderr}'
      ) from None
    limit = self._limits.seconds
    try:
      if not self._connection.poll(limit):
        self.close()
        return Result('hang', f'no end after {limit:g} s', seconds=limit)
      result, leaks = self._connection.recv()
    except (EOFError, OSError):
      self._process.join()
      code, stderr = self._process.exitcode, self._read_stderr()
      self.close()
      last = stderr.strip().splitlines()[-1:] or ['']
      return Result('crash', f'exit code {code}: {last[0]}', details=stderr)
    if leaks:
      self.close()
    return result

  def _start(self) -> None:
    shutil.rmtree(self.folder, ignore_errors=True)
    self.folder.mkdir(parents=True)
    context = multiprocessing.get_context('spawn')
    self._connection, other = context.Pipe()
    process = context.Process(
      target=_work,
      args=(other, self._kinds, self._limits, str(self.folder)),
      daemon=True,
    )
    process.start()
    self._process = process
    other.close()

  def _read_stderr(self) -> str:
    path = self.folder / 'stderr.txt'
    return path.read_text(errors='replace')[-4000:] if path.exists() else ''

  def close(self) -> None:
    """Ends the process; the next trial starts another one."""
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._connection.close()
      self._process = None
