"""Device checks of an int8 file, as far as this machine can run them.

Activation memory at each operator, TFLite Micro's arena and its outputs
compared bit by bit with LiteRT's reference kernels, Arm's Vela compiler for
Ethos-U, and a lower bound of the latency on targets that publish their MACs per
cycle. The functions return numbers; `report.plots` draws them.
"""

from collections.abc import Sequence
import statistics
import time
from typing import Any

import numpy as np

from deeplab import system
from deeplab.data import image_format
from deeplab.inference import file_predictor
from deeplab.inference import interpreters
from export.devices import targets
from export.devices import tflm
from export.devices import vela
from export.graph import memory
from export.graph import tflite_graph

# Accelerators that every int8 file is compiled for, one of each generation.
ACCELERATORS = ('ethos-u55-128', 'ethos-u65-256', 'ethos-u85-256')
_TIMED_RUNS = 11
_WARMUP_RUNS = 2
_TFLM_IMAGES = 2  # TFLite Micro's portable kernels take seconds an image


def measure_latency_ms(content: bytes, runs: int = _TIMED_RUNS) -> float:
  """Measures LiteRT on this CPU with one thread per core.

  Args:
    content: bytes of a .tflite file.
    runs: number of timed runs, after two warm-up runs.

  Returns:
    The median latency, milliseconds.
  """
  runner = interpreters.open_litert(content)
  seconds = []
  for _ in range(runs + _WARMUP_RUNS):
    start = time.perf_counter()
    runner.invoke()
    seconds.append(time.perf_counter() - start)
  return 1e3 * statistics.median(seconds[_WARMUP_RUNS:])


def quantize_input(
  graph: tflite_graph.Graph,
  image: np.ndarray,
  normalization: tuple[Sequence[float], Sequence[float]] | None = None,
) -> np.ndarray:
  """Converts an image to the input tensor of a file.

  Args:
    graph: graph of the file.
    image: [H, W, C] pixel values, of the file's size.
    normalization: (mean, std), a value per channel each, for a file whose
      caller normalizes; None where normalization is in the graph.

  Returns:
    [1, H, W, C] in the input's dtype, quantized with its scale.
  """
  tensor = graph.tensors[graph.inputs[0]]
  x = np.asarray(image, np.float32)
  if normalization is not None:
    mean, std = (np.asarray(v, np.float32) for v in normalization)
    x = image_format.normalize_image(x, mean, std)
  qparams = tflite_graph.tensor_qparams(tensor) or {
    'scale': 0.0,
    'zero_point': 0,
  }
  return file_predictor.quantize_input(
    x[None],
    file_predictor.TensorDetail(
      np.dtype(tensor.dtype).type,
      (1, *x.shape),
      qparams['scale'],
      int(qparams['zero_point']),
    ),
  )


def check_tflm(content: bytes, inputs: Sequence[np.ndarray]) -> dict[str, Any]:
  """Runs a file on TFLite Micro and compares it with LiteRT.

  Args:
    content: bytes of an int8 .tflite file.
    inputs: [1, H, W, C] in the input's dtype; at least one.

  Returns:
    `arena` (`tflm.ArenaUsage` as a dict), `operators` (name -> `count`, `equal`
    and `largest` difference in LSB), `images`, `histogram` (LSB -> number of
    output values) and `first` (the first operator that differs, or None). If
    TFLite Micro is not installed or cannot run the file, `absent` says why and
    the keys that it could not fill are missing.
  """
  if not interpreters.has_tflm():
    return {'absent': 'the package tflite-micro is not installed'}
  try:
    arena = tflm.measure_arena(content)
  except ValueError as error:
    return {'absent': str(error)}
  with system.capture_stderr() as captured:
    try:
      return {
        'arena': arena._asdict(),
        **_compare_with_reference(content, inputs),
      }
    except RuntimeError:
      lines = captured().strip().splitlines() or ['it prints no reason']
  return {
    'arena': arena._asdict(),
    'absent': f'the file loads and does not run: {"; ".join(lines[:2])}',
  }


def _compare_with_reference(
  content: bytes, inputs: Sequence[np.ndarray]
) -> dict[str, Any]:
  """Compares TFLite Micro with LiteRT's reference kernels.

  Raises:
    RuntimeError: TFLite Micro cannot run an operator.
  """
  operators: dict[str, dict[str, Any]] = {}
  for difference in tflm.compare_operators(content, inputs[0]):
    row = operators.setdefault(
      difference.operator, {'count': 0, 'equal': 0, 'largest': 0.0}
    )
    row['count'] += 1
    row['equal'] += int(difference.largest == 0)
    row['largest'] = max(row['largest'], difference.largest)
  network = tflm.compare_network(content, inputs[:_TFLM_IMAGES])
  return {
    'operators': operators,
    'images': min(len(inputs), _TFLM_IMAGES),
    'histogram': network.histogram,
    'first': network.first and network.first._asdict(),
  }


def check_vela(
  path: str, target: str = '', ram_bytes: int | None = None
) -> dict[str, Any]:
  """Compiles a file with Vela for each accelerator of `ACCELERATORS`.

  Args:
    path: the .tflite file.
    target: a further accelerator, or one of `ACCELERATORS`; any other target is
      ignored.
    ram_bytes: SRAM that Vela plans the target with; None for Vela's default.

  Returns:
    Accelerator -> Vela's summary and `planned_bytes` (the given SRAM), or
    `error`.
  """
  summaries: dict[str, Any] = {}
  names = dict.fromkeys(ACCELERATORS)
  if target in vela.ACCELERATORS:
    names[target] = None
  for name in names:
    given = ram_bytes if name == target else None
    try:
      compiled = vela.summary_to_json(vela.compile_file(path, name, given))
      summaries[name] = {**compiled, 'planned_bytes': given}
    except ValueError as error:
      summaries[name] = {'error': str(error).replace(path, 'the file')}
  return summaries


def memory_timeline(graph: tflite_graph.Graph) -> dict[str, Any]:
  """Lists the activation memory at each operator, in execution order.

  Returns:
    `bytes` alive at each operator and, last, at the output; `operators`, their
    names; and `tensors`, the names of the tensors that they write.
  """
  return {
    'bytes': memory.live_bytes(memory.activation_lifetimes(graph)),
    'operators': [op.name for op in graph.operators],
    'tensors': [graph.tensors[op.outputs[0]].name for op in graph.operators],
  }


def estimate_latencies(macs: int) -> dict[str, float | None]:
  """Estimates the least milliseconds of a network, target by target.

  Targets with a compiler are left out: `check_vela` has its estimate.

  Args:
    macs: multiply-accumulates of the network.
  """
  return {
    name: target.estimate_ms(macs)
    for name, target in targets.TARGETS.items()
    if target.compiler is None
  }


def run_device_checks(
  path: str,
  images: Sequence[np.ndarray],
  normalization: tuple[Sequence[float], Sequence[float]] | None = None,
  target: str = '',
  ram_bytes: int | None = None,
) -> dict[str, Any]:
  """Runs all device checks on an int8 file.

  Args:
    path: the .tflite file.
    images: [H, W, C] pixel values, of the file's size; at least one.
    normalization: (mean, std) for a file whose caller normalizes; None where
      normalization is in the graph.
    target: device that the file was exported for, '' for none.
    ram_bytes: RAM of that device; None for its default.

  Returns:
    `memory` (`memory_timeline`), `micro` (`check_tflm`), `npu` (`check_vela`)
    and `estimates` (`estimate_latencies`).
  """
  with open(path, 'rb') as f:
    content = f.read()
  graph = tflite_graph.read_tflite(content)
  inputs = [quantize_input(graph, image, normalization) for image in images]
  return {
    'memory': memory_timeline(graph),
    'micro': check_tflm(content, inputs),
    'npu': check_vela(path, target, ram_bytes),
    'estimates': estimate_latencies(tflite_graph.count_macs(graph)),
  }
