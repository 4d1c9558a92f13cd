"""What one export was asked for, and which requests make no sense."""

from collections.abc import Sequence
import dataclasses

FORMATS = ('saved_model', 'float32', 'float16', 'int8')
OUTPUTS = ('logits', 'softmax', 'argmax')
INPUT_TYPES = ('float32', 'int8', 'uint8')
OUTPUT_TYPES = ('float32', 'int8', 'uint8', 'int32')


@dataclasses.dataclass(frozen=True)
class Request:
  """One export.

  Attributes:
    formats: of `FORMATS`.
    input_size: (H, W), static.
    normalization_in_graph: the files take images as they are, RGB in 0..255
      for one; otherwise they take (image - mean) / std.
    input_type: dtype of the int8 file's input. Other formats take float32.
    output: of `OUTPUTS`.
    output_type: dtype of the output: of every format for 'argmax', of the int8
      file for the others, whose other formats return float32.
  """

  formats: tuple[str, ...]
  input_size: tuple[int, int]
  normalization_in_graph: bool
  input_type: str
  output: str
  output_type: str

  def types(self, kind: str) -> tuple[str, str]:
    """Returns the (input, output) dtypes of one format's file."""
    if kind == 'int8':
      return self.input_type, self.output_type
    return 'float32', self.output_type if self.output == 'argmax' else 'float32'


def _one_of(flag: str, value: str, known: Sequence[str]) -> None:
  if value not in known:
    raise ValueError(f'{flag}={value} is not one of {", ".join(known)}')


def _output_type(asked: str | None, output: str, num_classes: int, int8: bool):
  """Returns the output's dtype, the natural one where none was asked for."""
  if asked is not None:
    _one_of('--output_type', asked, OUTPUT_TYPES)
  if output == 'argmax':
    if asked in ('float32', 'int8'):
      raise ValueError(
        f'--output_type={asked} is no type for the class ids of '
        '--output_kind=argmax: pass int32 or uint8'
      )
    if asked == 'uint8' and num_classes > 256:
      raise ValueError(
        f'--output_type=uint8 cannot hold the ids of {num_classes} classes: '
        'pass int32'
      )
    return asked or 'int32'
  if asked == 'int32':
    raise ValueError(
      f'--output_type=int32 is for --output_kind=argmax; {output} are float32, '
      'int8 or uint8'
    )
  if asked in ('int8', 'uint8') and not int8:
    raise ValueError(
      f'--output_type={asked} needs int8 among --formats: only that file '
      f'returns quantised {output}'
    )
  return asked or 'float32'


def make(
  formats: Sequence[str],
  input_size: Sequence[int],
  num_classes: int,
  normalization: str = 'graph',
  input_type: str | None = None,
  output: str = 'logits',
  output_type: str | None = None,
) -> Request:
  """Checks the flags of an export and fills in what was not said.

  Args:
    formats: of `FORMATS`.
    input_size: (H, W).
    num_classes: of the model.
    normalization: 'graph' or 'caller'.
    input_type: of `INPUT_TYPES`; None is uint8.
    output: of `OUTPUTS`.
    output_type: of `OUTPUT_TYPES`; None is int32 for argmax and float32
      otherwise.

  Raises:
    ValueError: the flag at fault, and what to pass instead.
  """
  formats = tuple(formats)
  if not formats:
    raise ValueError(f'--formats is empty; choose of {", ".join(FORMATS)}')
  for kind in formats:
    _one_of('--formats', kind, FORMATS)
  if len(set(formats)) != len(formats):
    raise ValueError(f'--formats={",".join(formats)} names a format twice')
  size = tuple(int(n) for n in input_size)
  if len(size) != 2 or min(size) < 1:
    raise ValueError(
      f'--input_size={",".join(map(str, size))} is not a height and a width'
    )
  _one_of('--normalization', normalization, ('graph', 'caller'))
  _one_of('--output_kind', output, OUTPUTS)
  int8 = 'int8' in formats
  if input_type is not None:
    _one_of('--input_type', input_type, INPUT_TYPES)
    if input_type != 'float32' and not int8:
      raise ValueError(
        f'--input_type={input_type} needs int8 among --formats: every other '
        'format takes float32'
      )
  return Request(
    formats=formats,
    input_size=(size[0], size[1]),
    normalization_in_graph=normalization == 'graph',
    input_type=input_type or 'uint8',
    output=output,
    output_type=_output_type(output_type, output, num_classes, int8),
  )
