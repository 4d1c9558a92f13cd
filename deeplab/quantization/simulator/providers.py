"""The network in int8 arithmetic, by Qwix.

An unmodified Linen module is wrapped; Qwix replaces the operators that it
calls. Four networks come out, which differ in what happens to a tensor that
the device holds in int8, and in nothing else:

    observe    it is only looked at: float arithmetic, ranges recorded
    simulate   it is rounded to its int8 grid, and trained through
    switch     it is rounded, or not, as its module's switch says
    lower      it is marked, for the converter to an int8 file

Ranges of activations are the collection 'quant_stats', {'min', 'max'} a tensor,
float32 scalars. What a call sees goes to the collection 'observed', if that is
mutable.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix
from qwix._src import aux_data
from qwix._src.providers import odml
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

from deeplab.quantization import fixed_point
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.simulator import activation_ops
from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import ops
from deeplab.quantization.simulator import provider_base

Array = jax.Array
PyTree = Any

_HISTOGRAM_BINS = 2048


class _ObservingProvider(provider_base.ProviderBase, odml.OdmlQatProvider):
  """Float arithmetic; records extremes, or histograms within given ranges."""

  histogram = False

  def _fake_quant(self, array, how, quant_stat_name=None):
    if quant_stat_name is None or provider_base.fixed_range(array) is not None:
      return array
    if not self.histogram:
      wide = jnp.bool_(how.qtype == jnp.int16)
      seen = {**provider_base.minmax_with_zero(array), 'wide': wide}
      provider_base.record_observation(quant_stat_name, seen)
      return jnp.array(array, copy=True)  # Qwix notes it as another one
    stats = flax_util.get_current_module().get_variable(
      'quant_stats', quant_stat_name
    )
    span = jnp.maximum(stats['max'] - stats['min'], 2.0**-40)
    place = (array - stats['min']) / span * _HISTOGRAM_BINS
    place = jnp.clip(place.astype(jnp.int32), 0, _HISTOGRAM_BINS - 1)
    counts = jnp.zeros(_HISTOGRAM_BINS, jnp.int32).at[place.ravel()].add(1)
    provider_base.record_observation(quant_stat_name, {'counts': counts})
    return jnp.array(array, copy=True)


class _SimulatingProvider(provider_base.ProviderBase, odml.OdmlQatProvider):
  """Rounds to int8 and back; gradients pass as if it did not."""

  batch_norm = functools.partial(ops.BatchNorm, conv=ops.IntegerConv)
  ufunc = ops.IntegerUfunc
  hard_swish = activation_ops.IntegerHardSwish
  hard_sigmoid = activation_ops.IntegerHardSigmoid

  def record_range(self, array: Array, name: str) -> None:
    """Notes the extremes of what is rounded in parts."""
    provider_base.record_observation(
      name, jax.lax.stop_gradient(provider_base.minmax_with_zero(array))
    )

  def _fake_quant(self, array, how, quant_stat_name=None):
    weight = quant_stat_name is None
    span, wide = None, how.qtype == jnp.int16
    if weight:
      scale, zero_point = self.weight_scale(array, how), None
    else:
      known = provider_base.fixed_range(array)
      span = provider_base.assigned_range(array) or known
      if span is None:
        self.record_range(array, quant_stat_name)
        # Parts of what is joined have one range, which is there already.
        module = flax_util.get_current_module()
        if not module.has_variable('quant_stats', quant_stat_name):
          module.put_variable(
            'quant_stats',
            quant_stat_name,
            {'min': jnp.float32(0), 'max': jnp.float32(0)},
          )
        stats = module.get_variable('quant_stats', quant_stat_name)
        span = stats['min'], stats['max']
      scale, zero_point = self.activation_qparams(
        span, array.ndim, known is not None, wide
      )
    scale = jax.lax.stop_gradient(scale)
    zero = 0.0 if zero_point is None else zero_point
    last = 2**15 - 1 if wide else 127
    first = -last if weight else -last - 1

    def fit(x: Array, steps: Array) -> Array:
      inside = jnp.clip(x, (first - zero) * scale, (last - zero) * scale)
      whole = jnp.clip(steps.astype(scale.dtype) + zero, first, last)
      return metadata.straight_through((whole - zero) * scale, inside)

    def around(x: Array, steps: Array) -> Array:
      return fit(x, steps - zero)

    total, kernel = (
      metadata.get_accumulator(array),
      metadata.get_output_kernel(array),
    )
    if kernel is not None:
      out = fit(array, kernel(scale))
    elif weight or total is None:
      steps = fixed_point.to_float64(array) / fixed_point.to_float64(scale)
      out = fit(
        array,
        fixed_point.round_half_away(steps) if weight else jnp.round(steps),
      )
    else:
      # Rounded, or a compiled graph's last bit decides what is a half.
      whole = jnp.round(
        total.value / jnp.where(total.scale > 0, total.scale, 1.0)
      )
      multiply = (
        fixed_point.multiply_int64_by_quantized_multiplier
        if total.int64
        else fixed_point.multiply_by_quantized_multiplier
      )
      steps = multiply(whole, total.scale / fixed_point.to_float64(scale))
      if total.clamp_max is not None:
        top = fixed_point.round_half_away(
          total.clamp_max / fixed_point.to_float64(scale)
        )
        steps = jnp.minimum(steps, top)
      out = fit(array, steps)
    grid = metadata.QuantParams(scale, around, zero, span, wide and not weight)
    aux_data.set(out, metadata.QPARAMS, grid)
    return out


class _SwitchingProvider(provider_base.ProviderBase, odml.OdmlQatProvider):
  """Rounds where a module's switch is on; to the grids, not to the last bit."""

  def _fake_quant(self, array, how, quant_stat_name=None):
    module = flax_util.get_current_module()
    on = module.get_variable('switches', 'on')
    zero, lowest = 0.0, -127
    if quant_stat_name is None:
      scale = self.weight_scale(array, how)
    else:
      span = known = provider_base.fixed_range(array)
      if span is None:
        stats = module.get_variable('quant_stats', quant_stat_name)
        span = stats['min'], stats['max']
      scale, zero_point = self.activation_qparams(
        span, array.ndim, known is not None, False
      )
      zero, lowest = 0.0 if zero_point is None else zero_point, -128
    steps = jnp.clip(jnp.round(array / scale) + zero, lowest, 127)
    return jnp.where(on > 0, (steps - zero) * scale, array)


class _LoweringProvider(
  provider_base.ProviderBase, odml.OdmlConversionProvider
):
  """Marks tensors with the scales that the simulation rounds by."""

  hard_sigmoid = activation_ops.LoweredHardSigmoid

  def detach(self, array: Array) -> Array:
    """Returns what the converter leaves as it is; see `widths`."""
    # Two marks behind each other would be one to it.
    return jax.lax.floor(array)

  # It knows no CONCATENATION of 16 bits.
  concat_barrier = detach

  def bind_constants(self, variables: PyTree) -> None:
    """Names the values of what is traced."""
    name = 'flax.linen.BatchNorm.__call__'
    constants = {k: variables[k] for k in ('params', 'batch_stats')}
    self._ops[name] = functools.partial(self._ops[name], constants=constants)

  def _fake_quant(self, array, how, quant_stat_name=None):
    span, wide = None, how.qtype == jnp.int16
    with jax.ensure_compile_time_eval():
      path = flax_util.get_current_module_path()
      if quant_stat_name is None:
        name = aux_data.get(array, odml_ops.AuxDataKey.WEIGHT_NAME)
        kernel = array
        if isinstance(array, jax.core.Tracer):
          kernel = self._flatten_params[(*path, name)]
        scale = self.weight_scale(jnp.reshape(kernel, array.shape), how)
        zero_point = None
      else:
        known = provider_base.fixed_range(array)
        span = provider_base.assigned_range(array) or known
        if span is None:
          stats = functools.reduce(
            lambda x, key: x[key], path, self._quant_stats
          )
          stats = stats[quant_stat_name]
          span = jnp.float32(stats['min']), jnp.float32(stats['max'])
        scale, zero_point = self.activation_qparams(
          span, array.ndim, known is not None, wide
        )
      attributes = self._get_attributes(
        scale=scale,
        zp=zero_point,
        dtype=jnp.int8,  # the one that Qwix knows
        is_weight=quant_stat_name is None,
      )
      attributes['dtype'] = 'i16' if wide else 'i8'

    @functools.partial(jax.lax.composite, name='quant.fake_quant')
    def mark(x, **_):
      zero = 0.0 if zero_point is None else zero_point
      limits = jnp.iinfo(how.qtype)
      steps = jnp.round(x / scale) + zero
      return (jnp.clip(steps, limits.min, limits.max) - zero) * scale

    out = mark(array, **attributes)
    aux_data.set(
      out,
      metadata.QPARAMS,
      metadata.QuantParams(
        scale, lambda x, _: mark(x, **attributes), value_range=span, int16=wide
      ),
    )
    return out


def _qwix_rules(rules: rules_lib.Rules) -> list[qwix.QuantizationRule]:
  """Returns Qwix's rules; the first whose path fits holds."""

  def rule(path: str, activations: Any) -> qwix.QuantizationRule:
    return qwix.QuantizationRule(
      module_path=path,
      weight_qtype=jnp.int8,
      weight_calibration_method='absmax',
      act_qtype=activations,
      act_static_scale=True,
    )

  return [
    qwix.QuantizationRule(module_path=rules.float_pattern),
    rule('normalize', jnp.int8),  # it reads pixels of 8 bits
    *([rule(rules.wide_layers, jnp.int16)] if rules.wide_layers else []),
    rule('.*', jnp.int8),
  ]


def observe_ranges(
  model: nn.Module, rules: rules_lib.Rules, histogram: bool = False
) -> nn.Module:
  """Returns the network that records what `simulate_int8` would round.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: what is quantised.
    histogram: 'observed' holds `counts` [2048] int32 a tensor, of equal bins
      between the extremes in 'quant_stats', instead of extremes.
  """
  provider = _ObservingProvider(_qwix_rules(rules))
  provider.register_operators(rules)
  provider.histogram = histogram
  return qwix.quantize_model(model, provider)


def simulate_int8(
  model: nn.Module,
  rules: rules_lib.Rules,
  input_range: tuple[float, float] | None = None,
  depthwise: str = 'conv',
  pointwise: str = 'conv',
  int8_output: bool = False,
) -> nn.Module:
  """Returns the network in simulated int8 arithmetic.

  Its variables are those of the model and 'quant_stats'.

  Args:
    model: built with depthwise and pointwise 'conv', which Qwix recognises.
    rules: what is quantised.
    input_range: what the images hold, where that is known.
    depthwise: how its depthwise convolutions are computed in spite of that; see
      `layers.Options`. The sums are the same.
    pointwise: likewise.
    int8_output: logits of 16 bits become 8.
  """
  provider = _SimulatingProvider(
    _qwix_rules(rules), fixed_range_for_inputs=input_range
  )
  provider.int8_output = int8_output
  provider.conv = functools.partial(
    ops.IntegerConv, depthwise=depthwise, pointwise=pointwise
  )
  provider.register_operators(rules)
  return qwix.quantize_model(model, provider)


def add_int8_switches(model: nn.Module, rules: rules_lib.Rules) -> nn.Module:
  """Returns the network whose modules are float or int8, one by one.

  Its variables are those of `simulate_int8` and 'switches': {'on': 0 or 1} at
  the path of each module that has ranges.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: what is quantised at most.

  Raises:
    ValueError: some of it has 16 bits.
  """
  if rules.wide_layers:
    raise ValueError('switches turn 8 bits on and off: no wide_layers')
  provider = _SwitchingProvider(_qwix_rules(rules))
  provider.register_operators(rules)
  return qwix.quantize_model(model, provider)


def mark_for_conversion(
  model: nn.Module,
  rules: rules_lib.Rules,
  variables: PyTree,
  input_range: tuple[float, float] | None = None,
  int8_output: bool = False,
) -> nn.Module:
  """Returns the network whose tensors are marked for the converter.

  It is to be traced with these variables as `jax.Array`s, and computes what
  `simulate_int8` computes.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: what is quantised.
    variables: {'params', 'batch_stats', 'quant_stats'}.
    input_range: what the images hold, where that is known.
    int8_output: as of `simulate_int8`.
  """
  provider = _LoweringProvider(
    _qwix_rules(rules),
    variables['params'],
    variables['quant_stats'],
    fixed_range_for_inputs=input_range,
  )
  provider.int8_output = int8_output
  provider.register_operators(rules)
  provider.bind_constants(variables)
  return qwix.quantize_model(model, provider)
