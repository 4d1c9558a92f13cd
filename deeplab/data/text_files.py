"""Reads text, JSON and XML files of the user.

An error is a ValueError whose message begins with the path.
"""

import json
import os
from typing import Any
from xml.etree import ElementTree

Path = str | os.PathLike[str]


def read_text(path: Path) -> str:
  """Reads a UTF-8 text file, with or without a byte order mark.

  Raises:
    ValueError: the file cannot be read, or is not UTF-8.
  """
  try:
    with open(path, encoding='utf-8-sig') as file:
      return file.read()
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path}: not a text in UTF-8 (byte {error.start}); save it as UTF-8'
    ) from error
  except OSError as error:
    raise ValueError(f'{path}: cannot be read ({error.strerror})') from error


def read_json(path: Path) -> Any:
  """Reads a JSON file.

  Raises:
    ValueError: the file cannot be read, or is not JSON.
  """
  content = read_text(path)
  try:
    return json.loads(content)
  except RecursionError as error:
    raise ValueError(
      f'{path}: damaged, or not JSON (it is nested too deeply)'
    ) from error
  except ValueError as error:
    raise ValueError(f'{path}: damaged, or not JSON ({error})') from error


def read_xml(path: Path) -> ElementTree.Element:
  """Reads an XML file; returns its root element.

  Entities of other files are not read, and Expat ends the expansion of nested
  ones at a hundredfold of the file.

  Raises:
    ValueError: the file cannot be read, is not XML, or has an unknown encoding.
  """
  try:
    return ElementTree.parse(path).getroot()
  except OSError as error:
    raise ValueError(f'{path}: cannot be read ({error.strerror})') from error
  except (ElementTree.ParseError, LookupError, ValueError) as error:
    raise ValueError(f'{path}: damaged, or not XML ({error})') from error
