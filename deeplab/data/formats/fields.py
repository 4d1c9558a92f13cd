"""Reads fields of annotation files; a wrong one is an error that names it.

Entries are JSON objects, or the attributes of an XML element, whose numbers are
texts. A float without a fraction, such as 480.0, is a whole number.
"""

from collections.abc import Mapping
import math
import pathlib
import reprlib
from typing import Any
import unicodedata

from deeplab.data import image_files
from deeplab.files import text_files

Entry = Mapping[str, Any]

# The largest whole number that all writers of JSON agree about.
_MAX_WHOLE = 2**53


def get_whole(entry: Entry, key: str) -> int:
  """Returns a whole number of at most 2^53.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  return _to_whole(_get(entry, key), key)


def get_number(entry: Entry, key: str, default: float | None = None) -> float:
  """Returns a finite number.

  Args:
    entry: the entry.
    key: name of the field.
    default: value of a missing field; None if the field must be there.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  if default is not None and key not in entry:
    return default
  value = _get(entry, key)
  try:
    number = math.nan if isinstance(value, bool) else float(value)
  except (OverflowError, TypeError, ValueError):
    number = math.nan
  if not math.isfinite(number):
    raise ValueError(f'{key} is {describe(value)}, not a finite number')
  return number


def get_text(entry: Entry, key: str) -> str:
  """Returns a text.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  value = _get(entry, key)
  if not isinstance(value, str):
    raise ValueError(f'{key} is {describe(value)}, not a text')
  return value


def get_id(entry: Entry, key: str) -> int | str:
  """Returns an id: a whole number or a text.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  value = _get(entry, key)
  return value if isinstance(value, str) else _to_whole(value, key)


def get_list(entry: Entry, key: str) -> list[Any]:
  """Returns a list.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  value = _get(entry, key)
  if not isinstance(value, list):
    raise ValueError(f'{key} is {describe(value)}, not a list')
  return value


def get_points(entry: Entry, key: str) -> list[tuple[float, float]]:
  """Returns a list of (x, y); infinities pass.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  points = []
  for point in get_list(entry, key):
    try:
      x, y = (float(value) for value in point)
    except (OverflowError, TypeError, ValueError) as error:
      raise ValueError(
        f'{key} holds {describe(point)}, not a pair of numbers'
      ) from error
    points.append((x, y))
  return points


def get_entries(entry: Entry, key: str) -> list[dict[str, Any]]:
  """Returns a list of objects.

  Raises:
    ValueError: the field is missing or holds something else.
  """
  values = get_list(entry, key)
  for value in values:
    if not isinstance(value, dict):
      raise ValueError(f'{key} holds {describe(value)}, not an object')
  return values


def get_size(
  entry: Entry, height_key: str = 'height', width_key: str = 'width'
) -> tuple[int, int]:
  """Returns the size of an image.

  Args:
    entry: the entry.
    height_key: field of the height.
    width_key: field of the width.

  Returns:
    (H, W).

  Raises:
    ValueError: a field is missing or no whole number, or an image of that size
      would not be read.
  """
  size = get_whole(entry, height_key), get_whole(entry, width_key)
  image_files.check_size(f'{height_key} and {width_key}', size, channels=3)
  return size


def check_characters(name: str) -> None:
  """Raises ValueError for control characters in the name of a file."""
  if any(unicodedata.category(letter) in ('Cc', 'Cs') for letter in name):
    raise ValueError(f'{describe(name)} is not the name of a file')


def check_file_name(name: str) -> str:
  """Returns the relative path of a file, with / or \\, as it came.

  An annotation file may come from anywhere: it names files of its own data set,
  and none of the rest of the machine.

  Raises:
    ValueError: it has control characters or surrogates, which no name has, or
      it is absolute or has a part `..`.
  """
  check_characters(name)
  path = pathlib.PurePosixPath(name.replace('\\', '/'))
  if path.is_absolute() or '..' in path.parts:
    raise ValueError(
      f'{describe(name)} leads out of the folder of the data; write it '
      'relative to that folder'
    )
  return name


def read_file_names(listing: pathlib.Path) -> list[str]:
  """Reads a list of names of files, separated by white space.

  Raises:
    ValueError: the list is not a text, or a name leads out of the data set.
  """
  names = text_files.read_text(listing).split()
  try:
    return [check_file_name(name) for name in names]
  except ValueError as error:
    raise ValueError(f'{listing}: {error}; correct its line') from error


def describe(value: Any) -> str:
  """Returns a value as Python writes it, cut to 100 characters."""
  return reprlib.repr(value)[:100]


def _get(entry: Entry, key: str) -> Any:
  if not isinstance(entry, Mapping):
    raise ValueError(f'{describe(entry)} is no object with {key}')
  if key not in entry:
    raise ValueError(f'{key} is missing')
  return entry[key]


def _to_whole(value: Any, key: str) -> int:
  number = value
  if isinstance(value, str):
    try:
      number = int(value)
    except ValueError:
      number = _to_float(value)
  if isinstance(number, float) and number.is_integer():
    number = int(number)
  if not isinstance(number, int) or isinstance(number, bool):
    raise ValueError(f'{key} is {describe(value)}, not a whole number')
  if abs(number) > _MAX_WHOLE:
    raise ValueError(f'{key} is {describe(value)}, a number that is too large')
  return number


def _to_float(value: str) -> float:
  try:
    return float(value)
  except ValueError:
    return math.nan
