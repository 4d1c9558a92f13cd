"""Four networks in int8, made from an unmodified Linen module by Qwix.

Qwix replaces the functions that the module calls by int8 operators. The four
differ only in what happens to a tensor that the device holds in int8:

    observe_ranges        stays float; its range or histogram is recorded
    simulate_int8         is rounded as on the device; gradients pass through
    add_int8_switches     is rounded or not, as its module's switch says
    mark_for_conversion   is marked with its scale for litert-converter

Activation ranges are the collection 'quant_stats', {'min', 'max'} for each
tensor, float32 scalars. Ranges that a call observes go to the collection
'observed' if that is mutable.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from deeplab.quantization import fixed_point
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.simulator import activation_ops
from deeplab.quantization.simulator import metadata
from deeplab.quantization.simulator import ops
from deeplab.quantization.simulator import provider_base
from deeplab.quantization.simulator import qwix_compat

Array = jax.Array
PyTree = Any

_HISTOGRAM_BINS = 2048


class _ObservingProvider(
  provider_base.ProviderBase, qwix_compat.TrainingProvider
):
  """Computes in float; records extremes, or histograms within given ranges."""

  histogram = False

  def _fake_quant(self, array, how, quant_stat_name=None):
    if quant_stat_name is None or provider_base.fixed_range(array) is not None:
      return array
    if not self.histogram:
      int16 = jnp.bool_(how.qtype == jnp.int16)
      observed = {**provider_base.minmax_with_zero(array), 'int16': int16}
      provider_base.record_observation(quant_stat_name, observed)
      return self.detach(array)
    stats = qwix_compat.current_module().get_variable(
      'quant_stats', quant_stat_name
    )
    width = jnp.maximum(stats['max'] - stats['min'], 2.0**-40)
    index = (array - stats['min']) / width * _HISTOGRAM_BINS
    index = jnp.clip(index.astype(jnp.int32), 0, _HISTOGRAM_BINS - 1)
    counts = jnp.zeros(_HISTOGRAM_BINS, jnp.int32).at[index.ravel()].add(1)
    provider_base.record_observation(quant_stat_name, {'counts': counts})
    return self.detach(array)


class _SimulatingProvider(
  provider_base.ProviderBase, qwix_compat.TrainingProvider
):
  """Rounds tensors as the device does; gradients pass straight through."""

  batch_norm = functools.partial(ops.BatchNorm, conv=ops.IntegerConv)
  ufunc = ops.IntegerUfunc
  hard_swish = activation_ops.IntegerHardSwish
  hard_sigmoid = activation_ops.IntegerHardSigmoid

  def record_range(self, array: Array, name: str) -> None:
    """Observes minimum and maximum of an array."""
    provider_base.record_observation(
      name, jax.lax.stop_gradient(provider_base.minmax_with_zero(array))
    )

  def _fake_quant(self, array, how, quant_stat_name=None):
    is_weight = quant_stat_name is None
    value_range, int16 = None, how.qtype == jnp.int16
    if is_weight:
      scale, zero_point = self.weight_scale(array, how), None
    else:
      fixed = provider_base.fixed_range(array)
      value_range = provider_base.assigned_range(array) or fixed
      if value_range is None:
        self.record_range(array, quant_stat_name)
        value_range = self._get_or_init_range(quant_stat_name)
      scale, zero_point = self.activation_qparams(
        value_range, array.ndim, fixed is not None, int16
      )
    scale = jax.lax.stop_gradient(scale)
    zero = 0.0 if zero_point is None else zero_point
    largest = 2**15 - 1 if int16 else 127
    smallest = -largest if is_weight else -largest - 1

    def fake_quant(x: Array, steps: Array) -> Array:
      """Clips x and steps, integers without zero point; gradients are x's."""
      clipped = jnp.clip(x, (smallest - zero) * scale, (largest - zero) * scale)
      integers = jnp.clip(steps.astype(scale.dtype) + zero, smallest, largest)
      return metadata.straight_through((integers - zero) * scale, clipped)

    steps = self._round(array, scale, is_weight)
    out = fake_quant(array, steps)
    qwix_compat.set_metadata(
      out,
      metadata.QPARAMS,
      metadata.QuantParams(
        scale,
        lambda x, integers: fake_quant(x, integers - zero),
        zero,
        value_range,
        int16 and not is_weight,
      ),
    )
    return out

  def _get_or_init_range(self, name: str) -> provider_base.Range:
    # Parts of a concatenation share one range, which may be there already.
    module = qwix_compat.current_module()
    if not module.has_variable('quant_stats', name):
      module.put_variable(
        'quant_stats', name, {'min': jnp.float32(0), 'max': jnp.float32(0)}
      )
    stats = module.get_variable('quant_stats', name)
    return stats['min'], stats['max']

  def _round(self, array: Array, scale: Array, is_weight: bool) -> Array:
    """Returns array / scale, rounded as the operator's kernel rounds it."""
    kernel = metadata.get_output_kernel(array)
    if kernel is not None:
      return kernel(scale)
    accumulator = metadata.get_accumulator(array)
    if is_weight or accumulator is None:
      steps = fixed_point.to_float64(array) / fixed_point.to_float64(scale)
      return (
        fixed_point.round_half_away(steps) if is_weight else jnp.round(steps)
      )
    # `value` is a multiple of `scale` up to the last bits of a compiled
    # graph, which would otherwise decide ties.
    integers = jnp.round(
      accumulator.value
      / jnp.where(accumulator.scale > 0, accumulator.scale, 1.0)
    )
    multiply = (
      fixed_point.multiply_int64_by_quantized_multiplier
      if accumulator.int64
      else fixed_point.multiply_by_quantized_multiplier
    )
    steps = multiply(
      integers, accumulator.scale / fixed_point.to_float64(scale)
    )
    if accumulator.clamp_max is not None:
      clamp_max = fixed_point.round_half_away(
        accumulator.clamp_max / fixed_point.to_float64(scale)
      )
      steps = jnp.minimum(steps, clamp_max)
    return steps


class _SwitchingProvider(
  provider_base.ProviderBase, qwix_compat.TrainingProvider
):
  """Rounds tensors of modules whose switch is on, up to an occasional LSB."""

  def _fake_quant(self, array, how, quant_stat_name=None):
    module = qwix_compat.current_module()
    on = module.get_variable('switches', 'on')
    zero: Any = 0.0
    smallest = -127
    if quant_stat_name is None:
      scale = self.weight_scale(array, how)
    else:
      value_range = fixed = provider_base.fixed_range(array)
      if value_range is None:
        stats = module.get_variable('quant_stats', quant_stat_name)
        value_range = stats['min'], stats['max']
      scale, zero_point = self.activation_qparams(
        value_range, array.ndim, fixed is not None, False
      )
      zero = 0.0 if zero_point is None else zero_point
      smallest = -128
    integers = jnp.clip(jnp.round(array / scale) + zero, smallest, 127)
    return jnp.where(on > 0, (integers - zero) * scale, array)


class _ConversionProvider(
  provider_base.ProviderBase, qwix_compat.ConversionProvider
):
  """Marks tensors with the scales that the simulation rounds to."""

  hard_sigmoid = activation_ops.LoweredHardSigmoid

  def detach(self, array: Array) -> Array:
    """Returns an array of the same values behind a FLOOR.

    The converter would merge two marks in a row into one. It keeps the FLOOR,
    which `export/convert/mixed_precision.py` replaces by a QUANTIZE.
    """
    return jax.lax.floor(array)

  # The converter has no 16-bit CONCATENATION.
  concat_barrier = detach

  def bind_constants(self, variables: PyTree) -> None:
    """Gives operators the values of BatchNorm, whose own are traced.

    Args:
      variables: {'params', 'batch_stats', ...}.
    """
    name = 'flax.linen.BatchNorm.__call__'
    constants = {k: variables[k] for k in ('params', 'batch_stats')}
    self._ops[name] = functools.partial(self._ops[name], constants=constants)

  def _fake_quant(self, array, how, quant_stat_name=None):
    value_range, int16 = None, how.qtype == jnp.int16
    is_weight = quant_stat_name is None
    with jax.ensure_compile_time_eval():
      path = qwix_compat.current_module_path()
      if is_weight:
        name = qwix_compat.get_metadata(array, qwix_compat.WEIGHT_NAME)
        kernel = array
        if isinstance(array, jax.core.Tracer):
          kernel = self._flatten_params[(*path, name)]
        scale = self.weight_scale(jnp.reshape(kernel, array.shape), how)
        zero_point = None
      else:
        fixed = provider_base.fixed_range(array)
        value_range = provider_base.assigned_range(array) or fixed
        if value_range is None:
          stats = functools.reduce(
            lambda x, key: x[key], path, self._quant_stats
          )
          stats = stats[quant_stat_name]
          value_range = jnp.float32(stats['min']), jnp.float32(stats['max'])
        scale, zero_point = self.activation_qparams(
          value_range, array.ndim, fixed is not None, int16
        )
      attributes = self._get_attributes(
        scale=scale,
        zp=zero_point,
        dtype=jnp.int8,  # Qwix has no other
        is_weight=is_weight,
      )
      attributes['dtype'] = 'i16' if int16 else 'i8'

    @functools.partial(jax.lax.composite, name='quant.fake_quant')
    def mark(x, **_):
      zero = 0.0 if zero_point is None else zero_point
      limits = jnp.iinfo(how.qtype)
      integers = jnp.round(x / scale) + zero
      return (jnp.clip(integers, limits.min, limits.max) - zero) * scale

    out = mark(array, **attributes)
    qwix_compat.set_metadata(
      out,
      metadata.QPARAMS,
      metadata.QuantParams(
        scale,
        lambda x, _: mark(x, **attributes),
        value_range=value_range,
        int16=int16,
      ),
    )
    return out


def _qwix_rules(rules: rules_lib.Rules) -> list[qwix_compat.QuantizationRule]:
  """Returns Qwix's rules; the first that matches a module's path applies."""

  def rule(path: str, activations: Any) -> qwix_compat.QuantizationRule:
    return qwix_compat.QuantizationRule(
      module_path=path,
      weight_qtype=jnp.int8,
      weight_calibration_method='absmax',
      act_qtype=activations,
      act_static_scale=True,
    )

  return [
    qwix_compat.QuantizationRule(module_path=rules.float_pattern),
    rule('normalize', jnp.int8),  # it reads pixels of 8 bits
    *([rule(rules.wide_layers, jnp.int16)] if rules.wide_layers else []),
    rule('.*', jnp.int8),
  ]


def observe_ranges(
  model: nn.Module, rules: rules_lib.Rules, histogram: bool = False
) -> nn.Module:
  """Returns the network that records the tensors `simulate_int8` would round.

  It computes in float. For each tensor the collection 'observed' holds {'min',
  'max', 'int16'}: extremes with 0 among them, and True for 16 bits.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: the layers that are quantized.
    histogram: 'observed' holds {'counts': int32 [2048]} instead, in equal bins
      between the extremes in 'quant_stats'.
  """
  provider = _ObservingProvider(_qwix_rules(rules))
  provider.register_operators(rules)
  provider.histogram = histogram
  return qwix_compat.quantize_model(model, provider)


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
    model: built with depthwise and pointwise 'conv', the only ones that Qwix
      recognizes.
    rules: the layers that are quantized.
    input_range: smallest and largest value of images, if known.
    depthwise: kernel by which depthwise convolutions are computed all the same,
      'conv' or 'shifted'. The integer sums are equal.
    pointwise: kernel by which 1x1 convolutions are computed all the same,
      'conv' or 'matmul'.
    int8_output: True to requantize logits of 16 bits to 8.
  """
  provider = _SimulatingProvider(
    _qwix_rules(rules), fixed_range_for_inputs=input_range
  )
  provider.int8_output = int8_output
  provider.conv = functools.partial(
    ops.IntegerConv, depthwise=depthwise, pointwise=pointwise
  )
  provider.register_operators(rules)
  return qwix_compat.quantize_model(model, provider)


def add_int8_switches(model: nn.Module, rules: rules_lib.Rules) -> nn.Module:
  """Returns the network whose modules are float or int8, one by one.

  Its variables are those of `simulate_int8` and 'switches': {'on': 0 or 1} at
  the path of each module that has ranges.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: the layers that are quantized at most.

  Raises:
    ValueError: the rules have 16-bit activations.
  """
  if rules.wide_layers:
    raise ValueError(
      f'wide_layers={rules.wide_layers!r}: switches turn 8-bit layers on and '
      'off; leave wide_layers empty'
    )
  provider = _SwitchingProvider(_qwix_rules(rules))
  provider.register_operators(rules)
  return qwix_compat.quantize_model(model, provider)


def mark_for_conversion(
  model: nn.Module,
  rules: rules_lib.Rules,
  variables: PyTree,
  input_range: tuple[float, float] | None = None,
  int8_output: bool = False,
) -> nn.Module:
  """Returns the network whose tensors are marked for litert-converter.

  The file that is converted from it computes what `simulate_int8` computes. It
  has to be traced with these variables as `jax.Array`s.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: the layers that are quantized.
    variables: {'params', 'batch_stats', 'quant_stats'}.
    input_range: smallest and largest value of images, if known.
    int8_output: True to requantize logits of 16 bits to 8.
  """
  provider = _ConversionProvider(
    _qwix_rules(rules),
    variables['params'],
    variables['quant_stats'],
    fixed_range_for_inputs=input_range,
  )
  provider.int8_output = int8_output
  provider.register_operators(rules)
  provider.bind_constants(variables)
  return qwix_compat.quantize_model(model, provider)
