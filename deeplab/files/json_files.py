"""JSON files of runs, exports and sweeps: read whole and checked, or refused.

The schemas are JSON Schema (https://json-schema.org), which `fastjsonschema`
compiles. Numbers have limits, because a damaged file may hold any: a height of
1e30 must end in a sentence and not in an allocation.
"""

from collections.abc import Callable
from collections.abc import Mapping
import json
import os
from typing import Any

import fastjsonschema

from deeplab.files import text_files

Schema = Mapping[str, Any]
Validate = Callable[[Any], Any]

TEXT: Schema = {'type': 'string', 'maxLength': 10_000}
FLAG: Schema = {'type': 'boolean'}
NUMBER: Schema = {'type': 'number', 'minimum': -1e9, 'maximum': 1e9}
COUNT: Schema = {'type': 'integer', 'minimum': 0, 'maximum': 2**53}
SIZE: Schema = {'type': 'integer', 'minimum': 1, 'maximum': 1 << 16}
SHARE: Schema = {'type': 'number', 'minimum': 0, 'maximum': 1}


def integer(low: int, high: int) -> Schema:
  """Returns the schema of a whole number in low..high."""
  return {'type': 'integer', 'minimum': low, 'maximum': high}


def number(low: float, high: float) -> Schema:
  """Returns the schema of a number in low..high."""
  return {'type': 'number', 'minimum': low, 'maximum': high}


def array(items: Schema, *lengths: int) -> Schema:
  """Returns the schema of a list.

  Args:
    items: schema of each item.
    *lengths: the length, or the least and the largest; any up to 10,000
      otherwise.
  """
  low, high = (0, 10_000) if not lengths else (lengths[0], lengths[-1])
  return {'type': 'array', 'items': items, 'minItems': low, 'maxItems': high}


def nullable(schema: Schema) -> Schema:
  """Returns the schema of a value that may be null."""
  return {**schema, 'type': [schema['type'], 'null']}


def record(required: Mapping[str, Schema], **optional: Schema) -> Schema:
  """Returns the schema of an object, which may have other keys, too.

  Args:
    required: schema of each key that must be there.
    **optional: schema of each key that may be there.
  """
  return {
    'type': 'object',
    'required': list(required),
    'properties': {**required, **optional},
  }


def compile_schema(schema: Schema) -> Validate:
  """Returns a function that raises ValueError for a value of another form.

  Its message names the key and what it must be, in half a sentence.
  """
  validate = fastjsonschema.compile(dict(schema))

  def check(value: Any) -> Any:
    try:
      return validate(value)
    except fastjsonschema.JsonSchemaValueException as error:
      raise ValueError(_describe_error(error)) from None

  return check


def _describe_error(error: fastjsonschema.JsonSchemaValueException) -> str:
  """Returns the key and what it must be: "mean[0] must be number, not 'x'"."""
  place = str(error.name)
  name = place.removeprefix('data').removeprefix('.') or 'it'
  if error.rule == 'required':
    missing = [key for key in error.rule_definition if key not in error.value]
    return f'{name} lacks {", ".join(missing)}'
  rule = error.message.removeprefix(place).strip()
  value = json.dumps(error.value)
  shown = value if len(value) < 60 else f'{value[:60]}...'
  return f'{name} {rule}, not {shown}'


def _refuse_constant(name: str) -> None:
  raise ValueError(f'{name} is no number of JSON')


def read_json(path: str | os.PathLike, remedy: str = 'restore it') -> Any:
  """Reads a JSON file.

  Args:
    path: the file.
    remedy: what the user can do about a damaged file, for the message.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is not JSON, or nests too deeply.
  """
  with open(path, 'rb') as f:
    content = f.read()
  return _parse_json(path, content, remedy, _refuse_constant)


def read_user_json(path: str | os.PathLike) -> Any:
  """Reads a JSON file of another program, in any encoding of `text_files`.

  Many write NaN and infinities, which pass.

  Raises:
    ValueError: the file cannot be read, is not JSON, or nests too deeply.
  """
  try:
    with open(path, 'rb') as f:
      content = f.read()
  except OSError as error:
    raise ValueError(f'{path}: cannot be read ({error.strerror})') from error
  return _parse_json(path, content, 'correct or replace it', float)


def _parse_json(
  path: str | os.PathLike,
  content: bytes,
  remedy: str,
  parse_constant: Callable[[str], Any],
) -> Any:
  """Parses the content of a file; its name and the remedy are for messages."""
  try:
    text = text_files.decode_text(content)
    return json.loads(text, parse_constant=parse_constant)
  except (ValueError, RecursionError) as error:
    reason = str(error) if content else 'it is empty'
    if isinstance(error, RecursionError):
      reason = 'it is nested too deeply'
    raise ValueError(
      f'{os.fspath(path)} is damaged, it is not valid JSON ({reason}): {remedy}'
    ) from None


def read_checked_json(
  path: str | os.PathLike, check: Validate, remedy: str = 'restore it'
) -> Any:
  """Reads a JSON file of a known form.

  Args:
    path: the file.
    check: of `compile_schema`.
    remedy: what the user can do about a damaged file, for the message.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is not JSON, or of another form.
  """
  value = read_json(path, remedy)
  try:
    check(value)
  except ValueError as error:
    raise ValueError(
      f'{os.fspath(path)} is damaged or of another kind, {error}: {remedy}'
    ) from None
  return value
