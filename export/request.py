"""The request for one export, and the one place that checks what is legal.

`check_flags` refuses flags that contradict each other, before anything is read;
`make_request` fills in defaults and refuses files that cannot exist. What a
single format cannot hold is refused by its `check` in `file_formats.FORMATS`.
"""

from collections.abc import Collection
from collections.abc import Sequence
import dataclasses

from deeplab import cli
from deeplab.quantization import rules as rules_lib
from export import file_formats
from export.devices import targets

_DEFAULT_RULES = rules_lib.Rules()
OUTPUT_KINDS = ('logits', 'softmax', 'argmax')
INPUT_TYPES = ('float32', 'int8', 'uint8')
NORMALIZATIONS = ('graph', 'caller')
RESIZE_MODES = ('trained', 'steps', 'host')
OUTPUT_TYPES = ('float32', 'int8', 'uint8', 'int32')

# With --weights a config gives the data set, and the network where the weights
# do not tell. Files are evaluated in one view of their size.
READ_WITH_WEIGHTS = cli.ReadFields(
  (
    *(*cli.DATASET_FIELDS, 'data.mean', 'data.std', 'data.depth', 'model'),
    *('data.data_dir', 'data.fallback', 'data.train_split', 'data.eval_split'),
    *('data.pool', 'data.pool_share', 'data.pool_seed', 'eval.static_size'),
    *('eval.batch_size', 'eval.boundary_share', 'eval.resize_labels'),
  ),
  but=(
    *('model.depthwise', 'model.pointwise', 'model.remat'),
    *('model.frozen_norms', 'model.unbiased_variance'),
    'model.classifier_stddev',
  ),
)
# Flags that need trained weights, and the reason that is given without.
_NEED_WEIGHTS = {
  'eval': 'an untrained model (--config alone) has no mIoU',
  'checkpoint': 'an untrained model (--config alone) has none',
  'calibration_images': (
    'an untrained model (--config alone) calibrates on synthetic images'
  ),
  'calibration_rounding': (
    'kernels of an untrained model (--config alone) are rounded to the nearest '
    'step'
  ),
  'calibration_equalize': (
    'channels of an untrained model (--config alone) are not equalized'
  ),
  'data_root': '--config alone reads no data',
}
_NEED_EVALUATION = ('baseline', 'eval_limit')
_NEED_CALIBRATION = (
  'calibration_images',
  'num_calibration_images',
  'calibration_rounding',
  'calibration_equalize',
)


@dataclasses.dataclass(frozen=True)
class Request:
  """The files of one export. report.json repeats these fields under `request`.

  Attributes:
    formats: keys of `file_formats.FORMATS`.
    input_size: static (H, W).
    normalization_in_graph: True if the files take RGB pixels in 0..255 and
      normalize them; False if they take (image - mean) / std.
    input_type: dtype of the input of formats with `Format.integer_io`. All
      other formats take float32.
    output: one of `OUTPUT_KINDS`.
    output_type: dtype of the output. For 'argmax' it holds for every format,
      otherwise for those with `Format.integer_io`; the others return float32.
    target: device that the integer files must fit, of `targets.TARGETS`; '' for
      none.
    resize: one of `RESIZE_MODES`: features and logits are upsampled as the
      model was trained, in as many steps as the target takes, or ('host') with
      the last resize left out of the file.
    ram_kib: RAM in place of the target's; None keeps the target's.
    flash_kib: flash memory in place of the target's; None keeps the target's.
    rules: layers that the integer files quantize, and how.
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
    """True if a format takes activation ranges from calibration images."""
    return any(
      file_formats.base_format(name, self.formats).calibrated
      for name in self.formats
    )

  def base_format(self, name: str) -> str:
    """Returns the name of the .tflite format that a format is derived from.

    That is the format itself where it is converted from the network.
    """
    return file_formats.base_format(name, self.formats).name

  @property
  def needs_int8_output(self) -> bool:
    """True if logits of 16-bit layers are requantized to int8.

    Class ids and integer outputs are computed from int8 logits.
    """
    return self.output == 'argmax' or self.output_type != 'float32'

  def io_types(self, name: str) -> tuple[str, str]:
    """Returns the (input, output) dtypes of the file of one format."""
    if file_formats.base_format(name, self.formats).integer_io:
      return self.input_type, self.output_type
    return 'float32', self.output_type if self.output == 'argmax' else 'float32'


def _check_choice(flag: str, value: str, choices: Collection[str]) -> None:
  if value not in choices:
    raise ValueError(f'{flag}={value} is not one of {", ".join(choices)}')


def check_flags(
  given: Collection[str], has_labels: bool, evaluates: bool
) -> None:
  """Refuses flags of `export.main` that contradict each other.

  Args:
    given: names of the flags on the command line, without dashes; of a boolean
      flag only if it is true.
    has_labels: True if the labeled images of a data set are here.
    evaluates: True if the files are evaluated on the validation split.

  Raises:
    ValueError: the contradiction, and the flag to pass instead.
  """
  if not {'weights', 'config'} & {*given}:
    raise ValueError(
      'pass --weights (a run, a file of weights or a published name), or '
      '--config alone (an untrained model)'
    )
  if 'output' not in given:
    raise ValueError('--output is missing: the folder to write')
  if 'weights' not in given:
    for name, reason in _NEED_WEIGHTS.items():
      if name in given:
        raise ValueError(f'--{name} needs --weights: {reason}')
  if {'data_root', 'config'} <= {*given}:
    raise ValueError(
      '--data_root is for the data set of a run: with --config, pass '
      '--config.data.root'
    )
  if evaluates and not has_labels:
    raise ValueError(
      '--eval needs labeled images: name their data set, --config=PAGE '
      '--config.data.root=ROOT'
    )
  for name in _NEED_EVALUATION:
    if name in given and not evaluates:
      raise ValueError(f'--{name} has no effect without an evaluation')


def check_calibration_flags(given: Collection[str], request: Request) -> None:
  """Refuses flags of the calibration that no requested format reads.

  Args:
    given: names of the flags on the command line, without dashes.
    request: the files to export.

  Raises:
    ValueError: the flag, and the format that reads it.
  """
  simulated = [x.name for x in file_formats.FORMATS.values() if x.simulate]
  if 'calibration_method' in given and not set(simulated) & set(
    request.formats
  ):
    raise ValueError(
      f'--calibration_method needs {" or ".join(simulated)} among --formats: '
      "the ranges of TensorFlow's converter are always the extremes"
    )
  for name in _NEED_CALIBRATION:
    if name in given and not request.needs_calibration:
      raise ValueError(
        f'--{name} needs an integer format among --formats, such as int8'
      )


def check_trained_quantization(given: Collection[str]) -> None:
  """Refuses flags that would change the quantization of a trained int8 run.

  Args:
    given: names of the quantization flags on the command line.

  Raises:
    ValueError: one of them.
  """
  if given:
    raise ValueError(
      f'--{next(iter(given))} is for float runs: this run was trained in the '
      'simulated int8 that its config.quantization describes'
    )


def target_weight_granularity(
  target: str, formats: Sequence[str]
) -> str | None:
  """Returns 'tensor' for a device whose kernels are made for it, else None.

  Also None where a format has no per-tensor weights;
  `fit.find_performance_issues` reports that.

  Args:
    target: key of `targets.TARGETS`.
    formats: keys of `file_formats.FORMATS`.
  """
  per_tensor = targets.get_target(target).weights == 'per_tensor'
  supported = all(
    name in file_formats.FORMATS
    and file_formats.FORMATS[name].per_tensor_weights
    for name in file_formats.expand_groups(formats)
  )
  return 'tensor' if per_tensor and supported else None


def _check_formats(names: Sequence[str]) -> tuple[str, ...]:
  """Expands groups such as 'onnx'; refuses unknown and repeated formats."""
  formats = file_formats.expand_groups(names)
  known = list(file_formats.FORMATS)
  if not formats:
    raise ValueError(f'--formats is empty; choose of {", ".join(known)}')
  for name in formats:
    _check_choice('--formats', name, known)
  if len(set(formats)) != len(formats):
    raise ValueError(f'--formats={",".join(formats)} names a format twice')
  return formats


def _check_input_size(input_size: Sequence[int]) -> tuple[int, int]:
  size = tuple(int(n) for n in input_size)
  if len(size) != 2 or min(size) < 1:
    raise ValueError(
      f'--input_size={",".join(map(str, size))} is not a height and a width'
    )
  return size[0], size[1]


def _check_input_type(input_type: str | None, integer_io: bool) -> None:
  if input_type is None:
    return
  _check_choice('--input_type', input_type, INPUT_TYPES)
  if input_type != 'float32' and not integer_io:
    raise ValueError(
      f'--input_type={input_type} needs int8 or int8_litert among '
      '--formats: every other format takes float32'
    )


def _check_target(
  target: str, formats: Sequence[str], output: str, output_type: str | None
) -> None:
  """Refuses formats and types that a target cannot be checked with."""
  device = targets.get_target(target)
  if not any(file_formats.FORMATS[name].integer_io for name in formats):
    raise ValueError(
      f'--target={target} needs int8 or int8_litert among --formats: that '
      'file is checked'
    )
  if (
    output == 'argmax'
    and output_type in targets.ARGMAX_TYPES
    and output_type not in device.argmax_types
  ):
    raise ValueError(
      f'--output_type={output_type}: {target} cannot compute class ids of that '
      f'type ({device.sources["types"]}); pass '
      f'{" or ".join(device.argmax_types)}'
    )


def _resolve_output_type(
  output_type: str | None, output: str, num_classes: int, integer_io: bool
) -> str:
  """Returns the dtype of the output: the default one for None."""
  if output_type is not None:
    _check_choice('--output_type', output_type, OUTPUT_TYPES)
  if output == 'argmax':
    if output_type in ('float32', 'int8'):
      raise ValueError(
        f'--output_type={output_type} is not a type for the class ids of '
        '--output_kind=argmax: pass int32 or uint8'
      )
    if output_type == 'uint8' and num_classes > 256:
      raise ValueError(
        f'--output_type=uint8 cannot hold the ids of {num_classes} classes: '
        'pass int32'
      )
    return output_type or 'int32'
  if output_type == 'int32':
    raise ValueError(
      f'--output_type=int32 is for --output_kind=argmax; {output} are float32, '
      'int8 or uint8'
    )
  if output_type in ('int8', 'uint8') and not integer_io:
    raise ValueError(
      f'--output_type={output_type} needs int8 or int8_litert among '
      f'--formats: only those files return quantized {output}'
    )
  return output_type or 'float32'


def _resolve_resize(resize: str | None, target: str) -> str:
  """Returns the resize mode: the default one for None."""
  if resize is None:
    return 'steps' if target else 'trained'
  _check_choice('--resize', resize, RESIZE_MODES)
  if resize == 'steps' and not target:
    raise ValueError(
      '--resize=steps needs --target, which defines the ratios it takes; set '
      'config.model.resize_ratio to train with steps'
    )
  return resize


def _check_format(request: Request, name: str) -> None:
  """Refuses what a format, or the one it is derived from, cannot hold."""
  for file_format in (
    file_formats.base_format(name, request.formats),
    file_formats.FORMATS[name],
  ):
    if file_format.check:
      file_format.check(request, name)
    if request.rules.weights == 'tensor' and not file_format.per_tensor_weights:
      raise ValueError(
        '--weight_granularity=tensor is for int8 and int8_litert, not for '
        f'--formats={name}'
      )


def make_request(
  *,
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
  """Checks what an export is asked for, and fills in defaults.

  Args:
    formats: keys of `file_formats.FORMATS`; 'onnx' selects both of its formats.
    input_size: (H, W).
    num_classes: number of classes of the model.
    normalization: 'graph' or 'caller'.
    input_type: one of `INPUT_TYPES`; None for the target's, or uint8.
    output: one of `OUTPUT_KINDS`.
    output_type: one of `OUTPUT_TYPES`; None for int32 with argmax, otherwise
      for the target's, or float32.
    target: key of `targets.TARGETS`, or ''.
    resize: one of `RESIZE_MODES`; None for 'steps' with a target and 'trained'
      without.
    ram_kib: RAM in place of the target's, KiB.
    flash_kib: flash memory in place of the target's, KiB.
    rules: quantization rules of the integer files.

  Raises:
    ValueError: the flag at fault, and the value to pass instead.
  """
  formats = _check_formats(formats)
  size = _check_input_size(input_size)
  _check_choice('--normalization', normalization, NORMALIZATIONS)
  _check_choice('--output_kind', output, OUTPUT_KINDS)
  integer_io = any(
    file_formats.base_format(name, formats).integer_io for name in formats
  )
  _check_input_type(input_type, integer_io)
  if target:
    _check_target(target, formats, output, output_type)
    device = targets.get_target(target)
    input_type = input_type or device.input_type
    if output != 'argmax':
      output_type = output_type or device.output_type
  elif ram_kib is not None or flash_kib is not None:
    raise ValueError('--ram_kib and --flash_kib need --target')
  request = Request(
    formats=formats,
    input_size=size,
    normalization_in_graph=normalization == 'graph',
    input_type=input_type or 'uint8',
    output=output,
    output_type=_resolve_output_type(
      output_type, output, num_classes, integer_io
    ),
    target=target,
    resize=_resolve_resize(resize, target),
    ram_kib=ram_kib,
    flash_kib=flash_kib,
    rules=rules,
  )
  for name in formats:
    _check_format(request, name)
  return request


def check_source(
  request: Request,
  depth: int,
  has_trained_ranges: bool,
  has_calibration_images: bool,
) -> None:
  """Refuses files that cannot be made of a certain model.

  Args:
    request: the files to export.
    depth: bits per channel of the images that the model takes.
    has_trained_ranges: True for a run that was trained in simulated int8.
    has_calibration_images: True if there are images that integer files can be
      calibrated on.

  Raises:
    ValueError: the flag at fault, and the value to pass instead.
  """
  if request.needs_calibration and not has_calibration_images:
    calibrated = [
      name
      for name in request.formats
      if file_formats.base_format(name, request.formats).calibrated
    ]
    raise ValueError(
      f'{", ".join(calibrated)}: there are no images to calibrate on; pass '
      '--calibration_images=FOLDER, photographs like those that the model will '
      'see, or choose float files, such as --formats=float32'
    )
  if has_trained_ranges and request.resize == 'host':
    raise ValueError(
      '--resize=host is for float runs: the ranges of a run trained in '
      'simulated int8 are those of the whole network; pass --resize=trained'
    )
  for name in request.formats:
    if depth > file_formats.FORMATS[name].max_depth:
      raise ValueError(
        f'--formats={name}: the example reads images of 8 bits, and this '
        f'network takes {depth}; leave {name} out'
      )
