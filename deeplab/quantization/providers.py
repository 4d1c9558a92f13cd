"""The network in int8 arithmetic, by Qwix.

An unmodified Linen module is wrapped; Qwix replaces the operators that it
calls. Three networks come out, which differ in what happens to a tensor that
the device holds in int8, and in nothing else:

    observe    it is only looked at: float arithmetic, ranges recorded
    simulate   it is rounded to its int8 grid, and trained through
    lower      it is marked, for the converter to an int8 file

Ranges of activations are the collection 'quant_stats', {'min', 'max'} a tensor,
float32 scalars. What a call sees goes to the collection 'observed', if that is
mutable.

Qwix's own operators and bookkeeping are private to it: its version is pinned.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix
from qwix._src import aux_data
from qwix._src.core import qarray
from qwix._src.providers import odml
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

from deeplab.quantization import rules as rules_lib

Array = jax.Array
PyTree = Any

# Beside Qwix's own notes on an array: the grid it was rounded to; and the step
# of the int32 sum that it is on the device, before that is rounded to int8.
_GRID, _UNIT = 'grid', 'unit'
# Qwix's symmetric scale is absmax / 127.5, and its largest weight saturates.
_WHOLE = f'absmax,{127.5 / 127!r}'
_HISTOGRAM_BINS = 2048


@dataclasses.dataclass(frozen=True)
class Grid:
  """Where an int8 tensor's values lie.

  Attributes:
    scale: of the shape that broadcasts.
    round: the function onto the grid.
  """

  scale: Array
  round: Callable[[Array], Array]


def half_away(x: Array) -> Array:
  """Rounds to whole numbers, halves away from 0, as TFLite's kernels do."""
  return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def requantize(x: Array, unit: Array, scale: Array) -> Array:
  """Returns x / scale, rounded as TFLite's reference kernels do: twice.

  They multiply a sum of steps `unit` by a 31-bit fraction, round, shift right
  and round again. With unit / scale = 0.4 that is to halves and then to whole
  numbers: 0.3 becomes 1.

  Args:
    x: float32 sums.
    unit: their step, of a shape that broadcasts.
    scale: the step of the result.
  """
  _, exponent = jnp.frexp(unit / scale)
  shift = jnp.exp2(jnp.maximum(-exponent, 0).astype(jnp.float32))
  return half_away(jnp.floor(x / scale * shift + 0.5) / shift)


def _scale_of(array: Any) -> Array | None:
  grid = aux_data.get(array, _GRID, None)
  return None if grid is None else grid.scale


def _note_unit(array: Array, unit: Array | None) -> Array:
  if unit is not None:
    aux_data.set(array, _UNIT, unit)
  return array


def _whole(x: Array) -> Array:
  """Rounds what is whole but for the error of a division."""
  return x + jax.lax.stop_gradient(jnp.round(x) - x)


def _whole_units(x: Array, unit: Array) -> Array:
  """Rounds biases to the int32 steps that they are stored in."""
  limit = float(2**31 - 128)
  steps = jnp.round(x / jnp.where(unit > 0, unit, 1.0))
  return x + jax.lax.stop_gradient(jnp.clip(steps, -limit, limit) * unit - x)


class _Conv(odml_ops.DotEinsumConv):
  """A convolution; its dimension numbers may be given as strings."""

  def __call__(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    kwargs['dimension_numbers'] = jax.lax.conv_dimension_numbers(
      x.shape, kernel.shape, kwargs['dimension_numbers']
    )
    return super().__call__(x, kernel, **kwargs)


class _WholeConv(_Conv):
  """A convolution of whole numbers."""

  def _call_original_op(self, x: Array, kernel: Array, **kwargs: Any) -> Array:
    scales = _scale_of(x), _scale_of(kernel)
    if scales[0] is None or scales[1] is None:
      return super()._call_original_op(x, kernel, **kwargs)
    # The sum of whole numbers is exact, also where an accelerator multiplies
    # in bfloat16 by default.
    unit = scales[0] * scales[1]
    x, kernel = _whole(x / scales[0]), _whole(kernel / scales[1])
    out = super()._call_original_op(x, kernel, **kwargs) * unit
    return _note_unit(out, unit)


class _BatchNorm(odml_ops.BatchNorm):
  """BatchNorm, folded into the convolution before it: its shift is a bias."""

  def __call__(self, norm: nn.BatchNorm, x: Array, *args: Any, **kwargs: Any):
    out = super().__call__(norm, x, *args, **kwargs)
    unit = aux_data.get(x, _UNIT, None)
    if unit is None or not norm.use_running_average:
      return out
    params, stats = norm.variables['params'], norm.variables['batch_stats']
    factor = params['scale'] * jax.lax.rsqrt(stats['var'] + norm.epsilon)
    shift = params['bias'] - stats['mean'] * factor
    unit = unit * jnp.abs(jax.lax.stop_gradient(factor))
    error = jax.lax.stop_gradient(_whole_units(shift, unit) - shift)
    rule = aux_data.get(out, odml_ops.AuxDataKey.FQ_RULE, None)
    out = out + error
    aux_data.set(out, odml_ops.AuxDataKey.ALLOW_FUSION, True)
    return _note_unit(self._fake_quant_output(out, rule), unit)


class _Ufunc(odml_ops.UfuncCall):
  """A bias behind a convolution, or a sum, product, ... of activations."""

  def __call__(self, *args: Any, **kwargs: Any) -> Array:
    function, x, *rest = args
    unit = aux_data.get(x, _UNIT, None)
    fused = aux_data.get(x, odml_ops.AuxDataKey.ALLOW_FUSION, False)
    if function.__name__ == 'add' and fused and unit is not None:
      args = function, x, _whole_units(rest[0], unit)
      return _note_unit(super().__call__(*args, **kwargs), unit)
    return super().__call__(*args, **kwargs)

  def _call_original_op(self, *args: Any, **kwargs: Any) -> Array:
    out = super()._call_original_op(*args, **kwargs)
    scales = [_scale_of(x) for x in args[1:]]
    if self._op_name == 'multiply' and None not in scales:
      _note_unit(out, scales[0] * scales[1])
    return out


class _Relu(odml_ops.CustomJvpCall):
  """ReLU and ReLU6, which the operator before them computes."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    out = super().__call__(*args, **kwargs)
    if args[0] not in (jax.nn.relu, jax.nn.relu6):
      return out
    return _note_unit(out, aux_data.get(args[1], _UNIT, None))


class _Concatenate(odml_ops.Concatenate):
  """What is joined is rounded once, by the operators that made the parts."""

  def __call__(self, arrays, *args: Any, **kwargs: Any) -> Array:
    out = super().__call__(arrays, *args, **kwargs)
    # Parts that are all on grids are on several; Qwix takes them for one.
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, None)
    units = [aux_data.get(x, _UNIT, None) for x in arrays]
    if any(unit is None for unit in units):
      return out
    whole = [
      jnp.broadcast_to(unit, (*(1,) * (x.ndim - 1), x.shape[-1]))
      for unit, x in zip(units, arrays, strict=True)
    ]
    return _note_unit(out, jnp.concatenate(whole, axis=-1))


class _SameGrid(odml_ops.QuantizedOp):
  """Resizes and mean values: TFLite gives them one scale for in and out.

  The result is rounded to the grid of the input, as the device does it. What
  is float stays float.
  """

  input_idx = (0,)

  def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Array:
    rule = aux_data.get(x, odml_ops.AuxDataKey.FQ_RULE, None)
    _, name = self._get_rule_and_op_id_fn(self._op_name)
    if rule is None:
      return self._fake_quant_output(
        self._call_original_op(x, *args, **kwargs), None
      )
    x = self._maybe_fake_quant(x, rule, name)
    out = self._call_original_op(x, *args, **kwargs)
    grid = aux_data.get(x, _GRID, None)
    if grid is not None:
      out = grid.round(out)
      aux_data.set(out, _GRID, grid)
      _note_unit(out, grid.scale)
    aux_data.set(out, odml_ops.AuxDataKey.FQ_ARRAY, 'self')
    return self._fake_quant_output(out, rule)


def _range(array: Array) -> dict[str, Array]:
  """Returns the extremes, 0 among them."""
  return {
    'min': jnp.minimum(jnp.min(array), 0.0).astype(jnp.float32),
    'max': jnp.maximum(jnp.max(array), 0.0).astype(jnp.float32),
  }


def _power_of_two(absmax: Array) -> Array:
  # Rounded first: 2^-7 must not become 2^-6 by an error in the last bit.
  exponent = jnp.log2(jnp.maximum(absmax / 127.0, 2.0**-20))
  return jnp.exp2(jnp.ceil(exponent - 1e-6))


def activation_grid(
  low: Array, high: Array, power_of_two: bool
) -> tuple[Array, Array | None]:
  """Returns (scale, zero point) of int8 for a range that holds 0.

  Args:
    low: float32, 0 or less.
    high: float32, 0 or more.
    power_of_two: see `rules.Rules`; the zero point is then None.
  """
  if power_of_two:
    return _power_of_two(jnp.maximum(-low, high)), None
  # LiteRT refuses the factors that smaller scales lead to.
  high = jnp.maximum(high, low + 255 * 2.0**-20)
  return qarray.compute_scale_zero_point({'min': low, 'max': high}, jnp.int8)


class _Shared:
  """What the providers have in common; mixed into Qwix's."""

  conv = _Conv

  def setup(self, rules: rules_lib.Rules) -> None:
    self._power_of_two = rules.power_of_two
    self._ops.update(  # type: ignore[attr-defined]
      {
        'jax.lax.conv_general_dilated': functools.partial(
          self.conv,
          disable_per_channel_weights=rules.weights == 'tensor',
          check_activation=True,
        ),
        'jax.numpy.concatenate': _Concatenate,
        'deeplab.models.resizing.resize': _SameGrid,
        'deeplab.models.pooling.bins': _SameGrid,
        'deeplab.models.pooling.windows': _SameGrid,
      }
    )

  def weight_grid(self, array: Array, how: qarray.HowToQuantize) -> Array:
    """Returns the scales of a kernel; zero points are 0."""
    calibration = qarray.calibrate(array, how)
    if self._power_of_two:
      return _power_of_two(calibration['absmax'] * (127 / 127.5))
    scale, _ = qarray.compute_scale_zero_point(calibration, how.qtype)
    # A dead channel's would be so small that its int32 bias overflows.
    return jnp.maximum(scale, jnp.max(scale) * 2.0**-14)

  def range_grid(self, low: Array, high: Array, rank: int):
    """Returns (scale, zero point) of an activation of some rank."""
    whole = lambda x: jnp.reshape(x, (1,) * rank)
    return activation_grid(whole(low), whole(high), self._power_of_two)


def _fixed(array: Array) -> tuple[Array, Array] | None:
  """Returns the range that is known of an array, such as a soft-max's."""
  known = aux_data.get(array, odml_ops.AuxDataKey.FIXED_RANGE, None)
  return known and (jnp.float32(known[0]), jnp.float32(known[1]))


def _observed(name: str, value: dict[str, Array]) -> None:
  """Records what a call saw, if anybody wants to know."""
  module = flax_util.get_current_module()
  if module.is_mutable_collection('observed'):
    module.put_variable('observed', name, value)


class _Observe(_Shared, odml.OdmlQatProvider):
  """Float arithmetic; records extremes, or histograms within given ranges."""

  histogram = False

  def _fake_quant(self, array, how, quant_stat_name=None):
    if quant_stat_name is None or _fixed(array) is not None:
      return array
    if not self.histogram:
      _observed(quant_stat_name, _range(array))
      return jnp.array(array, copy=True)  # Qwix notes it as another one
    stats = flax_util.get_current_module().get_variable(
      'quant_stats', quant_stat_name
    )
    span = jnp.maximum(stats['max'] - stats['min'], 2.0**-40)
    place = (array - stats['min']) / span * _HISTOGRAM_BINS
    place = jnp.clip(place.astype(jnp.int32), 0, _HISTOGRAM_BINS - 1)
    counts = jnp.zeros(_HISTOGRAM_BINS, jnp.int32).at[place.ravel()].add(1)
    _observed(quant_stat_name, {'counts': counts})
    return jnp.array(array, copy=True)


class _Simulate(_Shared, odml.OdmlQatProvider):
  """Rounds to int8 and back; gradients pass as if it did not."""

  conv = _WholeConv

  def setup(self, rules: rules_lib.Rules) -> None:
    super().setup(rules)
    self._ops.update(
      {
        'flax.linen.BatchNorm.__call__': _BatchNorm,
        'jax.custom_jvp.__call__': _Relu,
        'jax.numpy.ufunc.__call__': _Ufunc,
      }
    )

  def _fake_quant(self, array, how, quant_stat_name=None):
    if quant_stat_name is None:
      scale, zero_point = self.weight_grid(array, how), None
    else:
      known = _fixed(array)
      if known is None:
        _observed(quant_stat_name, jax.lax.stop_gradient(_range(array)))
        stats = flax_util.get_or_create_variable(
          'quant_stats',
          quant_stat_name,
          lambda: {'min': jnp.float32(0), 'max': jnp.float32(0)},
        ).value
        known = stats['min'], stats['max']
      scale, zero_point = self.range_grid(*known, array.ndim)
    scale = jax.lax.stop_gradient(scale)
    zero = 0.0 if zero_point is None else zero_point.astype(jnp.float32)
    first = -127 if quant_stat_name is None else -128

    def fit(x: Array, steps: Array) -> Array:
      inside = jnp.clip(x, (first - zero) * scale, (127 - zero) * scale)
      whole = jnp.clip(steps + zero, first, 127)
      return inside + jax.lax.stop_gradient((whole - zero) * scale - inside)

    def around(x: Array) -> Array:
      # Integers are rounded about their own 0, not that of the values; a half
      # is one in spite of float32's error.
      steps = x / scale + zero
      return fit(x, half_away(steps + 1e-4 * jnp.sign(steps)) - zero)

    unit = aux_data.get(array, _UNIT, None)
    if quant_stat_name is None or unit is None:
      out = fit(array, jnp.round(array / scale))
    else:
      out = fit(array, requantize(array, unit, scale))
    aux_data.set(out, _GRID, Grid(scale, around))
    return out


class _Lower(_Shared, odml.OdmlConversionProvider):
  """Marks tensors with the scales that the simulation rounds by."""

  def _fake_quant(self, array, how, quant_stat_name=None):
    with jax.ensure_compile_time_eval():
      path = flax_util.get_current_module_path()
      if quant_stat_name is None:
        name = aux_data.get(array, odml_ops.AuxDataKey.WEIGHT_NAME)
        kernel = self._flatten_params[(*path, name)]
        scale = self.weight_grid(jnp.reshape(kernel, array.shape), how)
        zero_point = None
      else:
        known = _fixed(array)
        if known is None:
          stats = functools.reduce(lambda x, key: x[key], path, self._quant_stats)
          stats = stats[quant_stat_name]
          known = jnp.float32(stats['min']), jnp.float32(stats['max'])
        scale, zero_point = self.range_grid(*known, array.ndim)
      attributes = self._get_attributes(
        scale=scale,
        zp=zero_point,
        dtype=how.qtype,
        is_weight=quant_stat_name is None,
      )

    @functools.partial(jax.lax.composite, name='quant.fake_quant')
    def mark(x, **_):
      return qarray.dequantize(
        qarray.quantize_with_scale_zero_point(x, how.qtype, scale, zero_point)
      )

    out = mark(array, **attributes)
    aux_data.set(out, _GRID, Grid(scale, lambda x: mark(x, **attributes)))
    return out


def _qwix_rules(rules: rules_lib.Rules) -> list[qwix.QuantizationRule]:
  """Returns Qwix's rules; the first whose path fits holds."""
  return [
    qwix.QuantizationRule(module_path=rules.stays_float),
    qwix.QuantizationRule(
      module_path='.*',
      weight_qtype=jnp.int8,
      weight_calibration_method=_WHOLE,
      act_qtype=jnp.int8,
      act_static_scale=True,
    ),
  ]


def observe(
  model: nn.Module, rules: rules_lib.Rules, histogram: bool = False
) -> nn.Module:
  """Returns the network that records what `simulate` would round.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: what is quantised.
    histogram: 'observed' holds `counts` [2048] int32 a tensor, of equal bins
      between the extremes in 'quant_stats', instead of extremes.
  """
  provider = _Observe(_qwix_rules(rules))
  provider.setup(rules)
  provider.histogram = histogram
  return qwix.quantize_model(model, provider)


def simulate(
  model: nn.Module,
  rules: rules_lib.Rules,
  input_range: tuple[float, float] | None = None,
) -> nn.Module:
  """Returns the network in simulated int8 arithmetic.

  Its variables are those of the model and 'quant_stats'.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: what is quantised.
    input_range: what the images hold, where that is known.
  """
  provider = _Simulate(
    _qwix_rules(rules), fixed_range_for_inputs=input_range
  )
  provider.setup(rules)
  return qwix.quantize_model(model, provider)


def lower(
  model: nn.Module,
  rules: rules_lib.Rules,
  variables: PyTree,
  input_range: tuple[float, float] | None = None,
) -> nn.Module:
  """Returns the network whose tensors are marked for the converter.

  It is to be traced with these variables as `jax.Array`s, and computes what
  `simulate` computes.

  Args:
    model: built with depthwise and pointwise 'conv'.
    rules: what is quantised.
    variables: {'params', 'batch_stats', 'quant_stats'}.
    input_range: what the images hold, where that is known.
  """
  provider = _Lower(
    _qwix_rules(rules),
    variables['params'],
    variables['quant_stats'],
    fixed_range_for_inputs=input_range,
  )
  provider.setup(rules)
  return qwix.quantize_model(model, provider)
