"""Damages the content of a file, as a function of random numbers alone.

Bytes are damaged in any file. Files with a structure are also damaged in it, so
that readers get beyond the first check: values of JSON and XML, words of text,
members of zip archives, chunks of PNG files with a correct checksum, and the
header of safetensors.
"""

from collections.abc import Callable
from collections.abc import Sequence
import gzip
import io
import json
import pathlib
import pickletools
import random
import struct
import tarfile
from typing import Any
from xml.etree import ElementTree
import zipfile
import zlib

# Numbers at the ends of the ranges of integers, and sizes near zero.
_NUMBERS = (
  *(0, 1, -1, 2, 3, 127, 128, 255, 256, 257, 32767, 32768, 65535, 65536),
  *(2**24, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**64),
)
_VALUES: tuple[Any, ...] = (
  *(None, True, False, '', 'x', 'é\u2028\x00', '../../x', '/etc/passwd'),
  *([], {}, [[]], [None], {'': None}, 0.5, 2.0, -2.5, 1e308, 10**40),
  *(float('nan'), float('inf'), 'x' * 100_000, '0', '[', *_NUMBERS),
)
# Zeros that a compressed member of an archive unpacks to.
_BOMB_BYTES = 1 << 30
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def mutate(
  rng: random.Random, name: str, content: bytes, others: Sequence[bytes]
) -> bytes:
  """Damages the content of a file.

  Args:
    rng: the source of all choices.
    name: name of the file; its suffix selects the kinds of damage.
    content: the genuine content.
    others: contents of genuine files of the same kind, for splices.

  Returns:
    The damaged content. By chance it may be the genuine one.
  """
  suffix = pathlib.PurePath(name).suffix
  if suffix in _STRUCTURAL and rng.random() < 0.6:
    return _STRUCTURAL[suffix](rng, content)
  return _mutate_bytes(rng, content, others)


def _mutate_bytes(
  rng: random.Random, content: bytes, others: Sequence[bytes] = ()
) -> bytes:
  """Damages one to three places of any content."""
  for _ in range(rng.choice((1, 1, 2, 3))):
    content = rng.choice(_BYTE_MUTATORS)(rng, content)
    if others and rng.random() < 0.1:
      content = _splice(rng, content, rng.choice(others))
  return content


def _flip_bits(rng: random.Random, content: bytes) -> bytes:
  data = bytearray(content)
  for _ in range(rng.randint(1, 8) if data else 0):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(data)


def _set_bytes(rng: random.Random, content: bytes) -> bytes:
  data = bytearray(content)
  for _ in range(rng.randint(1, 4) if data else 0):
    data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 254, 255))
  return bytes(data)


def _span(rng: random.Random, content: bytes) -> tuple[int, int]:
  """Returns the start and end of a block, short ones more often."""
  start = rng.randint(0, len(content))
  length = rng.choice((1, 4, 16, 64, 256, len(content)))
  return start, min(len(content), start + rng.randint(0, length))


def _cut(rng: random.Random, content: bytes) -> bytes:
  return content[: rng.randint(0, len(content))]


def _delete_block(rng: random.Random, content: bytes) -> bytes:
  start, end = _span(rng, content)
  return content[:start] + content[end:]


def _insert_block(rng: random.Random, content: bytes) -> bytes:
  start, _ = _span(rng, content)
  block = rng.randbytes(rng.choice((1, 4, 16, 256)))
  return content[:start] + block + content[start:]


def _repeat_block(rng: random.Random, content: bytes) -> bytes:
  start, end = _span(rng, content)
  return content[:end] + content[start:end] * rng.randint(1, 9) + content[end:]


def _swap_blocks(rng: random.Random, content: bytes) -> bytes:
  a, b, c = sorted(rng.randint(0, len(content)) for _ in range(3))
  return content[:a] + content[b:c] + content[a:b] + content[c:]


def _write_number(rng: random.Random, content: bytes) -> bytes:
  """Overwrites an integer or a float, mostly near the start of the file."""
  size, order = rng.choice((1, 2, 4, 8)), rng.choice('<>')
  if len(content) < size:
    return content
  if size > 2 and rng.random() < 0.1:
    value = rng.choice((float('nan'), float('inf'), -1e30, 1e-40, 0.0))
    number = struct.pack(order + {4: 'f', 8: 'd'}[size], value)
  else:
    bits = rng.choice(_NUMBERS) % (1 << 8 * size)
    number = bits.to_bytes(size, 'little' if order == '<' else 'big')
  last = len(content) - size
  start = rng.randint(0, rng.choice((min(last, 128), last)))
  return content[:start] + number + content[start + size :]


def _splice(rng: random.Random, content: bytes, other: bytes) -> bytes:
  return (
    content[: rng.randint(0, len(content))]
    + (other[rng.randint(0, len(other)) :])
  )


_BYTE_MUTATORS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
  *(_flip_bits, _flip_bits, _set_bytes, _cut, _delete_block, _insert_block),
  *(_repeat_block, _swap_blocks, _write_number, _write_number, _write_number),
)


def _slots(value: Any) -> list[tuple[Any, Any]]:
  """Lists the places of nested values: (container, key or index)."""
  places: list[tuple[Any, Any]] = []
  if isinstance(value, dict | list):
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
      places += [(value, key), *_slots(value[key])]
  return places


def _mutate_value(rng: random.Random, value: Any) -> Any:
  """Damages one place of a nested JSON value."""
  places = _slots(value)
  if not places or rng.random() < 0.02:
    return rng.choice(_VALUES)
  container, key = rng.choice(places)
  action = rng.randrange(10)
  if action < 2:
    del container[key]
  elif action < 7:
    container[key] = rng.choice(_VALUES)
  elif action == 7:
    container[key] = [container[key]]
  elif action == 8 and isinstance(container, list):
    container.insert(key, container[key])
  else:
    other, other_key = rng.choice(places)
    container[key] = other[other_key]
  return value


def _break_text(rng: random.Random, content: bytes) -> bytes:
  """Encodes a text in another way, or puts odd characters into it."""
  action = rng.randrange(6)
  if action < 3:
    text = content.decode('utf-8', 'replace')
    return text.encode(('utf-16', 'utf-8-sig', 'utf-32')[action])
  start, _ = _span(rng, content)
  odd = (b'\xff\xe9', b'\x00', '\u2028\u202e\U0001f600'.encode())[action - 3]
  return content[:start] + odd + content[start:]


def _mutate_json(rng: random.Random, content: bytes) -> bytes:
  if rng.random() < 0.1:
    return _break_text(rng, content)
  if rng.random() < 0.02:
    depth = rng.choice((900, 100_000))
    return b'[' * depth + b']' * rng.choice((0, depth))
  value = json.loads(content)
  try:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
      value = _mutate_value(rng, value)
    return json.dumps(value, indent=1).encode()
  except (RecursionError, ValueError):  # a value was put into itself
    return content


def _mutate_json_lines(rng: random.Random, content: bytes) -> bytes:
  lines = content.splitlines()
  i = rng.randrange(len(lines))
  lines[i] = _mutate_json(rng, lines[i]).replace(b'\n', b' ')
  return b'\n'.join(lines) + b'\n'


def _mutate_xml(rng: random.Random, content: bytes) -> bytes:
  if rng.random() < 0.1:
    return _break_text(rng, content)
  if rng.random() < 0.05:
    entities = ''.join(
      f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9)
    )
    outside = '<!ENTITY a0 SYSTEM "file:///etc/passwd">'
    inside = '<!ENTITY a0 "ha">'
    head = f'<!DOCTYPE x [{rng.choice((inside, outside))}{entities}]>'
    body = content.partition(b'?>')[2] or content
    return head.encode() + body.replace(b'car', rng.choice((b'&a9;', b'&a0;')))
  root = ElementTree.fromstring(content)
  parents = {child: parent for parent in root.iter() for child in parent}
  element = rng.choice(list(root.iter()))
  action = rng.randrange(8)
  if element.attrib and action < 6:
    key = rng.choice(sorted(element.attrib))
    if action == 0:
      del element.attrib[key]
    else:
      element.set(key, _odd_word(rng, element.attrib[key]))
  elif element in parents and action == 6:
    parents[element].remove(element)
  else:
    element.tag = rng.choice(('image', 'polygon', 'box', 'mask', 'ellipse'))
  return ElementTree.tostring(root)


def _odd_word(rng: random.Random, word: str) -> str:
  """Returns a word for another one, or a damaged form of it."""
  if rng.random() < 0.4:
    data = rng.choice(_BYTE_MUTATORS)(rng, word.encode())
    text = data.decode('utf-8', 'replace')
    return ''.join(c for c in text if c >= ' ')
  return str(rng.choice((*_NUMBERS, 0.5, 1e300, 'nan', 'inf', '', 'x', '1,2')))


def _mutate_words(rng: random.Random, content: bytes) -> bytes:
  """Damages words or lines of a text."""
  if rng.random() < 0.2:
    return _break_text(rng, content)
  lines = content.decode().splitlines()
  i = rng.randrange(len(lines))
  action = rng.randrange(6)
  if action == 0:
    del lines[i]
  elif action == 1:
    lines.insert(i, lines[i])
  elif action == 2:
    lines[i] *= rng.choice((2, 10_000))
  else:
    words = lines[i].replace(':', ' ').replace(',', ' ').split() or ['']
    word = rng.choice(words)
    lines[i] = lines[i].replace(word, _odd_word(rng, word)) or 'x'
  return ('\n'.join(lines) + '\n').encode()


def _write_zip(members: dict[str, bytes], compression: int) -> bytes:
  """Returns a zip archive, which depends on its members alone."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compresslevel=1) as archive:
    for name, content in members.items():
      info = zipfile.ZipInfo(name, _FIXED_DATE)
      archive.writestr(info, content, compression)
  return file.getvalue()


def _mutate_zip(rng: random.Random, content: bytes) -> bytes:
  """Damages a member of a zip archive, whose checksums then are correct."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  name = rng.choice(sorted(members))
  action = rng.randrange(20)
  if action == 0:
    del members[name]
  elif action == 1:
    members[rng.choice(('../x', '/tmp/x', name * 2, 'é'))] = members[name]
  elif action == 2:
    members[name] = bytes(_BOMB_BYTES)
    return _write_zip(members, zipfile.ZIP_DEFLATED)
  elif name.endswith('.json'):
    members[name] = _mutate_json(rng, members[name])
  elif name.endswith('.pkl') and action < 12:
    members[name] = _insert_opcodes(rng, members[name])
  else:
    members[name] = _mutate_bytes(rng, members[name])
  compression = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
  return _write_zip(members, compression)


def write_tar_gz(members: dict[str, bytes]) -> bytes:
  """Returns a .tar.gz archive, which depends on its members alone."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return gzip.compress(file.getvalue(), 1, mtime=0)


def _mutate_tar_gz(rng: random.Random, content: bytes) -> bytes:
  """Damages a .tar.gz archive or a member, compressed correctly."""
  plain = gzip.decompress(content)
  action = rng.randrange(10)
  if action < 3:
    return gzip.compress(_mutate_bytes(rng, plain), 1, mtime=0)
  if action == 3:
    return gzip.compress(plain + bytes(_BOMB_BYTES), 1, mtime=0)
  with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
    members = {
      member.name: archive.extractfile(member).read()  # type: ignore[union-attr]
      for member in archive
    }
  name = rng.choice(sorted(members))
  if action == 4:
    del members[name]
  elif action == 5:
    members[rng.choice(('../x.index', '/tmp/x.index', 'a/b/é'))] = members[name]
  else:
    members[name] = _mutate_bytes(rng, members[name])
  return write_tar_gz(members)


def _insert_opcodes(rng: random.Random, content: bytes) -> bytes:
  """Inserts instructions of the pickle machine, some of them many times."""
  codes = sorted(opcode.code for opcode in pickletools.opcodes)
  start, _ = _span(rng, content)
  block = ''.join(rng.choice(codes) for _ in range(rng.choice((1, 2, 8))))
  repeats = rng.choice((1, 1, 30, 3000))
  return content[:start] + block.encode('latin-1') * repeats + content[start:]


def _mutate_pickle(rng: random.Random, content: bytes) -> bytes:
  mutate_one = rng.choice((_insert_opcodes, _mutate_bytes))
  return mutate_one(rng, content)


def _mutate_torch(rng: random.Random, content: bytes) -> bytes:
  if content[:2] == b'PK':
    return _mutate_zip(rng, content)
  return _mutate_bytes(rng, content)


def _mutate_png(rng: random.Random, content: bytes) -> bytes:
  """Damages chunks of a PNG file, whose checksums then are correct."""
  chunks, start = [], 8
  while start < len(content):
    (length,) = struct.unpack('>I', content[start : start + 4])
    chunks.append(
      (content[start + 4 : start + 8], content[start + 8 : start + 8 + length])
    )
    start += 12 + length
  i = rng.randrange(len(chunks))
  kind, data = chunks[i]
  action = rng.randrange(8)
  if action == 0:
    del chunks[i]
  elif action == 1:
    chunks.insert(rng.randint(0, len(chunks)), chunks[i])
  elif action == 2:
    size = [rng.choice((0, 1, 7, 9000, 40_000, 2**31 - 1)) for _ in range(2)]
    head = struct.pack('>II', *size)
    chunks = [(k, head + d[8:] if k == b'IHDR' else d) for k, d in chunks]
  elif kind == b'IDAT' and action < 5:
    pixels = _mutate_bytes(rng, zlib.decompress(data))
    chunks[i] = kind, zlib.compress(pixels, 1)
  elif action == 7:
    odd = rng.choice((b'tRNS', b'eXIf', b'iTXt', b'acTL', b'fdAT', b'iCCP'))
    chunks.insert(1, (odd, rng.randbytes(rng.choice((0, 1, 6, 40)))))
  else:
    chunks[i] = kind, _mutate_bytes(rng, data)
  return content[:8] + b''.join(
    struct.pack('>I', len(data))
    + kind
    + data
    + struct.pack('>I', zlib.crc32(kind + data))
    for kind, data in chunks
  )


def _mutate_safetensors(rng: random.Random, content: bytes) -> bytes:
  (length,) = struct.unpack('<Q', content[:8])
  header = _mutate_json(rng, content[8 : 8 + length])
  if rng.random() < 0.3:
    dtypes = (b'F8_E4M3', b'F8_E5M2', b'BF16', b'F64', b'BOOL', b'U64', b'F4')
    header = content[8 : 8 + length].replace(b'F32', rng.choice(dtypes), 1)
  return struct.pack('<Q', len(header)) + header + content[8 + length :]


_STRUCTURAL: dict[str, Callable[[random.Random, bytes], bytes]] = {
  '.gz': _mutate_tar_gz,
  '.json': _mutate_json,
  '.jsonl': _mutate_json_lines,
  '.keras': _mutate_zip,
  '.npz': _mutate_zip,
  '.pdparams': _mutate_pickle,
  '.png': _mutate_png,
  '.pt': _mutate_torch,
  '.pth': _mutate_torch,
  '.safetensors': _mutate_safetensors,
  '.txt': _mutate_words,
  '.xml': _mutate_xml,
}
