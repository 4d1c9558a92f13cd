"""SIGTERM is heard while the main thread runs native code."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from deeplab.training import preemption

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


# An evaluation that compiles: its thread is busy for minutes.
EVALUATE = """
import hashlib
from deeplab.training import preemption
with preemption.PreemptionGuard('runs/a') as guard:
  guard.has_progress = True
  print('busy', flush=True)
  try:
    guard.run_interruptible(
      lambda: hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)
    )
  except preemption.Preempted:
    print('saves')
"""


def test_an_evaluation_that_compiles_is_left_alone():
  with subprocess.Popen(
    [sys.executable, '-c', EVALUATE], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == 'busy\n'
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert process.stdout.read() == 'saves\n'


def test_results_and_errors_of_an_evaluation_arrive():
  with preemption.PreemptionGuard('runs/a') as guard:
    assert guard.run_interruptible(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
      guard.run_interruptible(lambda: 1 // 0)


def test_an_evaluation_ends_with_its_batch():
  ended = []

  def evaluate():
    try:
      for _ in guard.interruptible(iter(range(10**9))):
        time.sleep(0.01)
    finally:
      ended.append(True)

  with preemption.PreemptionGuard('runs/a') as guard:
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGTERM])
    timer.start()
    with pytest.raises(preemption.Preempted):
      guard.has_progress = True
      guard.run_interruptible(evaluate)
  timer.join()
  assert ended == [True]
