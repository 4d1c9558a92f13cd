"""Maps of raw mask values to classes, as `config.data.id_map` writes them.

    0:0,255:1            masks of 0 and 255, of two classes
    0:ignore,1-3:0,4:1   several values to one class; 0 is ignored
    7:0,8:1,*:ignore     all values that are not named are ignored
    reduce_zero          0 is ignored, and classes begin at 1
    cityscapes           labelIds of the 19 classes that Cityscapes scores

The class after the colon is a train id, from 0 on. Values that are not named
are errors, except for `config.data.ignore_label`.
"""

from collections.abc import Iterable
import re

from deeplab.data import dataset_info

# Raw `labelIds` of the 19 classes that Cityscapes scores, by train id.
CITYSCAPES = (
  *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22),
  *(23, 24, 25, 26, 27, 28, 31, 32, 33),
)

_ENTRY = re.compile(r'(\*|-?\d+)(?:-(\d+))?:(\d+|ignore)')
# The most values of a range, and the largest value of a mask of 16 bits.
_MAX_VALUE = 65535

# Train id, or IGNORE, by raw id; and that of all others, None for an error.
IdMap = tuple[dict[int, int], int | None]


def reduce_zero_label(num_classes: int) -> dict[int, int]:
  """Maps raw 0 and 255 to IGNORE and raw n to n - 1.

  mmsegmentation's `reduce_zero_label` does the same.
  """
  mapping = {i + 1: i for i in range(num_classes)}
  return {0: dataset_info.IGNORE, 255: dataset_info.IGNORE} | mapping


def parse_id_map(text: str, num_classes: int) -> IdMap:
  """Parses an id map.

  Args:
    text: such as '0:0,255:1', 'reduce_zero' or 'cityscapes'.
    num_classes: number of classes.

  Raises:
    ValueError: the text is malformed, names a value twice or a class that there
      is not.
  """
  if text == 'reduce_zero':
    return reduce_zero_label(num_classes), None
  if text == 'cityscapes':
    if num_classes != len(CITYSCAPES):
      raise ValueError(
        'config.data.id_map=cityscapes has 19 classes: use '
        '--config.data.num_classes=19'
      )
    return {raw: i for i, raw in enumerate(CITYSCAPES)}, dataset_info.IGNORE
  mapping: dict[int, int] = {}
  others = None
  for entry in text.split(','):
    match = _ENTRY.fullmatch(entry.strip())
    if not match or (match[1] == '*' and match[2]):
      raise ValueError(
        f'config.data.id_map={text[:80]!r}: {entry.strip()[:40]!r} is not '
        'VALUE:CLASS; write it like 0:0,255:1 or 0:ignore,1-3:0'
      )
    target = dataset_info.IGNORE if match[3] == 'ignore' else int(match[3])
    if match[3] != 'ignore' and target >= num_classes:
      raise ValueError(
        f'config.data.id_map={text[:80]!r}: {target} is not one of the '
        f'{num_classes} classes, 0 to {num_classes - 1}; correct it or '
        'config.data.num_classes'
      )
    if match[1] == '*':
      others = target
      continue
    first, last = int(match[1]), int(match[2] or match[1])
    if not -1 <= first <= last <= _MAX_VALUE:
      raise ValueError(
        f'config.data.id_map={text[:80]!r}: {entry.strip()} is no range of '
        f'values in 0..{_MAX_VALUE}'
      )
    for value in range(first, last + 1):
      if mapping.setdefault(value, target) != target:
        raise ValueError(
          f'config.data.id_map={text[:80]!r} gives value {value} two classes'
        )
  return mapping, others


def format_id_map(values: Iterable[Iterable[int]], num_classes: int) -> str:
  """Returns the id map of classes by their values.

  Args:
    values: values of each class; those of a row after the last class are
      ignored.
    num_classes: number of classes.
  """
  return ','.join(
    f'{value}:{i if i < num_classes else "ignore"}'
    for i, row in enumerate(values)
    for value in row
  )
