"""One process at a time trains in a work directory."""

import os
import re
import subprocess
import sys

import pytest

from deeplab.training import workdir_lock

# Takes the lock, says so, and waits.
HOLDER = """
import sys, time
from deeplab.training import workdir_lock
with workdir_lock.WorkdirLock(sys.argv[1]):
  print('locked', flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that holds the lock of the folder `tmp_path`."""
  process = subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'locked\n'
  yield process
  process.kill()
  process.communicate()


def test_a_second_process_is_refused_until_the_first_is_dead(holder, tmp_path):
  sentence = (
    rf'{re.escape(str(tmp_path))} is in use: process {holder.pid} on \S+, '
    r'since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, trains there; wait for it'
  )
  with pytest.raises(ValueError, match=sentence):
    workdir_lock.WorkdirLock(str(tmp_path)).acquire()
  holder.kill()
  holder.wait()
  with workdir_lock.WorkdirLock(str(tmp_path)):
    assert f'process {os.getpid()} on' in (tmp_path / '.lock').read_text()
  assert os.listdir(tmp_path) == []


def test_a_process_locks_once(tmp_path):
  workdir = str(tmp_path)
  with workdir_lock.WorkdirLock(workdir) as first:
    first.acquire()
    with pytest.raises(ValueError, match='is in use: process'):
      workdir_lock.WorkdirLock(workdir).acquire()
    # Further hosts of the same run write nothing.
    workdir_lock.WorkdirLock(workdir, needed=False).acquire()
  with workdir_lock.WorkdirLock(workdir):
    pass


def test_a_folder_is_made_when_it_is_written(tmp_path):
  workdir = tmp_path / 'a' / 'run'
  with workdir_lock.WorkdirLock(str(workdir)) as lock:
    assert not workdir.exists()
    lock.acquire()
    assert os.listdir(workdir) == ['.lock']
  assert os.listdir(workdir) == []


def test_a_file_system_without_locks_is_used_unlocked(
  tmp_path, monkeypatch, caplog
):
  def refuse(*_):
    raise OSError(95, 'Operation not supported')

  monkeypatch.setattr(workdir_lock.fcntl, 'flock', refuse)
  with workdir_lock.WorkdirLock(str(tmp_path)):
    assert 'do not train there twice' in caplog.text
