"""What one export was asked for, and which requests make no sense."""

from collections.abc import Sequence
import dataclasses

from deeplab.quantization import rules as rules_lib
from export.devices import targets

FORMATS = (
  *('saved_model', 'float32', 'float16', 'int8', 'int16x8', 'int8_litert'),
  *('onnx_float32', 'onnx_int8', 'c'),
)
DEFAULT_FORMATS = FORMATS[:4]
_FORMAT_GROUPS = {'onnx': ('onnx_float32', 'onnx_int8')}
# Formats that are made of another one's file; see `base_format`.
_BASE_FORMATS = {'onnx_float32': 'float32', 'onnx_int8': 'int8', 'c': 'int8'}
# Those whose ranges come from images; and those with ends in integers.
CALIBRATED_FORMATS = ('int8', 'int16x8', 'int8_litert')
INTEGER_IO_FORMATS = ('int8', 'int8_litert')
_DEFAULT_RULES = rules_lib.Rules()
OUTPUT_KINDS = ('logits', 'softmax', 'argmax')
INPUT_TYPES = ('float32', 'int8', 'uint8')
RESIZE_MODES = ('trained', 'steps', 'host')
OUTPUT_TYPES = ('float32', 'int8', 'uint8', 'int32')


@dataclasses.dataclass(frozen=True)
class Request:
  """One export.

  Attributes:
    formats: of `FORMATS`.
    input_size: (H, W), static.
    normalization_in_graph: the files take images as they are, RGB in 0..255
      for one; otherwise they take (image - mean) / std.
    input_type: dtype of the input of `INTEGER_IO_FORMATS`. Other formats take
      float32.
    output: of `OUTPUT_KINDS`.
    output_type: dtype of the output: of every format for 'argmax', of
      `INTEGER_IO_FORMATS` for the others, whose other formats return float32.
    target: of `targets.TARGETS`, the device that files of `INTEGER_IO_FORMATS`
      must fit; '' for none.
    resize: of `RESIZE_MODES`, how maps and logits are enlarged: as the model
      was trained, in as many steps as the target takes, or not in the file.
    ram_kib: RAM in place of the target's; None for that.
    flash_kib: flash likewise.
    rules: what the integer files quantise, and how.
  """

  formats: tuple[str, ...]
  input_size: tuple[int, int]
  normalization_in_graph: bool
  input_type: str
  output: str
  output_type: str
  target: str = ''
  resize: str = 'trained'
  ram_kib: int | None = None
  flash_kib: int | None = None
  rules: rules_lib.Rules = _DEFAULT_RULES

  @property
  def needs_calibration(self) -> bool:
    """Whether any of the formats needs ranges of activations."""
    return _includes_any(self.formats, CALIBRATED_FORMATS)

  def base_format(self, kind: str) -> str:
    """Returns the format whose file one is made of, often itself."""
    return base_format(kind, self.formats)

  @property
  def needs_int8_output(self) -> bool:
    """Whether logits of 16 bits must become 8: devices ask for those."""
    return self.output == 'argmax' or self.output_type != 'float32'

  def io_types(self, kind: str) -> tuple[str, str]:
    """Returns the (input, output) dtypes of one format's file."""
    if self.base_format(kind) in INTEGER_IO_FORMATS:
      return self.input_type, self.output_type
    return 'float32', self.output_type if self.output == 'argmax' else 'float32'


def base_format(kind: str, formats: Sequence[str]) -> str:
  """Returns the format whose file one of several is made of, often itself.

  ONNX and C hold what litert-converter makes where that is the only int8 file,
  as it is for runs in simulated int8: TensorFlow's would have other ranges.
  """
  made_of = _BASE_FORMATS.get(kind, kind)
  if kind != made_of == 'int8' and 'int8' not in formats:
    return 'int8_litert' if 'int8_litert' in formats else made_of
  return made_of


def _includes_any(formats: Sequence[str], kinds: Sequence[str]) -> bool:
  """Returns whether any of the formats is of those kinds, or made of one."""
  return any(base_format(kind, formats) in kinds for kind in formats)


def _check_choice(flag: str, value: str, choices: Sequence[str]) -> None:
  if value not in choices:
    raise ValueError(f'{flag}={value} is not one of {", ".join(choices)}')


def _resolve_output_type(
  requested: str | None, output: str, num_classes: int, int8: bool
):
  """Returns the output's dtype, the natural one where none was asked for."""
  if requested is not None:
    _check_choice('--output_type', requested, OUTPUT_TYPES)
  if output == 'argmax':
    if requested in ('float32', 'int8'):
      raise ValueError(
        f'--output_type={requested} is no type for the class ids of '
        '--output_kind=argmax: pass int32 or uint8'
      )
    if requested == 'uint8' and num_classes > 256:
      raise ValueError(
        f'--output_type=uint8 cannot hold the ids of {num_classes} classes: '
        'pass int32'
      )
    return requested or 'int32'
  if requested == 'int32':
    raise ValueError(
      f'--output_type=int32 is for --output_kind=argmax; {output} are float32, '
      'int8 or uint8'
    )
  if requested in ('int8', 'uint8') and not int8:
    raise ValueError(
      f'--output_type={requested} needs int8 or int8_litert among --formats: '
      'only '
      f'those files return quantised {output}'
    )
  return requested or 'float32'


def _check_rules(
  formats: Sequence[str],
  output: str,
  resize: str | None,
  rules: rules_lib.Rules,
) -> None:
  """Refuses what a converter cannot do."""
  if 'int8_litert' in formats and output == 'softmax':
    raise ValueError(
      '--output_kind=softmax: the int8_litert file returns logits or class '
      'ids; pass --output_kind=logits, or --formats=int8'
    )
  if 'int8_litert' in formats and resize == 'host':
    raise ValueError(
      '--resize=host: the int8_litert file holds the whole network; pass '
      '--resize=trained, or --formats=int8'
    )
  for kind in formats:
    by_tensorflow = base_format(kind, formats) in ('int8', 'int16x8')
    if by_tensorflow and (
      rules.float_layers or rules.wide_layers or rules.power_of_two
    ):
      raise ValueError(
        f'--formats={kind} has neither layers in float or 16 bits nor scales '
        'that are powers of two (--float_layers, --wide_layers, '
        '--power_of_two): pass --formats=int8_litert for those'
      )
    if kind == 'onnx_int8' and rules.wide_layers:
      raise ValueError(
        '--formats=onnx_int8: ONNX Runtime takes no bias of 64 bits, as layers '
        f'with 16-bit activations have; leave out that format or '
        f'--wide_layers={rules.wide_layers!r}'
      )
  if 'int16x8' in formats and rules.weights == 'tensor':
    raise ValueError(
      '--weights=tensor is for int8 and int8_litert, not for --formats=int16x8'
    )


def target_weight_granularity(
  target: str, formats: Sequence[str]
) -> str | None:
  """Returns 'tensor' for a device that is made for it, None for others.

  None too where a format has no such weights; `fit.find_performance_issues`
  says so then.

  Args:
    target: of `targets.TARGETS`.
    formats: of `FORMATS`.
  """
  per_tensor = targets.get_target(target).weights == 'per_tensor'
  return 'tensor' if per_tensor and 'int16x8' not in formats else None


def make_request(
  formats: Sequence[str],
  input_size: Sequence[int],
  num_classes: int,
  normalization: str = 'graph',
  input_type: str | None = None,
  output: str = 'logits',
  output_type: str | None = None,
  target: str = '',
  resize: str | None = None,
  ram_kib: int | None = None,
  flash_kib: int | None = None,
  rules: rules_lib.Rules = _DEFAULT_RULES,
) -> Request:
  """Checks the flags of an export and fills in what was not said.

  Args:
    formats: of `FORMATS`; `onnx` is both of its kinds.
    input_size: (H, W).
    num_classes: of the model.
    normalization: 'graph' or 'caller'.
    input_type: of `INPUT_TYPES`; None is the target's, or uint8.
    output: of `OUTPUT_KINDS`.
    output_type: of `OUTPUT_TYPES`; None is int32 for argmax, the target's, or
      float32.
    target: of `targets.TARGETS`, or ''.
    resize: of `RESIZE_MODES`; None is 'steps' for a target and 'trained'
      without.
    ram_kib: see `Request`.
    flash_kib: see `Request`.
    rules: of the integer files.

  Raises:
    ValueError: the flag at fault, and what to pass instead.
  """
  formats = tuple(f for x in formats for f in _FORMAT_GROUPS.get(x, (x,)))
  if not formats:
    raise ValueError(f'--formats is empty; choose of {", ".join(FORMATS)}')
  for kind in formats:
    _check_choice('--formats', kind, FORMATS)
  if len(set(formats)) != len(formats):
    raise ValueError(f'--formats={",".join(formats)} names a format twice')
  size = tuple(int(n) for n in input_size)
  if len(size) != 2 or min(size) < 1:
    raise ValueError(
      f'--input_size={",".join(map(str, size))} is not a height and a width'
    )
  _check_choice('--normalization', normalization, ('graph', 'caller'))
  _check_choice('--output_kind', output, OUTPUT_KINDS)
  int8 = _includes_any(formats, INTEGER_IO_FORMATS)
  if input_type is not None:
    _check_choice('--input_type', input_type, INPUT_TYPES)
    if input_type != 'float32' and not int8:
      raise ValueError(
        f'--input_type={input_type} needs int8 or int8_litert among '
        '--formats: every other format takes float32'
      )
  if target:
    device = targets.get_target(target)
    if not set(INTEGER_IO_FORMATS) & set(formats):
      raise ValueError(
        f'--target={target} needs int8 or int8_litert among --formats: that '
        'file is checked'
      )
    input_type = input_type or device.input_type
    if output != 'argmax':
      output_type = output_type or device.output_type
    elif (
      output_type in targets.ARGMAX_TYPES
      and output_type not in device.argmax_types
    ):
      raise ValueError(
        f'--output_type={output_type}: {target} cannot make class ids of that '
        f'type ({device.sources["types"]}); pass '
        f'{" or ".join(device.argmax_types)}'
      )
  elif ram_kib is not None or flash_kib is not None:
    raise ValueError('--ram_kib and --flash_kib need --target')
  _check_rules(formats, output, resize, rules)
  if resize is not None:
    _check_choice('--resize', resize, RESIZE_MODES)
    if resize == 'steps' and not target:
      raise ValueError(
        '--resize=steps needs --target, which says the ratios it takes; set '
        'config.model.resize_ratio to train with steps'
      )
  return Request(
    formats=formats,
    input_size=(size[0], size[1]),
    normalization_in_graph=normalization == 'graph',
    input_type=input_type or 'uint8',
    output=output,
    output_type=_resolve_output_type(output_type, output, num_classes, int8),
    target=target,
    resize=resize or ('steps' if target else 'trained'),
    ram_kib=ram_kib,
    flash_kib=flash_kib,
    rules=rules,
  )
