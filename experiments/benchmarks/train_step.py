r"""Compares one training step with PyTorch.

Both sides train the same network, DeepLabV3+ with MobileNetV2 (alpha 1.0,
output stride 16, 21 classes), with SGD and momentum. Steps are interleaved, so
that other load on the machine affects both:

    python -m experiments.benchmarks.train_step
    python -m experiments.benchmarks.train_step --torch_python=OTHER/bin/python
    python -m experiments.benchmarks.train_step --threads=0 --batch=32 \
        --size=513 --dtype=bfloat16

Needs jax, flax and optax, and torch for the other side; README.md has results.
"""

import json
import os
import statistics
import subprocess
import sys
import time

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import optax

from deeplab import parallel
from deeplab.models import layers
from deeplab.models import profile
from deeplab.models import segmenter
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.heads import deeplabv3plus
from deeplab.training import losses
from deeplab.training import train_step


def build_network() -> segmenter.Segmenter:
  """Builds the network that segmentation_models_pytorch builds."""
  cpu = parallel.platform() == 'cpu'
  pick = lambda value, fast: value.replace('auto', fast if cpu else 'conv')
  options = layers.Options(
    dtype=flags.FLAGS.dtype,
    axis_name=parallel.AXIS,
    depthwise=pick(flags.FLAGS.depthwise, 'shifted'),
    pointwise=pick(flags.FLAGS.pointwise, 'matmul'),
  )
  return segmenter.Segmenter(
    encoder=mobilenet_v2.MobileNetV2(
      output_stride=16, top_conv=True, options=options
    ),
    head=deeplabv3plus.DeepLabV3Plus(
      num_classes=flags.FLAGS.classes,
      rates=(12, 24, 36),
      depthwise_norm=False,
      refine='separable',
      aspp_dropout=0.5,
      decoder_convs=1,
      align_corners=True,
      options=options,
    ),
    auxiliary=None,
    num_classes=flags.FLAGS.classes,
  )


class JaxTrainer:
  """The step of `deeplab.training.train_step` on the local devices."""

  def __init__(self):
    model = build_network()
    options = model.encoder.options
    shape = (flags.FLAGS.batch, flags.FLAGS.size, flags.FLAGS.size)
    counts = profile.count_macs_and_params(
      model, flags.FLAGS.classes, shape[1:]
    )
    self.name = (
      f'JAX {jax.__version__} on {jax.local_device_count()} '
      f'{parallel.platform()}, depthwise {options.depthwise}, '
      f'pointwise {options.pointwise}'
    )
    self.macs, self.params = counts.macs, counts.params
    optimizer = optax.sgd(0.01, momentum=0.9)
    self._step = parallel.map_train(
      train_step.TrainStep(
        model=model,
        optimizer=optimizer,
        loss=losses.Loss(255, 'valid', (), 0.4),
        seed=0,
        axis_name=parallel.AXIS,
      )
    )
    self._state = parallel.replicate(
      train_step.init_state(model, optimizer, channels=3, seed=0, ema=False)
    )
    keys = jax.random.split(jax.random.key(0))
    self._batch = parallel.split(
      {
        'image': jax.random.uniform(keys[0], (*shape, 3)),
        'label': jax.random.randint(keys[1], shape, 0, flags.FLAGS.classes),
        'index': jnp.arange(flags.FLAGS.batch, dtype=jnp.uint32),
      }
    )

  def step(self) -> float:
    """Runs one step and returns its seconds."""
    start = time.perf_counter()
    self._state, metrics = self._step(self._state, self._batch)
    jax.block_until_ready((self._state, metrics))
    return time.perf_counter() - start


class TorchTrainer:
  """The PyTorch side, in its own process.

  Raises:
    RuntimeError: the process did not start.
  """

  def __init__(self):
    arguments = {
      'device': flags.FLAGS.torch,
      'threads': flags.FLAGS.threads,
      'batch': flags.FLAGS.batch,
      'size': flags.FLAGS.size,
      'classes': flags.FLAGS.classes,
      'dtype': flags.FLAGS.dtype,
    }
    worker = os.path.join(os.path.dirname(__file__), 'torch_worker.py')
    self._process = subprocess.Popen(
      [
        flags.FLAGS.torch_python,
        worker,
        *(f'--{name}={value}' for name, value in arguments.items()),
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    message = self._read_message()
    self.name = message['name']
    self.macs, self.params = message['macs'], message['params']

  def _read_message(self) -> dict:
    # Its input ends with this process, and so does it.
    line = next(iter(self._process.stdout or ()), '')
    if not line:
      raise RuntimeError(
        f'PyTorch did not run in {flags.FLAGS.torch_python}; its own words are '
        'above. --torch_python=PYTHON names another, --torch=off does without'
      )
    return json.loads(line)

  def step(self) -> float:
    """Runs one step and returns its seconds."""
    print('step', file=self._process.stdin, flush=True)
    return self._read_message()['seconds']


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_integer('batch', 4, 'Images per step.', flag_values=values)
  flags.DEFINE_integer(
    'size', 256, 'Height and width of the images.', flag_values=values
  )
  flags.DEFINE_integer('classes', 21, 'Number of classes.', flag_values=values)
  flags.DEFINE_enum(
    'dtype',
    'float32',
    ['float32', 'bfloat16'],
    'Compute dtype of both sides.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'depthwise',
    'auto',
    ['auto', 'shifted', 'conv'],
    'Form of our depthwise convolutions; auto: shifted on a CPU.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'pointwise',
    'auto',
    ['auto', 'matmul', 'conv'],
    'Form of our 1x1 convolutions and BatchNorm; auto: matmul on a CPU.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'steps', 5, 'Timed steps per side, interleaved.', flag_values=values
  )
  flags.DEFINE_integer(
    'warm_up', 2, 'Warm-up steps per side.', flag_values=values
  )
  flags.DEFINE_integer(
    'threads', 2, 'CPU cores to use; 0: all.', flag_values=values
  )
  flags.DEFINE_enum(
    'torch',
    'auto',
    ['auto', 'off', 'cpu', 'cuda'],
    'Device of the PyTorch side, or off.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'torch_python',
    sys.executable,
    'Python interpreter with torch.',
    flag_values=values,
  )


def main(argv: list[str]) -> None:
  """Prints both sides and their ratio."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  # Both sides share one accelerator, so neither may take all of its memory.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  if flags.FLAGS.threads and hasattr(os, 'sched_setaffinity'):
    cores = sorted(os.sched_getaffinity(0))[: flags.FLAGS.threads]
    os.sched_setaffinity(0, cores)
  sides: list[JaxTrainer | TorchTrainer] = [JaxTrainer()]
  if flags.FLAGS.torch != 'off':
    try:
      sides.append(TorchTrainer())
    except (OSError, RuntimeError) as error:
      if flags.FLAGS.torch != 'auto':
        raise
      print(f'Without PyTorch: {error}')
  seconds: list[list[float]] = [[] for _ in sides]
  for i in range(flags.FLAGS.warm_up + flags.FLAGS.steps):
    for side, times in zip(sides, seconds, strict=True):
      # The threads of the other side spin for a while after its step.
      time.sleep(0.3)
      elapsed = side.step()
      if i >= flags.FLAGS.warm_up:
        times.append(elapsed)
  values = flags.FLAGS
  print(
    f'{values.batch}x{values.size}x{values.size}, {values.dtype}, median and '
    f'range of {values.steps} interleaved steps'
  )
  for side, times in zip(sides, seconds, strict=True):
    print(
      f'{1e3 * statistics.median(times):8.1f} ms '
      f'({1e3 * min(times):.1f} .. {1e3 * max(times):.1f}), '
      f'{side.macs / 1e6:.1f} M MACs, {side.params:,} parameters: {side.name}'
    )
  if len(sides) == 2:
    ratio = statistics.median(seconds[0]) / statistics.median(seconds[1])
    print(
      f'ours / PyTorch: {ratio:.2f}; MACs '
      f'{sides[0].macs / sides[1].macs:.3f}, parameters '
      f'{sides[0].params / sides[1].params:.3f}'
    )


if __name__ == '__main__':
  define_flags()
  app.run(main)
