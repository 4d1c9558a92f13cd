"""What devices make of an int8 file, as far as this machine can tell.

Memory by our planner and by TFLite Micro, bits by TFLite Micro beside LiteRT's
reference kernels, Arm's compiler for Ethos-U, estimates for other targets, and
the time that LiteRT takes here.
"""

from collections.abc import Sequence
import os
import statistics
import time
from typing import Any

from absl import logging
import numpy as np

from deeplab import evaluate
from deeplab import system
from deeplab import visualize
from deeplab.data import dataset_info
from deeplab.data.augmentation import compose
from deeplab.inference import litert
from deeplab.inference import tflm
from export import source as source_lib
from export.devices import targets
from export.devices import tflm as micro
from export.devices import vela
from export.graph import memory
from export.graph import tflite_graph
from export.report import plots

ACCELERATORS = ('ethos-u55-128', 'ethos-u65-256', 'ethos-u85-256')
_TIMED_RUNS = 11
_TFLM_IMAGES = 2


def measure_latency_ms(content: bytes, runs: int = _TIMED_RUNS) -> float:
  """Returns the median time of LiteRT on this CPU, one thread a core.

  Args:
    content: of a .tflite file.
    runs: how many are timed, after two that are not.
  """
  runner = litert.open_interpreter(content)
  seconds = []
  for _ in range(runs + 2):
    start = time.perf_counter()
    runner.invoke()
    seconds.append(time.perf_counter() - start)
  return 1e3 * statistics.median(seconds[2:])


def quantize_input(
  graph: tflite_graph.Graph, image: np.ndarray, normalize: Any
) -> np.ndarray:
  """Returns an image as the file takes it.

  Args:
    graph: of the file.
    image: [H, W, C], values as they are, of its size.
    normalize: what the caller does to pixels; the identity where the file
      normalises.
  """
  tensor = graph.tensors[graph.inputs[0]]
  x = normalize(np.asarray(image, np.float32))[None]
  found = tflite_graph.tensor_qparams(tensor) or {'scale': 0.0, 'zero_point': 0}
  return litert.quantize_input(
    x,
    {
      'dtype': np.dtype(tensor.dtype).type,
      'quantization': (found['scale'], found['zero_point']),
    },
  )


def _check_tflm(content: bytes, inputs: Sequence[np.ndarray]) -> dict[str, Any]:
  """Returns what TFLM makes of a file; or `absent`, why a part of it is."""
  if not tflm.is_available():
    return {'absent': 'the package tflite-micro is not installed'}
  try:
    arena = micro.measure_arena(content)
  except ValueError as error:
    return {'absent': str(error)}
  with system.capture_stderr() as held:
    try:
      return {
        'arena': arena._asdict(),
        **_compare_with_reference(content, inputs),
      }
    except RuntimeError:
      said = held().strip().splitlines() or ['it says nothing']
  return {
    'arena': arena._asdict(),
    'absent': f'the file loads and does not run: {"; ".join(said[:2])}',
  }


def _compare_with_reference(
  content: bytes, inputs: Sequence[np.ndarray]
) -> dict[str, Any]:
  """Returns where TFLM differs from LiteRT's reference kernels.

  Raises:
    RuntimeError: TFLM cannot run an operator.
  """
  operators: dict[str, dict[str, Any]] = {}
  for found in micro.compare_operators(content, inputs[0]):
    row = operators.setdefault(
      found.operator, {'count': 0, 'equal': 0, 'largest': 0.0}
    )
    row['count'] += 1
    row['equal'] += int(found.largest == 0)
    row['largest'] = max(row['largest'], found.largest)
  network = micro.compare_network(content, inputs[:_TFLM_IMAGES])
  return {
    'operators': operators,
    'images': min(len(inputs), _TFLM_IMAGES),
    'histogram': network.histogram,
    'first': network.first and network.first._asdict(),
  }


def _check_npus(
  path: str, target: str = '', ram_bytes: int | None = None
) -> dict[str, Any]:
  """Returns Vela's summary by accelerator, or its error.

  Args:
    path: the .tflite file.
    target: one more accelerator, or one of these.
    ram_bytes: what Vela plans that one's SRAM with; None for its default.
  """
  found: dict[str, Any] = {}
  names = dict.fromkeys(ACCELERATORS)
  if target in vela.ACCELERATORS:
    names[target] = None
  for name in names:
    given = ram_bytes if name == target else None
    try:
      compiled = vela.summary_to_json(vela.compile_file(path, name, given))
      found[name] = {**compiled, 'planned_bytes': given}
    except ValueError as error:
      found[name] = {'error': str(error).replace(path, 'the file')}
  return found


def _memory_timeline(graph: tflite_graph.Graph) -> dict[str, Any]:
  """Returns bytes alive at each operator, and the operators' names."""
  return {
    'bytes': memory.live_bytes(memory.activation_lifetimes(graph)),
    'operators': [op.name for op in graph.operators],
    'tensors': [graph.tensors[op.outputs[0]].name for op in graph.operators],
  }


def run_device_checks(
  path: str,
  images: Sequence[np.ndarray],
  normalize: Any,
  target: str = '',
  ram_bytes: int | None = None,
) -> dict[str, Any]:
  """Returns what there is to say of an int8 file.

  Args:
    path: the .tflite file.
    images: [H, W, 3] in 0..255, of its size; at least one.
    normalize: see `quantize_input`.
    target: see `_check_npus`.
    ram_bytes: likewise.

  Returns:
    `memory`, see `_memory_timeline`; `micro`; `npu`; and `estimates`, the least
    milliseconds by target (`Target.estimate_ms`).
  """
  with open(path, 'rb') as f:
    content = f.read()
  graph = tflite_graph.read_tflite(content)
  inputs = [quantize_input(graph, image, normalize) for image in images]
  macs = tflite_graph.count_macs(graph)
  return {
    'memory': _memory_timeline(graph),
    'micro': _check_tflm(content, inputs),
    'npu': _check_npus(path, target, ram_bytes),
    'estimates': {
      name: target.estimate_ms(macs)
      for name, target in targets.TARGETS.items()
      if target.compiler is None
    },
  }


def check_and_plot(
  folder: str,
  kind: str,
  report: dict[str, Any],
  images: list[np.ndarray],
  expected: list[np.ndarray],
  found: list[np.ndarray],
  source: source_lib.ExportSource,
) -> dict[str, Any]:
  """Collects what devices make of an int8 file, and draws it."""
  logging.info('Asking compilers and TFLite Micro about %s', kind)
  request, data = report['request'], source.config.data

  def normalize(image: np.ndarray) -> np.ndarray:
    if request['normalization_in_graph']:
      return image
    mean, std = np.float32(data.mean), np.float32(data.std)
    return compose.normalize_image(image, mean, std)

  target = report['target'].get(kind, {})
  ram = target.get('ram_bytes')
  path = os.path.join(folder, f'{kind}.tflite')
  facts = run_device_checks(
    path, images, normalize, target.get('name', ''), ram
  )
  arena = report['formats'][kind]['peak_activation_bytes']
  visualize.save_image(
    plots.plot_memory(facts['memory'], arena, ram),
    os.path.join(folder, f'memory_{kind}.png'),
  )
  visualize.save_image(
    plots.plot_errors(images[:3], expected[:3], found[:3]),
    os.path.join(folder, f'errors_{kind}.png'),
  )
  return facts


def draw_masks(
  folder: str,
  shown: list[tuple[str, evaluate.Result]],
  info: dataset_info.DatasetInfo,
) -> None:
  """Draws the first images of an evaluation: JAX, files, label."""
  rows = []
  for samples in zip(*(result.samples for _, result in shown), strict=True):
    masks = [
      (name, sample.prediction)
      for (name, _), sample in zip(shown, samples, strict=True)
    ]
    masks.append(('label', samples[0].label))
    rows.append((samples[0].image, masks))
  visualize.save_image(
    plots.draw_overlays(rows, info.class_names, info.palette),
    os.path.join(folder, 'overlays.png'),
  )
