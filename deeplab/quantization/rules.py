"""What is quantised, and how: the choices that JAX and the file share."""

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  # Only named here: a machine without it can still build modules.
  from ml_collections import ConfigDict

NAMES = ('none', 'int8')
WEIGHT_GRANULARITIES = ('channel', 'tensor')
# Never deployed: heads that only training has.
_TRAINING_ONLY_LAYERS = r'(.*/)?auxiliary.*'


@dataclasses.dataclass(frozen=True)
class Rules:
  """Weights int8 and symmetric, activations int8 with one static scale each.

  Attributes:
    float_layers: regular expression of whole module paths, such as 'head/.*',
      that stay float32. '' is none.
    wide_layers: likewise, whose operators read and write 16 bits: activations
      around 0, weights int8 still. A layer of both stays float32.
    weights: one scale a 'channel' of the output, or one a 'tensor'.
    power_of_two: every scale is a power of two and every zero point 0.
  """

  float_layers: str = ''
  wide_layers: str = ''
  weights: str = 'channel'
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
        'networks of 8 bits alone'
      )

  def has_int16_activations(self, path: str) -> bool:
    """Returns whether a module's operators have activations of 16 bits."""
    wide = re.fullmatch(self.wide_layers, path) if self.wide_layers else None
    return wide is not None and not re.fullmatch(self.float_pattern, path)

  @property
  def float_pattern(self) -> str:
    """The regular expression of all module paths that stay float32."""
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
  """Returns the rules of `config.quantization`.

  Raises:
    ValueError: a field has no such value.
  """
  return Rules(
    float_layers=config.float_layers,
    wide_layers=config.wide_layers,
    weights=config.weights,
    power_of_two=config.power_of_two,
  )
