"""Command lines: set-up, flags, config overrides and one-line errors.

Every command of the project runs in `run_command` and parses its flags with
`parse_flags`. An error that the user can mend ends the command with one line
and status 1; anything else keeps its traceback. Commands import this module,
and no part of the library does.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import difflib
import glob
import logging as py_logging
import os
import pathlib
import re
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab import system
from deeplab.files import config_schema
from deeplab.models import registry

# Errors that the user can mend, which `run_command` prints as one line.
USER_ERRORS = (ValueError, OSError, FloatingPointError)

# Fields of a section that others read, too: the op `pad` has that size.
_READ_BY_OTHERS = ('data.augment.random_crop.size',)
# Lowest level that is shown of libraries that log every step. Errors of Orbax's
# threads reach the training loop, which says them in one sentence; their logs
# are a traceback for each array.
_LIBRARY_LOG_LEVELS = {
  'asyncio': py_logging.CRITICAL,
  'httpx': py_logging.WARNING,
  'orbax': py_logging.CRITICAL,
  'tensorflow_datasets': py_logging.ERROR,
  'xla_bridge': py_logging.WARNING,
}


# Bytes of compiled functions that are kept; the least recently used ones are
# deleted first.
_CACHE_BYTES = 4 * 2**30


def _cache_compiled_functions(folder: str | os.PathLike) -> None:
  """Keeps compiled functions in a folder, up to `_CACHE_BYTES`.

  Small functions are kept, too: a command compiles dozens of them.

  Args:
    folder: is created when something is compiled.
  """
  # JAX writes the time of use of an entry after the entry. One without is of a
  # process that was killed: it may be cut off, and nothing could be deleted.
  for entry in pathlib.Path(folder).glob('*-cache'):
    used = entry.with_name(f'{entry.name.removesuffix("-cache")}-atime')
    if not used.exists():
      entry.unlink(missing_ok=True)
  jax.config.update('jax_compilation_cache_dir', os.fspath(folder))
  jax.config.update('jax_compilation_cache_max_size', _CACHE_BYTES)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def _filter_library_logs(record: py_logging.LogRecord) -> bool:
  """Returns True if a log record is to be shown."""
  return logging.level_debug() or all(
    record.levelno >= level or name not in record.pathname
    for name, level in _LIBRARY_LOG_LEVELS.items()
  )


def _show_ignored_error(ignored: Any) -> None:
  """Prints an error of native code, unless it says that an event loop ended.

  TensorStore raises one for each array whose write or read fails after that of
  another one, and goes on.

  Args:
    ignored: the argument of `sys.unraisablehook`.
  """
  error = ignored.exc_value
  if isinstance(error, RuntimeError) and str(error) == 'Event loop is closed':
    return
  sys.__unraisablehook__(ignored)


def set_up() -> None:
  """Prepares TensorFlow, JAX and the log for a command or a notebook.

  Accelerators are hidden from TensorFlow, which would reserve their memory.
  Compiled functions are cached in ~/.cache/deeplab, up to 4 GiB (or in
  JAX_COMPILATION_CACHE_DIR, as JAX is configured), so that no later process
  compiles them again.
  Library messages below `_LIBRARY_LOG_LEVELS` are dropped.
  """
  tf = sys.modules.get('tensorflow')  # many commands never import it
  if tf is not None:
    system.hide_accelerators(tf)
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    _cache_compiled_functions(
      os.path.join(os.path.expanduser('~'), '.cache', 'deeplab', 'compiled')
    )
  logging.use_absl_handler()  # absl.app does so; notebooks do not use it
  logging.get_absl_handler().addFilter(_filter_library_logs)
  if sys.unraisablehook is sys.__unraisablehook__:  # not that of a debugger
    sys.unraisablehook = _show_ignored_error


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; for `app.run(main, flags_parser=...)`.

  Args:
    argv: the command and its arguments.

  Returns:
    The command and its positional arguments.

  Raises:
    SystemExit: one line that names the unknown flag, bad value, or misspelled
      field or variant of a config.
  """
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    raise SystemExit(f'Error: {_explain_flag_error(error, argv[0])}') from None
  except (AttributeError, KeyError, TypeError, OSError) as error:
    reason = _explain_field_error(error)
    raise SystemExit(f'Error: a --config flag is wrong: {reason}') from None


def _explain_flag_error(error: flags.Error, command: str) -> str:
  """Returns one line for an error of absl's flags.

  Args:
    error: the error.
    command: path of the module whose flags are listed.
  """
  message = str(error).strip()
  if isinstance(error, flags.UnrecognizedFlagError):
    if error.flagname.startswith('config.'):
      return (
        f'--{error.flagname} changes a field of a config: give the config too, '
        '--config=configs/PAGE.py'
      )
    return (
      f'there is no flag --{error.flagname}; the flags of this command are '
      f'{_command_flags(command)} (--help says more)'
    )
  section = re.match(
    r'flag --(\S+)=(.*): Failed to parse .* as a Conf', message
  )
  if section:
    name, value = section.groups()
    return (
      f'--{name}={value}: {name} is a section of the config, not a field; use '
      f'--{name}.FIELD=...; configs/common.py lists the fields'
    )
  if 'parsing config file' not in message:
    return f'{message} (--help says more)'
  # ml_collections puts a traceback before the error that the config raises.
  reason = message.splitlines()[-1].partition(': ')[2]
  return f'a --config flag is wrong: {reason}'


def _explain_field_error(error: BaseException) -> str:
  """Returns one line for an error that ml_collections raises for a field.

  The error that suggests similar names is wrapped in others.
  """
  reason: Any = error
  while isinstance(reason, BaseException) and reason.args:
    reason = reason.args[0]
  reason = ': '.join(str(reason).split('\n'))
  if reason.strip('\'"').isidentifier():
    return f'there is no field {reason}; configs/common.py lists all fields'
  return reason


def _command_flags(module: str) -> str:
  """Lists the flags that a module defines, without fields of a config."""
  names = sorted(flag.name for flag in flags.FLAGS.get_flags_for_module(module))
  return ', '.join(f'--{name}' for name in names if '.' not in name)


def define_overwrite_flag(values: flags.FlagValues) -> None:
  """Defines --overwrite, which commands that write files share."""
  flags.DEFINE_bool(
    'overwrite',
    False,
    'Replace files that this command did not write, too; never its inputs.',
    flag_values=values,
  )


def _check_config_exists(path: str) -> None:
  """Raises ValueError for a config file that is absent; suggests others."""
  if os.path.exists(path):
    return
  folder = os.path.dirname(path)
  configs = glob.glob(os.path.join(glob.escape(folder or 'configs'), '*.py'))
  similar = difflib.get_close_matches(path, configs, 3)
  raise ValueError(
    f'--config={path}: there is no such file; '
    + (f'did you mean {", ".join(similar)}? ' if similar else '')
    + 'python -m deeplab.main --list shows all configs'
  )


def overridden_fields(
  flag: flags.FlagHolder, values: flags.FlagValues = flags.FLAGS
) -> frozenset[str]:
  """Returns the config fields that the command line sets, like 'data.root'."""
  if not values[flag.name].present:
    return frozenset()
  return frozenset(config_flags.get_override_values(values[flag.name]))


# Fields that name a data set, its files and its classes.
DATASET_FIELDS = (
  *('data.name', 'data.root', 'data.num_classes', 'data.ignore_label'),
  *('data.class_names', 'data.color_map', 'data.id_map'),
)


@dataclasses.dataclass(frozen=True)
class ReadFields:
  """The config fields that a command reads.

  Attributes:
    paths: fields and whole sections, such as 'seed' and 'data'.
    but: fields and sections in them that the command does not read.
  """

  paths: tuple[str, ...]
  but: tuple[str, ...] = ()

  def __contains__(self, path: str) -> bool:
    """Returns True for a field that the command reads."""

    def within(sections: tuple[str, ...]) -> bool:
      return any(f'{path}.'.startswith(f'{s}.') for s in sections)

    return within(self.paths) and not within(self.but)

  def __str__(self) -> str:
    but = f' (but {", ".join(self.but)})' if self.but else ''
    return (', '.join(self.paths) or 'none') + but


def check_overrides(
  overrides: Iterable[str], config: ConfigDict, reads: ReadFields | None
) -> None:
  """Refuses fields on the command line that would change nothing.

  Args:
    overrides: paths of the fields, such as 'loss.focal.gamma'.
    config: the config with them.
    reads: the fields that the command reads; None for all.

  Raises:
    ValueError: the command does not read a field, or the field belongs to a
      loss, an augmentation, an optimizer or a schedule that the config does not
      select.
  """
  fields = config.to_dict()
  selected = config_schema.selected_sections(config_schema.flatten(fields))
  for path in sorted(overrides):
    if reads is not None and path not in reads:
      raise ValueError(
        f'--config.{path} has no effect: this command reads {reads} of the '
        'config; leave the flag out'
      )
    section = config_schema.alternative_section(path)
    if section and section not in selected and path not in _READ_BY_OTHERS:
      raise ValueError(
        f'--config.{path} has no effect: '
        f'{" and ".join(config_schema.selectors(section))} of this config '
        f'select{"" if "loss" in section else "s"} no '
        f'{section.rpartition(".")[2]}; select it, or leave the flag out'
      )


def config_from_flag(
  flag: flags.FlagHolder,
  values: flags.FlagValues = flags.FLAGS,
  reads: ReadFields | None = None,
) -> ConfigDict | None:
  """Returns the config of a --config flag, or None if it is not given.

  An encoder or head that the command line replaces starts from its own
  defaults, and not from the fields of the one in the config file. Only fields
  that the command line sets as well are changed.

  Args:
    flag: of `config_flags.DEFINE_config_file`.
    values: the parsed flags.
    reads: the fields that the command reads; None for all.

  Raises:
    ValueError: the file does not exist, the encoder, the head or one of its
      fields is unknown, or the command line sets a field without effect.
  """
  if values[flag.name].present:
    name = config_flags.get_config_filename(values[flag.name])
    _check_config_exists(name.partition(':')[0])
  if flag.value is None:
    return None
  config = ConfigDict(flag.value)
  overrides = config_flags.get_override_values(values[flag.name])
  with config.unlocked():
    for slot in registry.SLOTS:
      prefix = f'model.{slot}.'
      if prefix + 'name' in overrides:
        fields = {
          path.removeprefix(prefix)
          for path in overrides
          if path.startswith(prefix)
        }
        section = config.model[slot]
        config.model[slot] = ConfigDict(
          {name: section[name] for name in fields}
        )
    registry.fill_defaults(config.model)
  if 'init_from' in overrides and reads is not None and 'weights' in values:
    raise ValueError(
      '--config.init_from names weights that a training starts from, and this '
      f'command trains nothing: pass --weights={config.init_from}'
    )
  check_overrides(overrides, config, reads)
  return config


def run_command(argv: Sequence[str], command: Callable[[], None]) -> None:
  """Runs a command; an error that the user can mend becomes one line.

  Args:
    argv: the command and its positional arguments; there may be none.
    command: does the work.

  Raises:
    UsageError: there are positional arguments.
    SystemExit: with the line; `--verbosity=1` logs the traceback, too.
  """
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
  set_up()
  try:
    command()
  except USER_ERRORS as error:
    logging.debug('traceback', exc_info=True)
    raise SystemExit(
      f'Error: {error}\n(--verbosity=1 shows where it was raised)'
    ) from None
