"""What every command does first, and how it says that it failed."""

from collections.abc import Callable
from collections.abc import Sequence
import difflib
import glob
import logging as py_logging
import os
import re
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab.models import registry

# Libraries that log every step they take, and the least level that shows.
_LIBRARY_LOG_LEVELS = {
  'httpx': py_logging.WARNING,
  'orbax': py_logging.ERROR,
  'tensorflow_datasets': py_logging.ERROR,
  'xla_bridge': py_logging.WARNING,
}


def _filter_library_logs(record: py_logging.LogRecord) -> bool:
  return all(
    record.levelno >= level or name not in record.pathname
    for name, level in _LIBRARY_LOG_LEVELS.items()
  )


def set_up() -> None:
  """Hides accelerators from TensorFlow, keeps compilations, calms the log.

  Compiled steps are kept in ~/.cache/deeplab (or where
  JAX_COMPILATION_CACHE_DIR says), so that a restarted run does not compile
  anew.
  """
  tf = sys.modules.get('tensorflow')  # several commands never import it
  if tf is not None:
    for kind in ('GPU', 'TPU'):
      tf.config.set_visible_devices([], kind)
    tf.get_logger().setLevel('ERROR')
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update(
      'jax_compilation_cache_dir',
      os.path.join(os.path.expanduser('~'), '.cache', 'deeplab', 'xla'),
    )
  logging.use_absl_handler()  # a notebook has not, as commands have
  logging.get_absl_handler().addFilter(_filter_library_logs)


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; for `app.run(main, flags_parser=...)`.

  Raises:
    SystemExit: an unknown flag or value, a misspelt config field or variant,
      in one sentence.
  """
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    text = str(error).strip()
    if isinstance(error, flags.UnrecognizedFlagError):
      if error.flagname.startswith('config.'):
        raise SystemExit(
          f'Error: --{error.flagname} changes a field of a config: give the '
          'page too, --config=configs/PAGE.py'
        ) from None
      raise SystemExit(
        f'Error: there is no flag --{error.flagname}; the flags of this '
        f'command are {_command_flags(argv[0])} (--help says more)'
      ) from None
    group = re.match(r'flag --(\S+)=(.*): Failed to parse .* as a Conf', text)
    if group:
      name, value = group.groups()
      raise SystemExit(
        f'Error: --{name}={value}: {name} is a group of fields; say '
        f'--{name}.FIELD=..., configs/common.py lists them'
      ) from None
    if 'parsing config file' not in text:
      raise SystemExit(f'Error: {text} (--help says more)') from None
    # ml_collections puts a traceback before the error of a config's page.
    sentence = text.splitlines()[-1].partition(': ')[2]
    raise SystemExit(f'Error: a --config flag is wrong: {sentence}') from None
  except (AttributeError, KeyError, TypeError, OSError) as error:
    # ml_collections wraps the error that says what may be meant.
    reason: Any = error
    while isinstance(reason, BaseException) and reason.args:
      reason = reason.args[0]
    reason = ': '.join(str(reason).split('\n'))
    if reason.strip('\'"').isidentifier():
      reason = f'there is no field {reason}; configs/common.py lists them all'
    raise SystemExit(f'Error: a --config flag is wrong: {reason}') from None


def _command_flags(module: str) -> str:
  """Returns the flags that a module defines, but for fields of a config."""
  names = sorted(flag.name for flag in flags.FLAGS.get_flags_for_module(module))
  return ', '.join(f'--{name}' for name in names if '.' not in name)


def _check_config_exists(path: str) -> None:
  """Refuses a page that is not there, with those that may be meant."""
  if os.path.exists(path):
    return
  folder = os.path.dirname(path)
  pages = glob.glob(os.path.join(folder or 'configs', '*.py'))
  meant = difflib.get_close_matches(path, pages, 3)
  raise ValueError(
    f'--config={path}: there is no such page; '
    + (f'did you mean {", ".join(meant)}? ' if meant else '')
    + 'python -m deeplab.main --list shows them all'
  )


def overridden_fields(
  flag: flags.FlagHolder, values: flags.FlagValues = flags.FLAGS
) -> frozenset[str]:
  """Returns the fields, 'data.root', that the command line gives itself."""
  if not values[flag.name].present:
    return frozenset()
  return frozenset(config_flags.get_override_values(values[flag.name]))


def config_from_flag(
  flag: flags.FlagHolder, values: flags.FlagValues = flags.FLAGS
) -> ConfigDict | None:
  """Returns the value of a --config flag, None where it was not given.

  An encoder or a head that the command line names in place of the page's starts
  from its own defaults, but for the fields that are given beside its name.

  Raises:
    ValueError: there is no such page, an unknown encoder or head, or a field
      that it has not.
  """
  if values[flag.name].present:
    name = config_flags.get_config_filename(values[flag.name])
    _check_config_exists(name.partition(':')[0])
  if flag.value is None:
    return None
  config = ConfigDict(flag.value)
  given = config_flags.get_override_values(values[flag.name])
  with config.unlocked():
    for slot in registry.SLOTS:
      prefix = f'model.{slot}.'
      if prefix + 'name' in given:
        own = {p.removeprefix(prefix) for p in given if p.startswith(prefix)}
        part = config.model[slot]
        config.model[slot] = ConfigDict({name: part[name] for name in own})
    registry.fill_defaults(config.model)
  return config


def run_command(argv: Sequence[str], command: Callable[[], None]) -> None:
  """Sets up and runs a command; an error that the user can mend is one line.

  Args:
    argv: what is left of the command line behind the flags.
    command: the work.

  Raises:
    UsageError: something is left of the command line.
    SystemExit: with that line; `--verbosity=1` shows the traceback too.
  """
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
  set_up()
  try:
    command()
  except (ValueError, OSError, FloatingPointError) as error:
    logging.debug('traceback', exc_info=True)
    raise SystemExit(
      f'Error: {error}\n(--verbosity=1 shows where it was raised)'
    ) from None
