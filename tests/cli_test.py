import logging
import types

from absl import logging as absl_logging
import pytest

from deeplab import cli


@pytest.mark.parametrize(
  ('path', 'level', 'shown'),
  [
    ('x/orbax/checkpoint/manager.py', logging.WARNING, False),
    # The training loop says it in one sentence.
    ('x/orbax/checkpoint/manager.py', logging.ERROR, False),
    # JAX warns about a GPU that it cannot use.
    ('x/jax/_src/xla_bridge.py', logging.WARNING, True),
    ('x/jax/_src/xla_bridge.py', logging.INFO, False),
    ('x/deeplab/train.py', logging.INFO, True),
  ],
)
def test_library_logs_are_filtered_by_level(path, level, shown):
  record = logging.LogRecord('absl', level, path, 1, 'text', None, None)
  assert cli._filter_library_logs(record) == shown


def test_verbose_commands_show_library_logs(monkeypatch):
  path = 'x/orbax/checkpoint/manager.py'
  record = logging.LogRecord('absl', logging.INFO, path, 1, 'a', None, None)
  monkeypatch.setattr(absl_logging, 'level_debug', lambda: True)
  assert cli._filter_library_logs(record)


def test_ended_event_loops_are_not_errors(monkeypatch):
  shown = []
  monkeypatch.setattr('sys.__unraisablehook__', shown.append)
  ended, other = (
    types.SimpleNamespace(exc_value=RuntimeError(text))
    for text in ('Event loop is closed', 'other')
  )
  cli._show_ignored_error(ended)
  cli._show_ignored_error(other)
  assert shown == [other]


def test_compiled_functions_are_kept_in_a_bounded_folder(tmp_path, monkeypatch):
  settings = {}
  monkeypatch.setattr(cli.jax.config, 'update', settings.__setitem__)
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('HOME', str(tmp_path))
  folder = tmp_path / '.cache' / 'deeplab' / 'compiled'
  folder.mkdir(parents=True)
  # JAX could delete nothing while there is an entry without time of use.
  names = ('whole-cache', 'whole-atime', 'cut_off-cache')
  for name in names:
    (folder / name).write_bytes(b'12345678')
  cli.set_up()
  assert settings == {
    'jax_compilation_cache_dir': str(folder),
    'jax_compilation_cache_max_size': 4 * 2**30,
    'jax_persistent_cache_min_compile_time_secs': 0,
  }
  assert {path.name for path in folder.iterdir()} == set(names[:2])
