"""Reads text and XML files of the user, in the encodings that editors write.

An error is a ValueError whose message begins with the path.
"""

import codecs
import os
from xml.etree import ElementTree

Path = str | os.PathLike[str]

# Byte order marks by the encoding that they announce; that of UTF-32 begins
# with that of UTF-16.
_MARKS = (
  (codecs.BOM_UTF8, 'utf-8'),
  (codecs.BOM_UTF32_LE, 'utf-32-le'),
  (codecs.BOM_UTF32_BE, 'utf-32-be'),
  (codecs.BOM_UTF16_LE, 'utf-16-le'),
  (codecs.BOM_UTF16_BE, 'utf-16-be'),
)


def decode_text(data: bytes) -> str:
  """Decodes UTF-8, UTF-16 or UTF-32; lines of any system end in a line feed.

  Without a byte order mark the text is UTF-8, or UTF-16 if every other byte of
  its start is 0.

  Raises:
    UnicodeDecodeError: it is in another encoding.
  """
  for mark, encoding in _MARKS:
    if data.startswith(mark):
      return _unify_lines(data[len(mark) :].decode(encoding))
  start = data[:200]
  if len(start) >= 4 and not len(data) % 2:
    if not any(start[1::2]) and all(start[::2]):
      return _unify_lines(data.decode('utf-16-le'))
    if not any(start[::2]) and all(start[1::2]):
      return _unify_lines(data.decode('utf-16-be'))
  return _unify_lines(data.decode('utf-8'))


def _unify_lines(text: str) -> str:
  return text.replace('\r\n', '\n').replace('\r', '\n')


def read_text(path: Path) -> str:
  """Reads a text file in UTF-8, UTF-16 or UTF-32.

  Raises:
    ValueError: the file cannot be read, or is in another encoding.
  """
  try:
    return decode_text(_read_bytes(path))
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{path}: not a text in UTF-8 (byte {error.start}); save it as UTF-8'
    ) from error


def read_xml(path: Path) -> ElementTree.Element:
  """Reads an XML file; returns its root element.

  Entities of other files are not read, and Expat ends the expansion of nested
  ones at a hundredfold of the file.

  Raises:
    ValueError: the file cannot be read, is not XML, or has an unknown encoding.
  """
  data = _read_bytes(path)
  try:
    if data.startswith(tuple(mark for mark, _ in _MARKS)):
      # The mark is right; some editors leave another encoding in the header.
      return ElementTree.fromstring(decode_text(data))
    return ElementTree.fromstring(data)
  except (ElementTree.ParseError, LookupError, ValueError) as error:
    raise ValueError(f'{path}: damaged, or not XML ({error})') from error


def _read_bytes(path: Path) -> bytes:
  try:
    with open(path, 'rb') as file:
      return file.read()
  except OSError as error:
    raise ValueError(f'{path}: cannot be read ({error.strerror})') from error
