r"""Compares our int8 files with published files of the same networks.

    python -m experiments.benchmarks.exported --models=FOLDER
    python -m experiments.benchmarks.exported --person

The first command exports the networks of three public files with the weights of
those files, and prints the size of constants, the file size, the LiteRT latency
on this CPU and the result of Arm's Ethos-U compiler for both. FOLDER holds the
public files. Latencies are medians of interleaved runs. The compiler uses all
the SRAM that an Ethos-U85 has, so ours is limited to what the public file uses.

The second prints the constants and the TFLite Micro arena of
STMicroelectronics' person network, beside the memory that they publish.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import os
import statistics
import tempfile
import time
from typing import Any
from typing import NamedTuple

from absl import app
from absl import flags
import jax
from ml_collections import ConfigDict
import numpy as np

from configs import ade20k32_lite
from configs import person_mnv2
from configs import voc_mnv2
from deeplab import cli
from deeplab import text
from deeplab.inference import interpreters
from deeplab.models import registry
from deeplab.pretrained import merge
from deeplab.pretrained import unfold_batch_norm
from deeplab.pretrained.readers import tflite_weights
from deeplab.pretrained.systems import detect
from deeplab.quantization import rules as rules_lib
from export import frozen_model
from export import request as request_lib
from export import source as source_lib
from export.convert import saved_model
from export.convert import tflite
from export.devices import tflm
from export.devices import vela
from export.graph import tflite_graph

VELA_ACCELERATORS = ('ethos-u55-128', 'ethos-u85-256')
# Weights in flash and internal RAM of STM32N6, KiB, published by input size.
PERSON_PUBLISHED_KIB = {
  256: (882.33, 1869.88),
  320: (893.3, 2421.0),
  416: (894.14, 4830.28),
}


def _ade20k32_config() -> ConfigDict:
  """Returns the config of the MLPerf Mobile ADE20K network."""
  c = ConfigDict(ade20k32_lite.get_config())
  with c.unlocked():
    c.model.encoder = {
      'name': 'mobilenet_v2',
      'padding': 'same',
      'tap': 'expanded',
    }
    c.model.head = {'name': 'deeplabv3plus', 'rates': ()}
    c.model.output_stride = 16
    registry.fill_defaults(c.model)
  return c


class PublicModel(NamedTuple):
  """A public .tflite file.

  Attributes:
    config: returns the config of its network.
    size: (H, W) of its input.
    weights: granularity of weight scales, 'channel' or 'tensor'.
  """

  config: Callable[[], ConfigDict]
  size: int
  weights: str

  def export_ours(self, path: str, **options: Any) -> bytes:
    """Exports our file of the same network, with the same input scale.

    Args:
      path: the public file.
      **options: arguments of `request.make_request`, such as the target.
    """
    return export_int8(
      self.config(),
      (self.size, self.size),
      lambda source: _import_public_weights(source, path),
      normalization='caller',
      rules=rules_lib.Rules(weights=self.weights),
      **{'output': 'argmax', **options},
    )


PUBLIC_MODELS = {
  'deeplabv3_mnv2_dm05_pascal_quant': PublicModel(
    lambda: voc_mnv2.get_config('dm05'), 513, 'tensor'
  ),
  'deeplabv3_mnv2_pascal_quant': PublicModel(
    lambda: voc_mnv2.get_config('mobile'), 513, 'tensor'
  ),
  'deeplabv3plus_mnv2_ade20k32_int8': PublicModel(
    _ade20k32_config, 512, 'channel'
  ),
}


def _import_public_weights(source: source_lib.ExportSource, path: str) -> Any:
  """Returns the variables with the weights of a public file."""
  network = source.network.export_model()
  _, match = detect.detect_system(
    tflite_weights.read_tflite(path), network, source.variables
  )
  merged = merge.merge_tensors(
    source.variables, match.tensors, match.tensor_refs, unused=match.unused
  )
  image = np.zeros((1, *source.config.eval.static_size, 3), np.float32)
  return unfold_batch_norm.set_identity_batch_norms(
    network, merged, image, match.tensor_refs
  )


def _perturb_weights(source: source_lib.ExportSource) -> Any:
  """Adds noise to each weight; equal (zero) biases would share a buffer."""
  rng = np.random.default_rng(0)

  def add(x: Any) -> np.ndarray:
    noise = rng.random(x.shape, np.float32)
    return np.asarray(x) + np.float32(0.01) * noise

  return jax.tree.map(add, source.variables)


def export_int8(
  config: ConfigDict,
  size: tuple[int, int],
  make_variables: Callable[[source_lib.ExportSource], Any] = _perturb_weights,
  **options: Any,
) -> bytes:
  """Returns the int8 file of a network.

  Args:
    config: the experiment.
    size: (H, W).
    make_variables: maps an untrained source to its variables.
    **options: arguments of `request.make_request`.
  """
  config = ConfigDict(config)
  with config.unlocked():
    config.eval.static_size = size
  source = source_lib.init_untrained(config)
  source = dataclasses.replace(source, variables=make_variables(source))
  request = request_lib.make_request(
    formats=('int8',),
    input_size=size,
    num_classes=source.dataset.info.num_classes,
    **options,
  )
  model = frozen_model.FrozenModel(source, request)
  samples = tflite.representative_dataset(
    source_lib.draw_synthetic_images(2, size, 0),
    size,
    True,
    model.mean,
    model.std,
  )
  with tempfile.TemporaryDirectory() as folder:
    saved_model.write_saved_model(
      model.serving_function, model.input_shape, folder
    )
    return tflite.convert_saved_model(folder, 'int8', request, samples)


def measure_latencies(contents: Sequence[bytes], runs: int) -> list[float]:
  """Returns the median latency of each file in ms, from interleaved runs."""
  runners = []
  for content in contents:
    runner = interpreters.open_litert(content)
    runner.invoke()
    runners.append(runner)
  seconds: list[list[float]] = [[] for _ in runners]
  for _ in range(runs):
    for runner, own in zip(runners, seconds, strict=True):
      start = time.perf_counter()
      for _ in range(5):
        runner.invoke()
      own.append((time.perf_counter() - start) / 5)
  return [1e3 * statistics.median(own) for own in seconds]


def _compile_with_vela(
  content: bytes, accelerator: str, sram_bytes: int | None = None
) -> vela.VelaSummary:
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'model.tflite')
    with open(path, 'wb') as f:
      f.write(content)
    return vela.compile_file(path, accelerator, sram_bytes)


def _compare_public_model(
  folder: str, name: str, runs: int
) -> list[tuple[str, ...]]:
  """Returns one table row per quantity for a public file and ours."""
  public = PUBLIC_MODELS[name]
  path = os.path.join(folder, f'{name}.tflite')
  with open(path, 'rb') as f:
    theirs = f.read()
  ours = public.export_ours(path, input_type='uint8')
  rows: list[tuple[str, ...]] = []

  def row(what: str, pair: Sequence[float], form: str = ',.0f') -> None:
    a, b = pair
    ratio = f'{b / a:.4f}' if a else ''
    rows.append((name, what, format(a, form), format(b, form), ratio))

  constants = [
    tflite_graph.weight_bytes(tflite_graph.read_tflite(x))
    for x in (theirs, ours)
  ]
  row('constant bytes', constants)
  row('file bytes', (len(theirs), len(ours)))
  row('LiteRT ms', measure_latencies((theirs, ours), runs), ',.2f')
  for accelerator in VELA_ACCELERATORS:
    a = _compile_with_vela(theirs, accelerator)
    forms = {accelerator: public.export_ours(path, target=accelerator)}
    if a.refused:
      # What its file leaves to the processor costs the NPU nothing.
      forms[f'{accelerator}, last resize by the host'] = public.export_ours(
        path, target=accelerator, resize='host', output='logits'
      )
    # An Ethos-U85 has DRAM besides, and fills its SRAM.
    given = a.sram_bytes if a.dram_bytes else None
    for what, content in forms.items():
      b = _compile_with_vela(content, accelerator, given)
      row(f'{what}: off the NPU', (len(a.refused), len(b.refused)))
      row(f'{what}: SRAM bytes', (a.sram_bytes, b.sram_bytes))
      row(f'{what}: DRAM bytes', (a.dram_bytes, b.dram_bytes))
      row(f'{what}: cycles', (a.cycles, b.cycles))
  return rows


def compare_person_network(size: int) -> tuple[str, ...]:
  """Returns the row of the person network at one input size."""
  content = export_int8(
    person_mnv2.get_config(f'size{size}'),
    (size, size),
    input_type='int8',
    output_type='int8',
  )
  flash, ram = PERSON_PUBLISHED_KIB[size]
  constants = (
    tflite_graph.weight_bytes(tflite_graph.read_tflite(content)) / 1024
  )
  arena = tflm.measure_arena(content)
  return (
    f'{size}',
    f'{constants:,.1f}',
    f'{flash:,.1f}',
    f'{arena.total / 1024:,.1f}',
    f'{arena.head / 1024:,.1f}',
    f'{ram:,.1f}',
  )


def define_flags() -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string('models', None, 'Folder of the public files.')
  flags.DEFINE_bool('person', False, 'The person network instead.')
  flags.DEFINE_integer('runs', 5, 'Runs of each file, in turns.', lower_bound=1)


def _run() -> None:
  values = flags.FLAGS
  if values.person:
    header = (
      *('input', 'constants KiB', 'published flash', 'TFLM arena KiB'),
      *('of it activations', 'published RAM'),
    )
    found = [compare_person_network(size) for size in PERSON_PUBLISHED_KIB]
    print('\n'.join(text.format_table(header, found)))
    return
  if not values.models:
    raise ValueError('--models=FOLDER of the public files, or --person')
  rows = [
    row
    for name in PUBLIC_MODELS
    for row in _compare_public_model(values.models, name, values.runs)
  ]
  columns = ('network', 'what', 'public', 'ours', 'ratio')
  print('\n'.join(text.format_table(columns, rows)))


if __name__ == '__main__':
  define_flags()
  app.run(lambda argv: cli.run_command(argv, _run))
