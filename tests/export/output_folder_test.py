"""The folder of an export appears complete or not at all."""

import os
import pathlib
import subprocess
import sys

import pytest

from export import output_folder


def test_an_error_leaves_nothing(tmp_path):
  with (
    pytest.raises(KeyError),
    output_folder.write_atomically(str(tmp_path / 'new' / 'out')) as inside,
  ):
    open(os.path.join(inside, 'half'), 'w').close()
    raise KeyError
  assert os.listdir(tmp_path / 'new') == []


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
  output = tmp_path / 'out'
  for text in ('one', 'two'):
    with output_folder.write_atomically(str(output)) as inside:
      with open(os.path.join(inside, 'report.json'), 'w') as f:
        f.write(text)
      if text == 'two':
        assert (output / 'report.json').read_text() == 'one'
  assert (output / 'report.json').read_text() == 'two'
  assert os.listdir(tmp_path) == ['out']
  (output / '.deeplab.jsonl').unlink()
  (output / 'report.json').rename(output / 'thesis.tex')
  with (
    pytest.raises(ValueError, match='holds no earlier export'),
    output_folder.write_atomically(str(output)),
  ):
    pass
  assert os.listdir(output) == ['thesis.tex']


def export(output, files, **options):
  """Writes an export of these files: content by name."""
  with output_folder.write_atomically(str(output), **options) as inside:
    for name, content in {'report.json': '{}', **files}.items():
      path = pathlib.Path(inside, name)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(content)


def contents(folder):
  """Returns the content of all files by their name."""
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in folder.rglob('*')
    if path.is_file() and path.name not in ('.deeplab.jsonl', 'report.json')
  }


@pytest.mark.parametrize('has_links', [True, False])
def test_files_of_the_user_are_kept(tmp_path, monkeypatch, has_links):
  if not has_links:

    def fail(*_, **__):
      raise OSError

    monkeypatch.setattr(os, 'link', fail)
  output = tmp_path / 'out'
  export(output, {'int8.tflite': '1', 'c/main.c': 'ours', 'old.png': 'x'})
  (output / 'notes.txt').write_text('mine')
  (output / 'c' / 'build').mkdir()
  (output / 'c' / 'build' / 'a.o').write_text('mine')
  (output / 'link').symlink_to('c')
  export(output, {'int8.tflite': '2', 'c/main.c': 'new'})
  assert contents(output) == {
    'int8.tflite': '2',
    'c/main.c': 'new',
    'c/build/a.o': 'mine',
    'notes.txt': 'mine',
  }
  assert os.readlink(output / 'link') == 'c'
  assert os.listdir(tmp_path) == ['out']


def test_a_file_of_the_user_is_not_replaced(tmp_path):
  output = tmp_path / 'out'
  export(output, {'int8.tflite': '1', 'c/main.c': 'ours'})
  (output / 'labels.txt').write_text('mine')
  with pytest.raises(ValueError, match=r'labels\.txt exists, .*--overwrite'):
    export(output, {'int8.tflite': '2'}, planned=['labels.txt'])
  # What was not planned is noticed at the end.
  with pytest.raises(ValueError, match=r'labels\.txt exists'):
    export(output, {'labels.txt': '2'})
  (output / 'labels.txt').unlink()
  (output / 'c' / 'main.c').write_text('edited')
  with pytest.raises(ValueError, match=r'main\.c exists, .* was changed since'):
    export(output, {'int8.tflite': '2'})
  assert contents(output) == {'int8.tflite': '1', 'c/main.c': 'edited'}
  export(output, {'int8.tflite': '2'}, overwrite=True)
  assert contents(output) == {'int8.tflite': '2', 'c/main.c': 'edited'}
  export(output, {'c/main.c': 'new'}, overwrite=True)
  assert contents(output) == {'c/main.c': 'new'}
  assert os.listdir(tmp_path) == ['out']


def test_inputs_are_not_replaced(tmp_path):
  output = tmp_path / 'out'
  export(output, {})
  (output / 'run').mkdir()
  for path in (output, output / 'run'):
    with pytest.raises(ValueError, match=r'would replace .* the command reads'):
      export(output, {}, inputs=[str(path)], overwrite=True)


def test_a_link_to_a_folder_stays_one(tmp_path):
  (tmp_path / 'disk').mkdir()
  (tmp_path / 'out').symlink_to('disk')
  for text in ('1', '2'):
    export(tmp_path / 'out', {'a': text})
  assert os.readlink(tmp_path / 'out') == 'disk'
  assert contents(tmp_path / 'disk') == {'a': '2'}
  assert sorted(os.listdir(tmp_path)) == ['disk', 'out']


def test_a_complete_folder_has_the_name_at_any_time(tmp_path):
  """Another process lists it all the time, while it is replaced 300 times."""
  first, second = tmp_path / 'first', tmp_path / 'second'
  first.mkdir()
  second.mkdir()
  if not output_folder._exchange_at_once(str(first), str(second)):
    pytest.skip('the file system cannot exchange folders')
  watcher = subprocess.Popen(
    [
      *(sys.executable, '-c'),
      'import os, sys\n'
      'print("ready", flush=True)\n'
      'while not os.path.exists(sys.argv[2]):\n'
      '  os.stat(sys.argv[1])\n',
      *(str(first), str(tmp_path / 'done')),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert watcher.stdout.readline() == 'ready\n'
  for _ in range(300):
    output_folder.exchange(str(second), str(first))
  (tmp_path / 'done').touch()
  assert watcher.communicate()[1] == ''
  assert watcher.returncode == 0


def test_without_the_system_call_a_failure_puts_the_old_folder_back(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(output_folder, '_exchange_at_once', lambda *_: False)
  output = tmp_path / 'out'
  export(output, {'a': '1'})
  export(output, {'a': '2'})
  assert contents(output) == {'a': '2'}
  rename, calls = os.rename, []

  def fail(source, target):
    calls.append(target)
    if len(calls) == 2:
      raise OSError('no space left')
    rename(source, target)

  monkeypatch.setattr(os, 'rename', fail)
  with pytest.raises(OSError, match='no space left'):
    export(output, {'a': '3'})
  assert contents(output) == {'a': '2'}
  assert os.listdir(tmp_path) == ['out']


def test_bytes_of_files_and_folders(tmp_path):
  (tmp_path / 'a').write_bytes(b'123')
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'c').write_bytes(b'4567')
  assert output_folder.file_bytes(str(tmp_path / 'a')) == 3
  assert output_folder.file_bytes(str(tmp_path)) == 7
