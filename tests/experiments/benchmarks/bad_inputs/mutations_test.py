import io
import json
import random
import struct
from xml.etree import ElementTree
import zipfile
import zlib

import pytest

from experiments.benchmarks.bad_inputs import mutations


def archive(**members):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as opened:
    for name, content in members.items():
      opened.writestr(name, content)
  return file.getvalue()


HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
PNG = bytes.fromhex(
  '89504e470d0a1a0a0000000d494844520000000100000001080000000'
  '03a7e9b550000000a4944415478da63600000000200015ce2d20000000049454e44ae426082'
)
CONTENTS = {
  'a.bin': bytes(range(200)),
  'a.json': b'{"images": [{"id": 1, "size": [3, 4]}], "x": "name"}',
  'a.jsonl': b'{"step": 1}\n{"step": 2}\n',
  'a.xml': b'<a><image name="x" width="3"><box label="car"/></image></a>',
  'a.txt': b'road 1 2 3\ncar 4 5 6\n',
  'a.png': PNG,
  'a.keras': archive(config=b'{"a": 1}', weights=bytes(range(99))),
  'a.safetensors': struct.pack('<Q', len(HEADER)) + HEADER + bytes(4),
}


@pytest.mark.parametrize('name', CONTENTS)
def test_mutants_depend_on_the_random_numbers_alone(name):
  content = CONTENTS[name]

  def make(seed):
    rng = random.Random(seed)
    return mutations.mutate(rng, name, content, [content[::-1]])

  mutants = [make(seed) for seed in range(60)]
  assert mutants[:20] == [make(seed) for seed in range(20)]
  assert len(set(mutants)) > 30
  assert sum(mutant != content for mutant in mutants) > 50


def test_a_value_inside_itself_leaves_the_content():
  """Of this seed the first of several changes makes a circle."""
  content = CONTENTS['a.json']
  rng = random.Random(257)
  assert mutations.mutate(rng, 'a.json', content, []) == content


def _survivors(name, check):
  """Counts the mutants that `check` accepts, of 100."""
  count = 0
  for seed in range(100):
    rng = random.Random(seed)
    mutant = mutations.mutate(rng, name, CONTENTS[name], [])
    if mutant == CONTENTS[name]:
      continue
    try:
      check(mutant)
    except Exception:
      continue
    count += 1
  return count


def _check_png(content):
  start = 8
  while start < len(content):
    length = struct.unpack('>I', content[start : start + 4])[0]
    body = content[start + 4 : start + 8 + length]
    (crc,) = struct.unpack('>I', content[start + 8 + length :][:4])
    assert crc == zlib.crc32(body)
    start += 12 + length


def _check_zip(content):
  with zipfile.ZipFile(io.BytesIO(content)) as opened:
    assert opened.testzip() is None


@pytest.mark.parametrize(
  ('name', 'check'),
  [
    ('a.json', json.loads),
    ('a.xml', ElementTree.fromstring),
    ('a.png', _check_png),
    ('a.keras', _check_zip),
  ],
)
def test_some_mutants_pass_the_first_check_of_readers(name, check, monkeypatch):
  """Without structure nearly all would end at a checksum or a bracket."""
  monkeypatch.setattr(mutations, '_BOMB_BYTES', 1 << 16)
  assert 30 < _survivors(name, check) < 95


def test_bombs_are_small_and_unpack_to_a_gibibyte():
  packed = mutations._write_zip({'x': bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
  assert len(packed) < 1 << 14
  assert mutations._BOMB_BYTES == 1024**3
