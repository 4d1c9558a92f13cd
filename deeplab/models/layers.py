"""The layers that every encoder and head is built from.

They define for all models the compute and parameter dtypes, BatchNorm, padding,
per-example dropout, and the two implementations of depthwise and 1x1
convolutions.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import Literal
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.models import cpu_kernels
from deeplab.models import cpu_norm

Array = jax.Array
Block = TypeVar('Block', bound=nn.Module)
# The padding schemes of `explicit_padding`.
Padding = Literal['same', 'symmetric', 'keras']

NO_PADDING: cpu_kernels.Pads = ((0, 0), (0, 0))

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
  'relu': jax.nn.relu,
  'relu6': jax.nn.relu6,
  'hard_swish': jax.nn.hard_swish,
  'hard_sigmoid': jax.nn.hard_sigmoid,
  'none': lambda x: x,
}


def shared_relu(x: Array) -> Array:
  """ReLU of a map [B, H, W, C] that is also read without the ReLU.

  An int8 file holds both maps, with one scale; every other ReLU is fused into
  the operator before it.
  """
  return jax.nn.relu(x)


@dataclasses.dataclass(frozen=True)
class Options:
  """Compute options that every layer of one model shares.

  Attributes:
    dtype: compute dtype, 'float32' or 'bfloat16'. Parameters, BatchNorm
      statistics and logits are float32 always.
    axis_name: pmap axis over which BatchNorm averages its batch statistics;
      None outside pmap.
    depthwise: 'conv' is the grouped convolution that accelerators, exporters,
      quantizers and MAC counters need; 'shifted' computes the same sum as
      shifted multiplies, several times faster on a CPU.
    pointwise: 'conv', or 'matmul' for 1x1 convolutions as matrix products and
      BatchNorm with a hand-written gradient, faster on a CPU in training.
    remat: number of stages of the encoder, from the finest, whose blocks are
      recomputed in the backward pass (rematerialization).
    frozen_norms: BatchNorm uses its running statistics in training, too, and
      does not update them; scale and bias are trained.
    resize_ratio: largest ratio of one bilinear resize; a larger resize is split
      into stages (see `resizing`). 0: no limit.
    unbiased_variance: BatchNorm's running variance averages n / (n - 1) times
      the variance of a batch of n pixels, as PyTorch's and TensorFlow's fused
      kernels do, and not the variance itself.
    classifier_stddev: standard deviation of a classifier's random kernel; 0:
      Glorot's.
  """

  dtype: str = 'float32'
  axis_name: str | None = None
  depthwise: Literal['conv', 'shifted'] = 'conv'
  pointwise: Literal['conv', 'matmul'] = 'conv'
  remat: int = 0
  frozen_norms: bool = False
  resize_ratio: int = 0
  unbiased_variance: bool = False
  classifier_stddev: float = 0.0

  def __post_init__(self):
    for name, allowed in (
      ('dtype', ('float32', 'bfloat16')),
      ('depthwise', ('conv', 'shifted')),
      ('pointwise', ('conv', 'matmul')),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f'{name}={value!r} is not one of {allowed}')
    if self.remat < 0:
      raise ValueError(
        f'remat={self.remat} is negative; it must be a number of stages'
      )
    if not 0 <= self.classifier_stddev <= 1:
      raise ValueError(
        f'classifier_stddev={self.classifier_stddev} must be from 0 to 1'
      )
    if self.resize_ratio != 0 and self.resize_ratio < 2:
      raise ValueError(
        f'resize_ratio={self.resize_ratio} must be 2 or more, or 0 for no limit'
      )

  def maybe_remat(self, cls: type[Block], stage: int) -> type[Block]:
    """Returns a class of blocks, rematerialized in the first `remat` stages.

    There only the block's inputs are stored for the backward pass.

    Args:
      cls: class of blocks that are called as `block(x, train)`.
      stage: index of the block's stage, from 0, the finest.
    """
    if stage >= self.remat:
      return cls
    return nn.remat(cls, static_argnums=(2,))


@dataclasses.dataclass(frozen=True)
class BatchNormConfig:
  """BatchNorm constants of a family of layers.

  Attributes:
    decay: share of the old running statistic kept at each step (PyTorch's
      momentum is 1 - decay). With values of 0.99 and more the statistics do not
      converge in a run of a few hundred steps.
    epsilon: added to the variance.
    frozen: running statistics are used in training, too, and not updated; scale
      and bias have no gradient.
  """

  decay: float
  epsilon: float
  frozen: bool = False


def as_pair(n: int | Sequence[int]) -> tuple[int, int]:
  """Returns (n, n) of a number, or a pair as a tuple."""
  rows, columns = (n, n) if isinstance(n, int) else n
  return rows, columns


def explicit_padding(
  padding: Padding | cpu_kernels.Pads,
  size: Sequence[int],
  kernel: int | Sequence[int],
  stride: int,
  rate: int,
) -> cpu_kernels.Pads:
  """Returns the pads ((top, bottom), (left, right)) of one convolution.

  Args:
    padding: 'same' is TensorFlow's SAME (the surplus goes to the end);
      'symmetric' is PyTorch's (k - 1) // 2 * rate on both sides, and
      TF-slim's fixed padding; 'keras' is Keras applications' `correct_pad` at
      stride 2 (one less at the start on even sizes) and SAME elsewhere. Or
      explicit pads of rows and columns, such as `NO_PADDING`.
    size: (H, W) of the input.
    kernel: kernel size, or (rows, columns).
    stride: stride.
    rate: atrous rate.
  """
  if not isinstance(padding, str):
    return padding
  pads = []
  for n, k in zip(size, as_pair(kernel), strict=True):
    extent = (k - 1) * rate
    if padding == 'symmetric':
      pads.append((extent // 2, extent - extent // 2))
    elif padding == 'keras' and stride > 1:
      half = extent // 2
      pads.append((half - (1 - n % 2), half))
    elif padding in ('same', 'keras'):
      total = max((-(-n // stride) - 1) * stride + extent + 1 - n, 0)
      pads.append((total // 2, total - total // 2))
    else:
      raise ValueError(
        f'padding={padding!r} is not one of same, symmetric, keras'
      )
  return pads[0], pads[1]


class Conv(nn.Module):
  """A 2-D convolution: dense, grouped or depthwise, strided or atrous.

  Maps [B, H, W, Cin] to [B, ceil(H / stride), ceil(W / stride), features] for
  'same' and 'symmetric' padding. Kernel `kernel` has shape
  [rows, columns, Cin / groups, features], float32.

  Attributes:
    features: output channels.
    kernel: kernel size, or (rows, columns).
    stride: stride.
    rate: atrous rate.
    groups: feature groups; `groups == Cin == features` is depthwise.
    use_bias: adds `bias` [features].
    padding: padding scheme of `explicit_padding`, or explicit pads.
    options: compute options of the whole model.
    kernel_init: initializer of the kernel.
    bias_init: initializer of the bias.
  """

  features: int
  kernel: int | tuple[int, int] = 1
  stride: int = 1
  rate: int = 1
  groups: int = 1
  use_bias: bool = False
  padding: Padding | cpu_kernels.Pads = 'same'
  options: Options = Options()
  kernel_init: Any = nn.initializers.he_normal()
  bias_init: Any = nn.initializers.zeros_init()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, Cin] to [B, H', W', features], in the compute dtype."""
    cin = x.shape[-1]
    if cin % self.groups or self.features % self.groups:
      raise ValueError(
        f'groups={self.groups} does not divide both the {cin} input and the '
        f'{self.features} output channels'
      )
    dtype = jnp.dtype(self.options.dtype)
    size = as_pair(self.kernel)
    shape = (*size, cin // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    pads = explicit_padding(
      self.padding, x.shape[1:3], size, self.stride, self.rate
    )
    depthwise = self.groups == cin == self.features and cin > 1
    pointwise = size == (1, 1) and self.groups == 1 and self.stride == 1
    pointwise = pointwise and pads == NO_PADDING
    if depthwise and self.options.depthwise == 'shifted':
      x = cpu_kernels.depthwise_conv(x, kernel, self.stride, self.rate, pads)
    elif pointwise and self.options.pointwise == 'matmul':
      x = cpu_kernels.pointwise_conv(x, kernel)
    else:
      x = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(self.stride, self.stride),
        padding=pads,
        rhs_dilation=(self.rate, self.rate),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=self.groups,
      )
    if self.use_bias:
      bias = self.param('bias', self.bias_init, (self.features,), jnp.float32)
      x = x + bias.astype(dtype)[None, None, None]
    return x


class ConvTranspose(nn.Module):
  """A transposed 2-D convolution, which upsamples the map by `stride`.

  Output row o is the sum over input rows i of x[i] times row o + start -
  stride * i of the kernel, where that row exists; `start` is (k - 1) // 2 with
  'symmetric' padding, as PyTorch's `padding`, and (k - stride) // 2 with
  'same', as TensorFlow's. Kernel `kernel` has shape [k, k, Cin, features],
  float32.

  Attributes:
    features: output channels.
    kernel: kernel size k.
    stride: stride.
    use_bias: adds `bias` [features].
    padding: 'same' or 'symmetric'.
    options: compute options of the whole model.
    kernel_init: initializer of the kernel.
  """

  features: int
  kernel: int
  stride: int = 2
  use_bias: bool = False
  padding: Literal['same', 'symmetric'] = 'same'
  options: Options = Options()
  kernel_init: Any = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, Cin] to [B, stride H, stride W, features].

    Raises:
      ValueError: the padding is unknown, or the kernel too small for it.
    """
    starts = {
      'same': (self.kernel - self.stride) // 2,
      'symmetric': (self.kernel - 1) // 2,
    }
    if self.padding not in starts:
      raise ValueError(f'padding={self.padding!r} is not one of {list(starts)}')
    start = starts[self.padding]
    if not 0 <= start <= self.kernel - self.stride:
      raise ValueError(
        f'kernel={self.kernel} is too small for stride={self.stride} and '
        f'padding={self.padding!r}'
      )
    dtype = jnp.dtype(self.options.dtype)
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    height, width = (self.stride * n for n in x.shape[1:3])
    # The full output is computed and then cropped: with other padding the
    # converter to TFLite computes another function.
    pad = (self.kernel - 1, self.kernel - 1)
    x = jax.lax.conv_general_dilated(
      x.astype(dtype),
      kernel.astype(dtype)[::-1, ::-1],
      window_strides=(1, 1),
      padding=(pad, pad),
      lhs_dilation=(self.stride, self.stride),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    if self.use_bias:
      zeros = nn.initializers.zeros_init()
      bias = self.param('bias', zeros, (self.features,), jnp.float32)
      x = x + bias.astype(dtype)[None, None, None]
    # Not by indexing: the int8 simulator would take that for a gather.
    x = jax.lax.slice_in_dim(x, start, start + height, axis=1)
    x = jax.lax.slice_in_dim(x, start, start + width, axis=2)
    return x


class BatchNorm(nn.Module):
  """BatchNorm and an activation.

  Statistics are computed and stored in float32, and averaged over the pmap
  axis: in training mode the model's `axis_name` must be that of the enclosing
  pmap (or None outside one).

  Attributes:
    norm: BatchNorm constants.
    activation: one of `ACTIVATIONS`.
    options: compute options of the whole model.
  """

  norm: BatchNormConfig
  activation: str = 'none'
  options: Options = Options()

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    train = train and not (self.norm.frozen or self.options.frozen_norms)
    if train and self.options.pointwise == 'matmul':
      return cpu_norm.BatchNorm(
        self.norm.decay,
        self.norm.epsilon,
        self.activation,
        self.options.axis_name,
        self.options.unbiased_variance,
        name='bn',
      )(x)
    kind = nn.BatchNorm
    if self.norm.frozen:
      kind = nn.map_variables(
        kind, 'params', jax.lax.stop_gradient, init=self.is_initializing()
      )
    bn = kind(
      use_running_average=not train,
      momentum=self.norm.decay,
      epsilon=self.norm.epsilon,
      dtype=jnp.dtype(self.options.dtype),
      param_dtype=jnp.float32,
      axis_name=self.options.axis_name if train else None,
      use_fast_variance=True,
      name='bn',
    )
    unbiased = train and self.options.unbiased_variance
    unbiased = unbiased and not self.is_initializing()
    old: Any = bn.get_variable('batch_stats', 'var') if unbiased else None
    # Flax mixes the compute dtype with float32 statistics.
    with jax.numpy_dtype_promotion('standard'):
      y = bn(x)
    if unbiased:
      new: Any = bn.get_variable('batch_stats', 'var')
      n = cpu_norm.count_pixels(x, self.options.axis_name)
      # The part of the new value that comes from this batch.
      batch = new - self.norm.decay * old
      bn.put_variable('batch_stats', 'var', new + batch / max(n - 1, 1))
    return ACTIVATIONS[self.activation](y)


class ConvBN(nn.Module):
  """Convolution, BatchNorm, activation, with the fields of `Conv`."""

  features: int
  norm: BatchNormConfig
  kernel: int | tuple[int, int] = 1
  stride: int = 1
  rate: int = 1
  groups: int = 1
  use_bias: bool = False
  padding: Padding | cpu_kernels.Pads = 'same'
  activation: str = 'relu'
  options: Options = Options()
  kernel_init: Any = nn.initializers.he_normal()

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, Cin] to [B, H', W', features]."""
    x = Conv(
      self.features,
      kernel=self.kernel,
      stride=self.stride,
      rate=self.rate,
      groups=self.groups,
      use_bias=self.use_bias,
      padding=self.padding,
      options=self.options,
      kernel_init=self.kernel_init,
      name='conv',
    )(x)
    return BatchNorm(self.norm, self.activation, self.options, name='norm')(
      x, train
    )


class SeparableConvBN(nn.Module):
  """Depthwise k x k ConvBN, then 1x1 ConvBN, an activation after each.

  Fields of `Conv`, and

  Attributes:
    depthwise_norm: False leaves out the BatchNorm and the activation between
      the two, as segmentation_models.pytorch does.
    depthwise_bias, pointwise_bias: each convolution's `use_bias`.
    group_size: input channels per group of the first convolution; 1 is
      depthwise, and some embedded processors prefer more.
  """

  features: int
  norm: BatchNormConfig
  kernel: int | tuple[int, int] = 3
  stride: int = 1
  rate: int = 1
  padding: Padding | cpu_kernels.Pads = 'same'
  depthwise_activation: str = 'relu'
  activation: str = 'relu'
  depthwise_norm: bool = True
  depthwise_bias: bool = False
  pointwise_bias: bool = False
  group_size: int = 1
  options: Options = Options()

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, Cin] to [B, H', W', features]."""
    groups, rest = divmod(x.shape[-1], self.group_size)
    if rest:
      raise ValueError(
        f'group_size={self.group_size} does not divide the {x.shape[-1]} input '
        'channels'
      )
    fields: dict[str, Any] = {
      'kernel': self.kernel,
      'stride': self.stride,
      'rate': self.rate,
      'groups': groups,
      'use_bias': self.depthwise_bias,
      'padding': self.padding,
      'options': self.options,
      'name': 'depthwise',
    }
    if self.depthwise_norm:
      x = ConvBN(
        x.shape[-1], self.norm, activation=self.depthwise_activation, **fields
      )(x, train)
    else:
      x = Conv(x.shape[-1], **fields)(x)
    return ConvBN(
      self.features,
      self.norm,
      activation=self.activation,
      use_bias=self.pointwise_bias,
      options=self.options,
      name='pointwise',
    )(x, train)


def dropout(
  x: Array, rate: float, keys: Array | None, drop_channels: bool = False
) -> Array:
  """Drops units with one key per example.

  So an example's mask does not depend on how the batch is sharded.

  Args:
    x: [B, ..., C].
    rate: share of units dropped.
    keys: typed PRNG keys [B], one per example; None returns x unchanged.
    drop_channels: drops whole channels of an example, as PyTorch's Dropout2d.

  Returns:
    [B, ..., C] in x's dtype.
  """
  if keys is None or rate == 0.0:
    return x
  shape = x.shape[1:]
  if drop_channels:
    shape = (1,) * (x.ndim - 2) + x.shape[-1:]
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape))(
    keys
  )
  return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def fold_keys(keys: Array | None, site: int) -> Array | None:
  """Folds the number of a dropout site into per-example keys.

  Args:
    keys: typed PRNG keys [B], one per example, or None.
    site: number of the dropout layer in the model.

  Returns:
    Keys [B], or None.
  """
  if keys is None:
    return None
  return jax.vmap(lambda key: jax.random.fold_in(key, site))(keys)
