"""What the providers of `providers` have in common: who computes what.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from qwix._src import aux_data
from qwix._src import interception
from qwix._src.core import qarray
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

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

Array = jax.Array


def minmax_with_zero(array: Array) -> dict[str, Array]:
  """Returns the extremes, 0 among them."""
  return {
    'min': jnp.minimum(jnp.min(array), 0.0).astype(jnp.float32),
    'max': jnp.maximum(jnp.max(array), 0.0).astype(jnp.float32),
  }


def _full_name(function: Any) -> str:
  """Returns where Qwix finds a function of ours."""
  return f'{function.__module__}.{function.__qualname__}'


class ProviderBase:
  """Which operator of ours computes which of JAX's; mixed into Qwix's."""

  conv: Callable[..., Any] = ops.Conv
  batch_norm: Callable[..., Any] = ops.BatchNorm
  ufunc: Callable[..., Any] = ops.Ufunc
  hard_swish = activation_ops.HardSwish
  hard_sigmoid = activation_ops.HardSigmoid
  int8_output = False

  def register_operators(self, rules: rules_lib.Rules) -> None:
    """Registers the operators; `rules` says how weights are scaled."""
    self._quantization_rules = rules
    change = lambda op, **more: functools.partial(
      op, requantize=self.requantize, **more
    )
    self._ops.update(  # type: ignore[attr-defined]
      {
        'jax.lax.conv_general_dilated': change(
          self.conv,
          disable_per_channel_weights=rules.weights == 'tensor',
          check_activation=True,
        ),
        'flax.linen.BatchNorm.__call__': change(self.batch_norm),
        'jax.custom_jvp.__call__': ops.Relu,
        'jax.numpy.ufunc.__call__': change(self.ufunc),
        'jax.numpy.concatenate': change(
          layout_ops.Concatenate,
          concat_barrier=self.concat_barrier,
          record_range=self.record_range,
        ),
        'jax.numpy.pad': layout_ops.Pad,
        'jax.numpy.split': layout_ops.Split,
        _full_name(layers.shared_relu): ops.SameScale,
        'jax.nn.hard_swish': change(self.hard_swish),
        'jax.nn.sigmoid': change(activation_ops.Sigmoid),
        'jax.nn.hard_sigmoid': change(self.hard_sigmoid),
        _full_name(attention.ramp): change(self.hard_sigmoid),
        'flax.linen.max_pool': ops.SameScale,
        _full_name(resizing.resize): ops.SameScale,
        _full_name(pooling.bins): ops.SameScale,
        _full_name(pooling.windows): ops.SameScale,
      }
    )

  def get_interceptors(self):
    """Returns Qwix's, with `moves.Bind` among them."""
    _, numerical = super().get_interceptors()  # type: ignore[misc]
    structural = interception.Interceptor(
      mapping={interception.PRIMITIVE_BIND_KEY: layout_ops.LayoutPrimitive()},
      id=hash((id(self), 0)),
    )
    return [lambda: structural, numerical]

  def detach(self, array: Array) -> Array:
    """Returns an array of the same values that is another one to Qwix."""
    return jnp.array(array, copy=True)

  def concat_barrier(self, array: Array) -> Array:
    """Returns a part of what is joined in 16 bits, on its grid."""
    return array

  def record_range(self, array: Array, name: str) -> None:
    """Notes the extremes of what is rounded in parts, where ranges move."""

  def process_model_inputs(self, model: Any, args: Any, kwargs: Any) -> Any:
    """Returns Qwix's, noted as the network's input."""
    found = super().process_model_inputs(model, args, kwargs)  # type: ignore[misc]
    for x in jax.tree.leaves(found[1:]):
      if isinstance(x, jax.Array):
        aux_data.set(x, metadata.MODEL_INPUT, True)
    return found

  def process_model_output(self, method_name: str, model_output: Any) -> Any:
    """Returns Qwix's; of 8 bits, if that is wanted."""
    found = super().process_model_output(method_name, model_output)  # type: ignore[misc]

    def narrowed(x: Any) -> Any:
      rule = aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, None)
      if not metadata.has_int16_activations(rule):
        return x
      return self.requantize(x, dataclasses.replace(rule, act_qtype=jnp.int8))

    return jax.tree.map(narrowed, found) if self.int8_output else found

  def requantize(
    self, array: Array, rule: qwix.QuantizationRule, name: str = ''
  ) -> Array:
    """Returns an array on a grid, in the type of another rule.

    Args:
      array: as it was rounded; others are returned as they are.
      rule: of Qwix, 8 or 16 bits.
      name: of the range; '' is that which the array has.
    """
    grid = aux_data.get(array, metadata.QPARAMS, None)
    if grid is None:
      return array
    key = odml_ops.AuxDataKey
    known = None if name else aux_data.get(array, metadata.REQUANTIZED, None)
    if known is not None:
      return known
    out = self.detach(array)
    total = metadata.get_accumulator(array)
    if total is not None:
      metadata.set_accumulator(out, total.value, total.scale)
    if not name:
      aux_data.set(out, metadata.ASSIGNED_RANGE, grid.value_range)
    how = qarray.HowToQuantize(
      qtype=rule.act_qtype, calibration_method='minmax'
    )
    out = self._fake_quant(out, how, name or 'changed')  # type: ignore[attr-defined]
    aux_data.set(out, key.IS_ACTIVATION, True)
    aux_data.set(out, key.FQ_RULE, rule)
    aux_data.set(out, key.FQ_ARRAY, 'self')
    if not name:
      aux_data.set(array, metadata.REQUANTIZED, out)
    return out

  def weight_scale(self, array: Array, how: qarray.HowToQuantize) -> Array:
    """Returns the scales of a kernel; zero points are 0."""
    absmax = qarray.calibrate(array, how)['absmax']
    rules = self._quantization_rules
    wide = rules.has_int16_activations(
      '/'.join(flax_util.get_current_module_path())
    )
    return qparams.weight_scale(absmax, rules.power_of_two, wide)

  def activation_qparams(
    self, span: tuple[Array, Array], rank: int, known: bool, wide: bool
  ):
    """Returns (scale, zero point) of an activation of some rank.

    A range that is `known` beforehand keeps its own zero: pixels have scale 1.
    """
    low, high = (jnp.reshape(x, (1,) * rank) for x in span)
    power_of_two = self._quantization_rules.power_of_two and not known
    return qparams.activation_qparams(low, high, power_of_two, wide)


def assigned_range(array: Array) -> tuple[Array, Array] | None:
  """Returns the range of what changes its type alone."""
  span: tuple[Array, Array] | None = aux_data.get(
    array, metadata.ASSIGNED_RANGE, None
  )
  return span


def fixed_range(array: Array) -> tuple[Array, Array] | None:
  """Returns the range that is known of an array, such as a soft-max's."""
  known = aux_data.get(array, odml_ops.AuxDataKey.FIXED_RANGE, None)
  return known and (jnp.float32(known[0]), jnp.float32(known[1]))


def record_observation(name: str, value: dict[str, Array]) -> None:
  """Records what a call saw, if anybody wants to know."""
  module = flax_util.get_current_module()
  if module.is_mutable_collection('observed'):
    module.put_variable('observed', name, value)
