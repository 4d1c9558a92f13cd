"""Quantization rules: the choices that the simulation and the file share."""

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  # Only for annotations: modules can be built without ml_collections.
  from ml_collections import ConfigDict

NAMES = ('none', 'int8')
WEIGHT_GRANULARITIES = ('channel', 'tensor')
# Heads that only training has; files do not hold them.
_TRAINING_ONLY_LAYERS = r'(.*/)?auxiliary.*'


@dataclasses.dataclass(frozen=True)
class Rules:
  """The layers that are quantized, and how; same for training and export.

  Weights are int8 with zero point 0. Each activation has one static scale.

  Attributes:
    float_layers: layers that stay float32.
    wide_layers: layers with 16-bit activations.
    weights: 'channel' or 'tensor', the granularity of weight scales.
    power_of_two: True for scales that are powers of two.
  """

  # Which layers. Regular expressions that match whole module paths, such as
  # 'head/.*'; '' matches none. Inputs and outputs of wide layers have 16 bits
  # and zero point 0, their weights 8. A layer that both match stays float32.
  float_layers: str = ''
  wide_layers: str = ''

  # How. One weight scale for each output channel, or one for each kernel.
  weights: str = 'channel'
  # Every scale is a power of two and every zero point 0, for devices that shift
  # instead of multiplying. Only for 8-bit activations.
  power_of_two: bool = False

  def __post_init__(self):
    if self.weights not in WEIGHT_GRANULARITIES:
      raise ValueError(
        f'quantization.weights={self.weights!r} is not one of '
        f'{WEIGHT_GRANULARITIES}'
      )
    for name in ('float_layers', 'wide_layers'):
      value = getattr(self, name)
      try:
        re.compile(value)
      except re.error as e:
        raise ValueError(
          f'quantization.{name}={value!r} is no regular expression: {e}'
        ) from None
    if self.wide_layers and self.power_of_two:
      raise ValueError(
        f'quantization.wide_layers={self.wide_layers!r}: power_of_two is for '
        'networks of 8 bits; leave one of the two out'
      )

  def has_int16_activations(self, path: str) -> bool:
    """Returns True if the operators of a module have 16-bit activations."""
    match = re.fullmatch(self.wide_layers, path) if self.wide_layers else None
    return match is not None and not re.fullmatch(self.float_pattern, path)

  @property
  def float_pattern(self) -> str:
    """Regular expression of all module paths that stay float32."""
    if not self.float_layers:
      return _TRAINING_ONLY_LAYERS
    return f'{_TRAINING_ONLY_LAYERS}|{self.float_layers}'


def is_int8(config: 'ConfigDict') -> bool:
  """Returns True if a run trains in simulated int8.

  Args:
    config: the experiment. Configs without `quantization` are float.

  Raises:
    ValueError: `quantization.name` is unknown.
  """
  name = config.get('quantization', {'name': 'none'})['name']
  if name not in NAMES:
    raise ValueError(f'config.quantization.name={name!r} is not one of {NAMES}')
  return name != 'none'


def has_frozen_batch_norm(config: 'ConfigDict') -> bool:
  """Returns True if BatchNorm keeps its running statistics during training.

  Args:
    config: the experiment. Float runs read `model.frozen_norms`, and those in
      simulated int8 `quantization.frozen_norms`.
  """
  section = config.quantization if is_int8(config) else config.model
  return section.frozen_norms


def from_config(config: 'ConfigDict') -> Rules:
  """Returns the rules of a config.

  Args:
    config: `config.quantization`.

  Raises:
    ValueError: a field has a value that is not supported.
  """
  return Rules(
    float_layers=config.float_layers,
    wide_layers=config.wide_layers,
    weights=config.weights,
    power_of_two=config.power_of_two,
  )
