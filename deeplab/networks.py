"""The network that a config trains and evaluates: float, or int8 simulated."""

from typing import TYPE_CHECKING
from typing import Any

from deeplab import parallel
from deeplab.data import image_format
from deeplab.models import registry
from deeplab.quantization import pixel_input
from deeplab.quantization import rules as rules_lib
from deeplab.quantization import snapping
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.training import limits

if TYPE_CHECKING:
  # Only named here: a machine without it can still build modules.
  from ml_collections import ConfigDict

QUANTIZATION_NAMES = ('none', 'int8')
# What Qwix recognises, whose notes on arrays end where computing again begins;
# and what exports hold.
PLAIN_CONV_OPTIONS: dict[str, Any] = {
  'depthwise': 'conv',
  'pointwise': 'conv',
  'remat': 0,
}


def is_int8(config: 'ConfigDict') -> bool:
  """Returns whether a run trains in simulated int8.

  Args:
    config: the experiment; without `quantization` it is a float one.

  Raises:
    ValueError: `quantization.name` is unknown.
  """
  name = config.get('quantization', {'name': 'none'})['name']
  if name not in QUANTIZATION_NAMES:
    raise ValueError(
      f'config.quantization.name={name!r} is not one of {QUANTIZATION_NAMES}'
    )
  return name != 'none'


def check_config(config: 'ConfigDict') -> None:
  """Refuses a quantised run that cannot be.

  Raises:
    ValueError: which field to change.
  """
  if not is_int8(config):
    return
  q = config.quantization
  if not config.init_from:
    raise ValueError(
      "config.quantization.name='int8' trains on from float weights: set "
      'config.init_from to the work directory of a float run'
    )
  if rules_lib.from_config(q).weights != 'channel':
    raise ValueError(
      f'config.quantization.weights={q.weights!r}: training keeps one scale a '
      "channel; use 'channel' here, or export a float run with "
      f'--weights={q.weights}'
    )
  if not 0 <= q.range_decay < 1 or q.range_steps < 0:
    raise ValueError(
      f'config.quantization.range_decay={q.range_decay} must lie in [0, 1) and '
      f'range_steps={q.range_steps} be 0 or more'
    )
  if config.model.dtype != 'float32':
    raise ValueError(
      f'config.model.dtype={config.model.dtype!r}: int8 is simulated in '
      'float32; set that'
    )
  if config.model.remat:
    raise ValueError(
      f'config.model.remat={config.model.remat}: int8 is simulated without it; '
      'set 0, and accumulate_steps where memory is short'
    )


def conv_kernels(config: 'ConfigDict') -> dict[str, Any]:
  """Returns how `providers.simulate_int8` computes convolutions here."""
  own = {k: config.model[k] for k in ('depthwise', 'pointwise')}
  return own | parallel.kernels()


def build_model(
  config: 'ConfigDict',
  num_classes: int,
  *,
  axis_name: str | None = None,
  output_stride: int = 0,
) -> Any:
  """Returns the network of a config, for the platform at hand.

  In simulated int8 its variables hold 'quant_stats' besides; see `providers`.

  Args:
    config: the experiment.
    num_classes: number of classes.
    axis_name: as for `registry.build_model`.
    output_stride: as for `registry.with_output_stride`.

  Raises:
    ValueError: as `registry.build_model`, and for unknown fields of
      quantisation.
  """
  network = registry.with_output_stride(config.model, output_stride)
  if not is_int8(config):
    return registry.build_model(
      network,
      num_classes,
      axis_name=axis_name,
      frozen_norms=limits.has_frozen_batch_norm(config),
      **parallel.kernels(),
    )
  model = registry.build_model(
    network,
    num_classes,
    axis_name=axis_name,
    frozen_norms=limits.has_frozen_batch_norm(config),
    **PLAIN_CONV_OPTIONS,
  )
  return _simulate_int8(config, model)


def _simulate_int8(config: 'ConfigDict', model: Any, *input_range: Any) -> Any:
  from deeplab.quantization.simulator import providers  # Qwix may be absent

  rules = rules_lib.from_config(config.quantization)
  return providers.simulate_int8(
    model, rules, *input_range, **conv_kernels(config)
  )


def eval_model(
  config: 'ConfigDict', num_classes: int, output_stride: int = 0
) -> Any:
  """Returns the network whose scores are those of a config.

  A float one is that of `build_model`. Simulated int8 is the network as it
  stands in a file, which takes images as they are: what they are normalised to
  is rounded to int8 there, too.

  Args:
    config: the experiment.
    num_classes: number of classes.
    output_stride: as for `registry.with_output_stride`.

  Raises:
    ValueError: as `build_model`.
  """
  if not is_int8(config):
    return build_model(config, num_classes, output_stride=output_stride)
  network = registry.with_output_stride(config.model, output_stride)
  pixels = image_format.image_spec(config.data)
  model = pixel_input.with_input_normalization(
    registry.build_model(network, num_classes, **PLAIN_CONV_OPTIONS),
    rules_lib.from_config(config.quantization),
    pixels.channels,
  )
  return _simulate_int8(config, model, (0.0, float(pixels.max_value)))


def fold_and_round(
  config: 'ConfigDict', num_classes: int, variables: Any
) -> Any:
  """Returns variables as a network of `build_model` is evaluated, and exported.

  In simulated int8 kernels lie on their grid and BatchNorms are folded into
  them, as in the file: the same numbers to the last bit, where a value in
  between two steps would go to either. Those of float networks stay as they
  are.

  Args:
    config: the experiment.
    num_classes: number of classes.
    variables: {'params', 'batch_stats', ...}.
  """
  if not is_int8(config):
    return variables
  return batch_norm_folding.fold_batch_norms(
    registry.build_model(config.model, num_classes, **PLAIN_CONV_OPTIONS),
    snapping.round_to_qparams(
      variables, rules_lib.from_config(config.quantization)
    ),
    len(config.data.mean),
  )


def add_input_normalization(config: 'ConfigDict', variables: Any) -> Any:
  """Returns the result of `fold_and_round` as variables of `eval_model`."""
  if not is_int8(config):
    return variables
  return pixel_input.add_normalization_layer(
    variables, config.data.mean, config.data.std
  )


def eval_variables(
  config: 'ConfigDict', num_classes: int, variables: Any
) -> Any:
  """Returns variables of a run for the network of `eval_model`."""
  return add_input_normalization(
    config, fold_and_round(config, num_classes, variables)
  )
