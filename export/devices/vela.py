"""Compiles int8 files with Vela, Arm's compiler for Ethos-U NPUs.

Vela (`ethos-u-vela`) leaves every operator that the NPU cannot run to the host
processor and prints the reason. It needs no board.
"""

import csv
import glob
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any
from typing import NamedTuple

ACCELERATORS = (
  *('ethos-u55-32', 'ethos-u55-64', 'ethos-u55-128', 'ethos-u55-256'),
  *('ethos-u65-256', 'ethos-u65-512', 'ethos-u85-128', 'ethos-u85-256'),
  *('ethos-u85-512', 'ethos-u85-1024', 'ethos-u85-2048'),
)
_UNSUPPORTED_WARNING = re.compile(
  r"Warning \(supported operators\) operator: (\w+), ofm: '(.*)'\n"
  r'Reason: (.*)'
)


class UnsupportedOperator(NamedTuple):
  """An operator that the NPU does not run.

  Attributes:
    operator: TFLite name.
    tensor: name of its output tensor.
    reason: first line of Vela's reason.
  """

  operator: str
  tensor: str
  reason: str


class VelaSummary(NamedTuple):
  """Vela's summary of one file.

  Attributes:
    refused: operators that the NPU does not run, in execution order.
    sram_bytes: SRAM in the NPU's memory plan.
    flash_bytes: weights and commands in off-chip flash.
    macs: multiply-accumulates on the NPU.
    cycles: estimated cycles of the NPU alone.
    dram_bytes: DRAM in plans that use it, for weights and for activations that
      do not fit into the SRAM.
    seconds: estimated latency, memory accesses included.
    system: Vela's names of the clocks and memories that the estimates assume.
  """

  refused: tuple[UnsupportedOperator, ...]
  sram_bytes: int
  flash_bytes: int
  macs: int
  cycles: int
  dram_bytes: int
  seconds: float
  system: str


def summary_to_json(compiled: VelaSummary) -> dict[str, Any]:
  """Converts a summary to a dict of JSON values."""
  refused = [refusal._asdict() for refusal in compiled.refused]
  return {**compiled._asdict(), 'refused': refused}


def parse_unsupported(text: str) -> tuple[UnsupportedOperator, ...]:
  """Parses the unsupported operators in what Vela prints."""
  return tuple(
    UnsupportedOperator(*match.groups())
    for match in _UNSUPPORTED_WARNING.finditer(text)
  )


def compile_file(
  path: str, accelerator: str = 'ethos-u55-128', sram_bytes: int | None = None
) -> VelaSummary:
  """Compiles a .tflite file for an NPU and returns Vela's summary.

  The compiled file itself is discarded.

  Args:
    path: an int8 file.
    accelerator: one of `ACCELERATORS`, with Vela's default clocks and memories.
    sram_bytes: SRAM that Vela plans with; None for its default. Vela fills it
      where that is faster, and exceeds it if the network needs more.

  Raises:
    ValueError: the accelerator is unknown, or Vela cannot compile the file.
  """
  if accelerator not in ACCELERATORS:
    raise ValueError(
      f'accelerator={accelerator!r} is not one of {", ".join(ACCELERATORS)}'
    )
  with tempfile.TemporaryDirectory() as folder:
    printed = _run_vela(path, accelerator, sram_bytes, folder)
    summary, *_ = _find_summaries(folder)
    with open(summary, newline='', encoding='utf-8') as f:
      (row,) = csv.DictReader(f)
  return VelaSummary(
    refused=parse_unsupported(printed),
    sram_bytes=round(1024 * float(row['sram_memory_used'])),
    flash_bytes=round(1024 * float(row['off_chip_flash_memory_used'])),
    macs=int(row['nn_macs']),
    cycles=int(row['cycles_npu']),
    dram_bytes=round(1024 * float(row['dram_memory_used'])),
    seconds=float(row['inference_time']),
    system=f'{row["system_config"]}, {row["memory_mode"]}',
  )


def _find_summaries(folder: str) -> list[str]:
  """Returns the paths of the tables that Vela wrote."""
  return glob.glob(os.path.join(glob.escape(folder), '*_summary_*.csv'))


def _run_vela(
  path: str, accelerator: str, sram_bytes: int | None, folder: str
) -> str:
  """Runs Vela's command and returns what it prints.

  Raises:
    ValueError: Vela fails, with its last line or the signal that ended it.
  """
  cache = [] if sram_bytes is None else ['--arena-cache-size', f'{sram_bytes}']
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'ethosu.vela', os.path.abspath(path)),
      *('--accelerator-config', accelerator, '--output-dir', folder),
      *cache,
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  if done.returncode or not _find_summaries(folder):
    lines = done.stdout.strip().splitlines() or ['it prints no reason']
    reason = lines[-1]
    if done.returncode < 0:
      reason = f'it was ended by {signal.Signals(-done.returncode).name}'
    raise ValueError(f'Vela cannot compile {path} for {accelerator}: {reason}')
  return done.stdout
