"""No command writes over an input, or over a file that it did not make."""

import errno
import json
import os
import subprocess
import sys

import pytest

from deeplab import system
from deeplab.files import output_files
from tests.data import conftest as data_conftest


def write(folder, names=('a.txt',), content='ours', **options):
  files = output_files.OutputFiles(folder, **options)
  files.check(names)
  for name in names:
    files.write_text(name, content)


def test_own_files_are_replaced_and_no_others(tmp_path):
  write(tmp_path / 'out', ('a.txt', 'deep/b.txt'))
  write(tmp_path / 'out', ('a.txt', 'deep/b.txt'), 'again')
  assert (tmp_path / 'out/deep/b.txt').read_text() == 'again'
  (tmp_path / 'out/c.txt').write_text('mine')
  with pytest.raises(
    ValueError,
    match=r'c\.txt exists, and this command did not write it, .*--overwrite',
  ):
    write(tmp_path / 'out', ('a.txt', 'c.txt'), 'third')
  assert (tmp_path / 'out/a.txt').read_text() == 'again'
  assert (tmp_path / 'out/c.txt').read_text() == 'mine'
  write(tmp_path / 'out', ('c.txt',), 'third', overwrite=True)
  assert (tmp_path / 'out/c.txt').read_text() == 'third'
  assert sorted(os.listdir(tmp_path / 'out')) == [
    *('.deeplab.jsonl', 'a.txt', 'c.txt', 'deep'),
  ]


def test_a_file_that_was_edited_is_the_users(tmp_path):
  """Somebody corrects a mask by hand, and predicts again."""
  write(tmp_path, ('a.txt', 'b.txt'))
  (tmp_path / 'a.txt').write_text('corrected')
  (tmp_path / 'b.txt').write_text('corrected, too')
  with pytest.raises(ValueError, match=r'a\.txt \(and 1 more\) exists'):
    write(tmp_path, ('a.txt', 'b.txt'))


def test_inputs_are_never_replaced(tmp_path):
  (tmp_path / 'in').mkdir()
  source = tmp_path / 'in' / 'a.txt'
  source.write_text('input')
  os.link(source, tmp_path / 'hard.txt')
  (tmp_path / 'soft.txt').symlink_to(source)
  (tmp_path / 'linked').symlink_to(tmp_path / 'in')
  for name in ('in/a.txt', 'hard.txt', 'soft.txt', 'linked/a.txt'):
    with pytest.raises(ValueError, match='is an input of this command'):
      write(tmp_path, (name,), inputs=[source], overwrite=True)
  assert source.read_text() == 'input'


def test_links_and_folders_are_not_replaced(tmp_path):
  (tmp_path / 'dangling.txt').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match=r'dangling\.txt exists'):
    write(tmp_path, ('dangling.txt',))
  (tmp_path / 'folder.txt').mkdir()
  with pytest.raises(ValueError, match=r'folder\.txt is a folder, where'):
    write(tmp_path, ('folder.txt',), overwrite=True)
  (tmp_path / 'masks').write_text('mine')
  with pytest.raises(ValueError, match=r'masks is a file, where the command'):
    write(tmp_path, ('masks/a.txt',), overwrite=True)
  with pytest.raises(ValueError, match=r'--output=.*masks is a file: name a'):
    write(tmp_path / 'masks')


def test_a_damaged_manifest_makes_files_the_users(tmp_path):
  write(tmp_path, ('a.txt', 'b.txt'))
  manifest = tmp_path / output_files.MANIFEST
  lines = manifest.read_bytes().splitlines(keepends=True)
  manifest.write_bytes(
    b'[1]\n{"file": 3}\nnull\n{"file": "a.txt", "sha256": []}\n\xff\n'
    + lines[0]
    + lines[1][:-9]
  )
  write(tmp_path, ('a.txt',))
  with pytest.raises(ValueError, match=r'b\.txt exists'):
    write(tmp_path, ('b.txt',))


def test_a_failed_write_leaves_the_old_file(tmp_path):
  write(tmp_path)
  files = output_files.OutputFiles(tmp_path)
  with pytest.raises(KeyError), files.replace('a.txt') as path:
    with open(path, 'w') as f:
      f.write('half')
    raise KeyError
  assert (tmp_path / 'a.txt').read_text() == 'ours'
  assert sorted(os.listdir(tmp_path)) == ['.deeplab.jsonl', 'a.txt']


def test_a_full_disk_is_one_sentence_with_the_file(tmp_path):
  files = output_files.OutputFiles(tmp_path)
  with (
    pytest.raises(
      OSError, match=r'^could not write .*/a\.txt: No space left .*'
    ),
    files.replace('a.txt') as path,
    system.explain_write_errors(path),
  ):
    raise OSError(errno.ENOSPC, 'No space left on device')


def test_a_single_file_in_the_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  for _ in range(2):
    files, name = output_files.open_output_file('~/report.html')
    files.write_text(name, 'page')
  assert (tmp_path / 'report.html').read_text() == 'page'
  (tmp_path / 'thesis.html').write_text('mine')
  with pytest.raises(ValueError, match='--json'):
    output_files.open_output_file(tmp_path / 'thesis.html', flag='--json')


def test_half_a_line_of_the_manifest_hides_no_other(tmp_path):
  (tmp_path / output_files.MANIFEST).write_text('{"file": "a.txt", "sh')
  for content in ('one', 'two'):
    files = output_files.OutputFiles(tmp_path)
    files.write_text('a.txt', content)
  assert (tmp_path / 'a.txt').read_text() == 'two'
  lines = (tmp_path / output_files.MANIFEST).read_text().splitlines()
  assert [line[:16] for line in lines] == ['{"file": "a.txt"'] * 3


def test_folders_that_are_replaced_hold_no_input(tmp_path):
  for path in (tmp_path / 'x', tmp_path / 'x' / 'run', tmp_path / 'x' / '..x'):
    with pytest.raises(
      ValueError, match=r'would replace .*, which the command'
    ):
      output_files.check_not_inside(str(tmp_path / 'x'), [path], '--output')
  output_files.check_not_inside(
    str(tmp_path / 'x'), [tmp_path, tmp_path / 'xy'], '--output'
  )


# Commands that write to --output, and the file that they write first.
COMMANDS = {
  'deeplab.doctor': (
    ('--config=configs/folder_mnv2.py', '--output=OUT/report.html'),
    'report.html',
  ),
  'deeplab.pretrained.save': (
    ('--weights=nowhere', '--output=OUT'),
    'model.safetensors',
  ),
  'experiments.device_search': (
    (
      *('--config=configs/shapes_mnv2.py', '--target=stm32n6'),
      '--output=OUT',
    ),
    'budget.md',
  ),
  'experiments.zoo': (('--json=OUT/zoo.json',), 'zoo.json'),
  'export.main': (
    (
      *('--config=configs/shapes_mnv2.py', '--formats=float32'),
      '--output=OUT',
    ),
    'float32.tflite',
  ),
}


@pytest.mark.full
@pytest.mark.parametrize('module', COMMANDS)
def test_commands_keep_a_file_of_the_user(module, tmp_path):
  arguments, name = COMMANDS[module]
  (tmp_path / name).write_text('mine')
  if module == 'export.main':
    (tmp_path / 'report.json').write_text(json.dumps({}))
  if module == 'deeplab.doctor':
    for split in ('train', 'val'):
      data_conftest.write_pair(tmp_path / 'raw' / split, 'a', 0)
    root = tmp_path / 'raw'
    arguments = (*arguments, f'--config.data.root={root}')
  done = subprocess.run(
    [
      *(sys.executable, '-m', module),
      *(x.replace('OUT', str(tmp_path)) for x in arguments),
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert 'exists, and this command did not write it' in done.stderr
  assert 'Traceback' not in done.stderr
  assert (tmp_path / name).read_text() == 'mine'
