"""Multiply-accumulates and parameters of a network, layer by layer.

The network is traced by shapes alone: nothing is allocated or computed, and a
whole model takes about a second. Convolutions are counted where `layers.Conv`
and `layers.ConvTranspose` are called, so the count does not depend on how a
back end computes them; a transposed one costs its kernel at every input pixel.
The result is the "GMACs" (in some papers "GFLOPS") of published tables:
convolutions only, one image, without BatchNorm, activations and resizes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import layers
from deeplab.models import registry
from deeplab.models import segmenter

if TYPE_CHECKING:
  # For annotations only: modules can be built without ml_collections.
  import ml_collections


class LayerProfile(NamedTuple):
  """One call of a layer that has parameters.

  Attributes:
    path: parameter path of the module, 'encoder/stem/conv'.
    op: 'conv', 'depthwise', 'grouped', 'transposed', or the class name of
      another layer.
    kernel: kernel size, or (rows, columns); 0 where the layer has none.
    stride: stride.
    rate: atrous rate.
    in_shape: [H, W, C] of the input.
    out_shape: [H, W, C] of the output.
    macs: multiply-accumulates for one image.
    params: trainable parameters; 0 if an earlier row counted them.
  """

  path: str
  op: str
  kernel: int | tuple[int, int]
  stride: int
  rate: int
  in_shape: tuple[int, ...]
  out_shape: tuple[int, ...]
  macs: int
  params: int


class ModelProfile(NamedTuple):
  """The layers of a network and their totals.

  Attributes:
    macs: multiply-accumulates of all convolutions for one image.
    params: trainable parameters, without running statistics.
    rows: one per layer, in order of execution.
  """

  macs: int
  params: int
  rows: tuple[LayerProfile, ...]


def _conv_kind(conv: layers.Conv, channels: int) -> str:
  """Returns the kind of a convolution that reads `channels` channels."""
  if conv.groups == 1:
    return 'conv'
  return 'depthwise' if conv.groups == channels else 'grouped'


def count_macs_and_params(
  model: 'ml_collections.ConfigDict | segmenter.Segmenter',
  num_classes: int,
  size: Sequence[int],
  channels: int = 3,
  auxiliary: bool = False,
) -> ModelProfile:
  """Returns MACs and parameters of a network at one input size.

  Args:
    model: `config.model`, or a network built from it.
    num_classes: number of classes, used with a config.
    size: (H, W) of the input image.
    channels: channels of the input image.
    auxiliary: also counts the modules that only training runs: the auxiliary
      head, and the head's modules whose names begin with 'auxiliary'.
  """
  if not isinstance(model, segmenter.Segmenter):
    model = registry.build_model(
      model, num_classes, depthwise='conv', pointwise='conv'
    )
  rows = []
  counted_paths = set()

  def record(call, args, kwargs, context):
    out = call(*args, **kwargs)
    module = context.module
    path = '/'.join(module.path)
    if context.method_name != '__call__' or not (
      auxiliary or '/auxiliary' not in f'/{path}'
    ):
      return out
    own = module.variables.get('params', {})
    params = {k: v for k, v in own.items() if not isinstance(v, dict)}
    if not params:
      return out
    in_shape, out_shape = args[0].shape[1:], out.shape[1:]
    row: dict[str, Any] = {
      'op': type(module).__name__,
      'kernel': 0,
      'stride': 1,
      'rate': 1,
    }
    macs = 0
    if isinstance(module, layers.Conv):
      row = {
        'op': _conv_kind(module, in_shape[-1]),
        'kernel': module.kernel,
        'stride': module.stride,
        'rate': module.rate,
      }
      macs = out_shape[0] * out_shape[1] * params['kernel'].size
    elif isinstance(module, layers.ConvTranspose):
      row |= {
        'op': 'transposed',
        'kernel': module.kernel,
        'stride': module.stride,
      }
      macs = in_shape[0] * in_shape[1] * params['kernel'].size
    total = sum(value.size for value in params.values())
    rows.append(
      LayerProfile(
        path=path,
        in_shape=in_shape,
        out_shape=out_shape,
        macs=macs,
        params=0 if path in counted_paths else total,
        **row,
      )
    )
    counted_paths.add(path)
    return out

  def trace(images):
    with nn.intercept_methods(record):
      return model.init(jax.random.key(0), images)

  jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *size, channels), jnp.float32))
  return ModelProfile(
    macs=sum(row.macs for row in rows),
    params=sum(row.params for row in rows),
    rows=tuple(rows),
  )


def format_table(result: ModelProfile) -> str:
  """Formats the profile as text: a header, one line per layer, the totals."""
  lines = [('layer', 'op', 'k', 's', 'rate', 'in', 'out', 'MACs', 'params')]
  for row in result.rows:
    lines.append(
      (
        row.path,
        row.op,
        'x'.join(map(str, row.kernel))
        if isinstance(row.kernel, tuple)
        else str(row.kernel),
        str(row.stride),
        str(row.rate),
        'x'.join(map(str, row.in_shape)),
        'x'.join(map(str, row.out_shape)),
        f'{row.macs:,}',
        f'{row.params:,}',
      )
    )
  lines.append(
    ('total', '', '', '', '', '', '', f'{result.macs:,}', f'{result.params:,}')
  )
  widths = [
    max(len(cell) for cell in column) for column in zip(*lines, strict=True)
  ]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) if i < 2 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )
