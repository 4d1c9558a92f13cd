"""SIGTERM is heard while the main thread runs native code."""

import signal
import subprocess
import sys
import time

import pytest

# The key derivation takes minutes and, like a compiler, runs no signal handler.
BUSY = """
import hashlib, sys
from deeplab.training import preemption
with preemption.PreemptionGuard('runs/a') as guard:
  guard.has_progress = sys.argv[1] == 'progress'
  print('busy', flush=True)
  hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)
"""


@pytest.fixture
def busy(request):
  """A process whose main thread is busy for minutes under a guard."""
  process = subprocess.Popen(
    [sys.executable, '-c', BUSY, request.param],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'busy\n'
  yield process
  process.kill()
  process.communicate()


@pytest.mark.parametrize('busy', ['start'], indirect=True)
def test_without_a_step_it_ends_at_once(busy):
  busy.send_signal(signal.SIGTERM)
  assert busy.wait(30) == 143
  assert busy.stderr.read() == (
    'SIGTERM: nothing to save, no step was taken; the same command with '
    '--workdir=runs/a goes on\n'
  )


@pytest.mark.parametrize('busy', ['progress'], indirect=True)
def test_a_second_signal_ends_at_once(busy):
  # `timeout` sends two at a time.
  for _ in range(2):
    busy.send_signal(signal.SIGTERM)
  time.sleep(1.5)
  assert busy.poll() is None
  busy.send_signal(signal.SIGTERM)
  assert busy.wait(30) == 143
  assert busy.stderr.read() == (
    'SIGTERM: a second signal, the newest checkpoint stands; the same command '
    'with --workdir=runs/a goes on\n'
  )
