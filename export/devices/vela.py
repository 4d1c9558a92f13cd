"""What Arm's compiler for Ethos-U NPUs makes of an int8 file.

Vela (`ethos-u-vela`) places every operator that the NPU cannot run on the
processor beside it, and says why. It needs no board.
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
  """An operator that stays off the NPU.

  Attributes:
    operator: its TFLite name.
    tensor: the tensor that it writes.
    reason: Vela's, the first line.
  """

  operator: str
  tensor: str
  reason: str


class VelaSummary(NamedTuple):
  """Vela's summary of one file.

  Attributes:
    refused: what stays off the NPU, in the order of the graph.
    sram_bytes: SRAM that the NPU's memory plan takes.
    flash_bytes: weights and commands, off chip.
    macs: multiply-accumulates that the NPU does.
    cycles: Vela's estimate, of the NPU alone.
    dram_bytes: DRAM of plans that use it: what finds no place in the SRAM, and
      weights.
    seconds: Vela's estimate of the time, memories included.
    system: Vela's names of clocks and memories that the estimates hold for.
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
  """Returns the summary as JSON takes it."""
  refused = [refusal._asdict() for refusal in compiled.refused]
  return {**compiled._asdict(), 'refused': refused}


def parse_unsupported(text: str) -> tuple[UnsupportedOperator, ...]:
  """Returns the operators that Vela's messages call unsupported."""
  return tuple(
    UnsupportedOperator(*match.groups())
    for match in _UNSUPPORTED_WARNING.finditer(text)
  )


def compile_file(
  path: str, accelerator: str = 'ethos-u55-128', sram_bytes: int | None = None
) -> VelaSummary:
  """Compiles a .tflite file for an NPU, and keeps the summary alone.

  Args:
    path: an int8 file.
    accelerator: one of `ACCELERATORS`, with Vela's default memories.
    sram_bytes: SRAM that Vela may plan with, which it fills where that is
      faster; None for its default. It may still plan with more, if the network
      needs it.

  Raises:
    ValueError: the accelerator is unknown, or Vela cannot compile the file.
  """
  if accelerator not in ACCELERATORS:
    raise ValueError(
      f'accelerator={accelerator!r} is not one of {", ".join(ACCELERATORS)}'
    )
  size = [] if sram_bytes is None else ['--arena-cache-size', f'{sram_bytes}']
  with tempfile.TemporaryDirectory() as folder:
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'ethosu.vela', os.path.abspath(path)),
        *('--accelerator-config', accelerator, '--output-dir', folder),
        *size,
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      check=False,
    )
    summaries = glob.glob(os.path.join(folder, '*_summary_*.csv'))
    if done.returncode or not summaries:
      lines = done.stdout.strip().splitlines() or ['it said nothing']
      reason = lines[-1]
      if done.returncode < 0:
        reason = f'it was ended by {signal.Signals(-done.returncode).name}'
      raise ValueError(
        f'Vela cannot compile {path} for {accelerator}: {reason}'
      )
    with open(summaries[0], newline='', encoding='utf-8') as f:
      (row,) = csv.DictReader(f)
  return VelaSummary(
    refused=parse_unsupported(done.stdout),
    sram_bytes=round(1024 * float(row['sram_memory_used'])),
    flash_bytes=round(1024 * float(row['off_chip_flash_memory_used'])),
    macs=int(row['nn_macs']),
    cycles=int(row['cycles_npu']),
    dram_bytes=round(1024 * float(row['dram_memory_used'])),
    seconds=float(row['inference_time']),
    system=f'{row["system_config"]}, {row["memory_mode"]}',
  )
