"""The part that all providers share: which operator replaces which function."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from deeplab.models import attention
from deeplab.models import layers
from deeplab.models import pooling
from deeplab.models import resizing
from deeplab.quantization import qparams
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.simulator import activation_ops
from deeplab.quantization.simulator import layout_ops
from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import ops
from deeplab.quantization.simulator import qwix_compat

Array = jax.Array
Range = tuple[Array, Array]


def minmax_with_zero(array: Array) -> dict[str, Array]:
  """Returns {'min', 'max'} of an array and 0, float32 scalars."""
  return {
    'min': jnp.minimum(jnp.min(array), 0.0).astype(jnp.float32),
    'max': jnp.maximum(jnp.max(array), 0.0).astype(jnp.float32),
  }


def _full_name(function: Callable) -> str:
  """Returns the name under which Qwix replaces a function."""
  return f'{function.__module__}.{function.__qualname__}'


class ProviderBase:
  """Mixin to Qwix's providers: int8 operators, and requantization.

  Attributes:
    conv: class of convolutions.
    batch_norm: class of BatchNorm.
    ufunc: class of sums, products and biases.
    hard_swish: class of HARD_SWISH.
    hard_sigmoid: class of piecewise linear gates.
    int8_output: True to requantize logits of 16 bits to 8.
  """

  conv: Callable[..., Any] = ops.Conv
  batch_norm: Callable[..., Any] = ops.BatchNorm
  ufunc: Callable[..., Any] = ops.Ufunc
  hard_swish = activation_ops.HardSwish
  hard_sigmoid = activation_ops.HardSigmoid
  int8_output = False

  def register_operators(self, rules: rules_lib.Rules) -> None:
    """Registers the operators that replace functions of JAX and of our models.

    Args:
      rules: how weights are scaled.
    """
    self._quantization_rules = rules
    requantizing = lambda op, **kwargs: functools.partial(
      op, requantize=self.requantize, **kwargs
    )
    self._ops.update(  # type: ignore[attr-defined]
      {
        'jax.lax.conv_general_dilated': requantizing(
          self.conv,
          disable_per_channel_weights=rules.weights == 'tensor',
          check_activation=True,
        ),
        'flax.linen.BatchNorm.__call__': requantizing(self.batch_norm),
        'jax.custom_jvp.__call__': ops.Relu,
        'jax.numpy.ufunc.__call__': requantizing(self.ufunc),
        'jax.numpy.concatenate': requantizing(
          layout_ops.Concatenate,
          concat_barrier=self.concat_barrier,
          record_range=self.record_range,
        ),
        'jax.numpy.pad': layout_ops.Pad,
        'jax.numpy.split': layout_ops.Split,
        'jax.nn.hard_swish': requantizing(self.hard_swish),
        'jax.nn.sigmoid': requantizing(activation_ops.Sigmoid),
        'jax.nn.hard_sigmoid': requantizing(self.hard_sigmoid),
        'flax.linen.max_pool': ops.SameScale,
      }
    )
    # Functions of our models. The names are those under which ranges of their
    # inputs are saved ('bins0', ...), in checkpoints too: they stay, whatever
    # the function is called.
    for function, name, operator in (
      (layers.shared_relu, 'shared_relu', ops.SameScale),
      (pooling.adaptive_average_pool, 'bins', ops.SameScale),
      (pooling.average_pool, 'windows', ops.SameScale),
      (resizing.resize, 'resize', ops.Resize),
      (attention.hard_sigmoid, 'ramp', requantizing(self.hard_sigmoid)),
    ):
      self._ops[_full_name(function)] = functools.partial(  # type: ignore[attr-defined]
        operator, op_name=name
      )

  def get_interceptors(self):
    """Returns Qwix's interceptors, with our operator for layout primitives."""
    _, numerical = super().get_interceptors()  # type: ignore[misc]
    structural = qwix_compat.Interceptor(
      mapping={qwix_compat.PRIMITIVE_BIND_KEY: layout_ops.LayoutPrimitive()},
      id=hash((id(self), 0)),
    )
    return [lambda: structural, numerical]

  def detach(self, array: Array) -> Array:
    """Returns an array of any shape without its metadata."""
    return jnp.array(array, copy=True)

  def concat_barrier(self, array: Array) -> Array:
    """Rounds a part [..., C] of a 16-bit concatenation."""
    return array

  def record_range(self, array: Array, name: str) -> None:
    """Observes minimum and maximum of an array, where training updates ranges.

    Args:
      array: of any shape, before it is clipped to its range.
      name: name of the range.
    """

  def process_model_inputs(self, model: Any, args: Any, kwargs: Any) -> Any:
    """Returns Qwix's result; marks the arrays as inputs of the model."""
    processed = super().process_model_inputs(model, args, kwargs)  # type: ignore[misc]
    for x in jax.tree.leaves(processed[1:]):
      if isinstance(x, jax.Array):
        qwix_compat.set_metadata(x, metadata.MODEL_INPUT, True)
    return processed

  def process_model_output(self, method_name: str, model_output: Any) -> Any:
    """Returns Qwix's result; requantized to 8 bits for `int8_output`."""
    output = super().process_model_output(method_name, model_output)  # type: ignore[misc]

    def to_int8(x: Any) -> Any:
      rule = metadata.get_rule(x)
      if not metadata.has_int16_activations(rule):
        return x
      return self.requantize(x, dataclasses.replace(rule, act_qtype=jnp.int8))

    return jax.tree.map(to_int8, output) if self.int8_output else output

  def requantize(
    self, array: Array, rule: qwix_compat.QuantizationRule, name: str = ''
  ) -> Array:
    """Rounds an array that is rounded already to the width of another rule.

    Args:
      array: rounded, of any shape; one that is not is returned unchanged.
      rule: 8 or 16 bits.
      name: of the new range; '' keeps the range of the array.
    """
    own = metadata.get_qparams(array)
    if own is None:
      return array
    known = None
    if not name:
      known = qwix_compat.get_metadata(array, metadata.REQUANTIZED, None)
    if known is not None:
      return known
    out = self.detach(array)
    accumulator = metadata.get_accumulator(array)
    if accumulator is not None:
      metadata.set_accumulator(out, accumulator.value, accumulator.scale)
    if not name:
      qwix_compat.set_metadata(out, metadata.ASSIGNED_RANGE, own.value_range)
    how = qwix_compat.HowToQuantize(
      qtype=rule.act_qtype, calibration_method='minmax'
    )
    out = self._fake_quant(out, how, name or 'requantized')  # type: ignore[attr-defined]
    qwix_compat.set_metadata(out, qwix_compat.IS_ACTIVATION, True)
    qwix_compat.set_metadata(out, qwix_compat.RULE, rule)
    qwix_compat.set_metadata(out, qwix_compat.FAKE_QUANTIZED, 'self')
    if not name:
      qwix_compat.set_metadata(array, metadata.REQUANTIZED, out)
    return out

  def weight_scale(self, array: Array, how: qwix_compat.HowToQuantize) -> Array:
    """Returns the scales of a kernel [h, w, C, K], broadcastable to it."""
    absmax = qwix_compat.calibrate(array, how)['absmax']
    rules = self._quantization_rules
    int16 = rules.has_int16_activations(
      '/'.join(qwix_compat.current_module_path())
    )
    return qparams.weight_scale(absmax, rules.power_of_two, int16)

  def activation_qparams(
    self, value_range: Range, rank: int, is_fixed: bool, int16: bool
  ) -> tuple[Array, Array | None]:
    """Returns the scale and zero point of an activation.

    Args:
      value_range: (low, high), float32 scalars.
      rank: number of axes of the activation; the results have as many.
      is_fixed: True for a range that is known beforehand. It is exempt from
        powers of two: pixels of 8 bits keep scale 1.
      int16: True for 16 bits.
    """
    low, high = (jnp.reshape(x, (1,) * rank) for x in value_range)
    power_of_two = self._quantization_rules.power_of_two and not is_fixed
    return qparams.activation_qparams(low, high, power_of_two, int16)


def assigned_range(array: Array) -> Range | None:
  """Returns the range that `requantize` gave an array of any shape, or None."""
  value_range: Range | None = qwix_compat.get_metadata(
    array, metadata.ASSIGNED_RANGE, None
  )
  return value_range


def fixed_range(array: Array) -> Range | None:
  """Returns the range of an array of any shape if known, as of a sigmoid."""
  known = qwix_compat.get_metadata(array, qwix_compat.FIXED_RANGE, None)
  return known and (jnp.float32(known[0]), jnp.float32(known[1]))


def record_observation(name: str, value: dict[str, Array]) -> None:
  """Writes to the collection 'observed' of the current module, if mutable."""
  module = qwix_compat.current_module()
  if module.is_mutable_collection('observed'):
    module.put_variable('observed', name, value)
