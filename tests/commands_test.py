"""Commands and flags that texts name exist: pages, notebooks, code."""

import ast
import functools
import importlib.util
import json
import pathlib
import re

import pytest

from configs import common
from configs.recipes import folder

ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE = ('deeplab', 'configs', 'experiments', 'export')
COMMAND = re.compile(r'python3? -m ((?:deeplab|experiments|export)[\w.]*)(.*)')
FLAG = re.compile(r'(?<![\w-])--([a-z][a-z_]*)((?:\.[a-z_0-9]+)*)')
# Flags of absl, of other programs, and of tests.
FOREIGN = {'help', 'helpfull', 'v', 'verbosity', 'logdir'}
# Modules that hold command lines of other programs.
OTHER_PROGRAMS = (
  *('experiments/launchers.py', 'experiments/benchmarks/torch_worker.py'),
  *('export/devices/vela.py', 'deeplab/workdir.py'),
)


def _texts():
  """Yields (name, text) of all prose: pages, notebooks, docstrings, strings."""
  for name in ('README.md', '.github/CONTRIBUTING.md'):
    yield name, (ROOT / name).read_text(encoding='utf-8')
  for folder_name in (*CODE, 'notebooks'):
    for path in sorted((ROOT / folder_name).rglob('*.md')):
      yield str(path.relative_to(ROOT)), path.read_text(encoding='utf-8')
  for path in sorted((ROOT / 'notebooks').glob('*.ipynb')):
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    yield path.name, '\n'.join(''.join(cell['source']) for cell in cells)
  for folder_name in CODE:
    for path in sorted((ROOT / folder_name).rglob('*.py')):
      tree = ast.parse(path.read_text(encoding='utf-8'))
      strings = []
      for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
          parts = [
            part.value if isinstance(part, ast.Constant) else 'X'
            for part in node.values
          ]
          strings.append(''.join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
          strings.append(node.value)
      yield str(path.relative_to(ROOT)), '\n'.join(strings)


TEXTS = dict(_texts())


def _join_lines(text):
  """Joins commands that a backslash or an indented line continues."""
  text = re.sub(r'\\\\?\n\s*', ' ', text)
  return re.sub(r'\n\s+(--)', r' \1', text)


def _source(module):
  spec = importlib.util.find_spec(module)
  if spec is None:
    return None
  path = pathlib.Path(spec.origin)
  if path.name == '__init__.py':
    path = path.with_name('__main__.py')
  return path.read_text(encoding='utf-8') if path.exists() else None


def _is_define(node):
  return (
    isinstance(node, ast.Call)
    and isinstance(node.func, ast.Attribute)
    and node.func.attr.startswith('DEFINE_')
  )


@functools.cache
def _names(source):
  """Returns the names of the flags that a module defines.

  Those of a loop over names are the strings of the loop.
  """
  found = set()
  for node in ast.walk(ast.parse(source)):
    if _is_define(node):
      found.add(getattr(node.args[0], 'value', ''))
    elif isinstance(node, ast.For) and any(map(_is_define, ast.walk(node))):
      strings = ast.walk(node.iter)
      found |= {s.value for s in strings if isinstance(s, ast.Constant)}
  return found


def _fields():
  """Returns the dotted names of all config fields and sections."""
  config = common.default_config()
  folder.set_data(config)
  found = set()

  def walk(section, prefix):
    for name, value in section.items():
      found.add(prefix + name)
      if hasattr(value, 'items'):
        walk(value, f'{prefix}{name}.')

  walk(config, '')
  return found


FIELDS = _fields()
# Flags that several commands share are defined in these.
SHARED = ('deeplab.cli', 'experiments.zoo_rows')


@pytest.mark.parametrize('name', sorted(TEXTS))
def test_commands_and_their_flags_exist(name):
  wrong = []
  for module, rest in COMMAND.findall(_join_lines(TEXTS[name])):
    source = _source(module.rstrip('.'))
    if source is None:
      wrong.append(f'no command {module}')
      continue
    known = _names(source).union(*(_names(_source(m)) for m in SHARED))
    rest = re.split(r'[`|;#)]|python3? -m', rest, maxsplit=1)[0]
    for flag, field in FLAG.findall(rest):
      plain = flag.removeprefix('no')
      if field:
        section = field[1:]
        model = re.match(r'model\.(encoder|head|auxiliary)\.', section)
        if flag != 'config' or not (model or section in FIELDS):
          wrong.append(f'{module} --{flag}{field}')
      elif not {flag, plain} & (known | FOREIGN):
        wrong.append(f'{module} --{flag}')
  assert wrong == []


@pytest.mark.parametrize('name', sorted(TEXTS))
def test_config_fields_exist(name):
  wrong = []
  for section in re.findall(r'--config\.([a-z_][\w.]*[\w])', TEXTS[name]):
    if (
      'X' in section
      or section in FIELDS
      or re.match(r'model\.(encoder|head|auxiliary)\.', section)
    ):
      continue
    wrong.append(section)
  assert wrong == []


def test_flags_in_prose_exist():
  """Flags that prose names without a command are flags of some command."""
  known = set()
  for folder_name in CODE:
    for path in (ROOT / folder_name).rglob('*.py'):
      if 'DEFINE_' in path.read_text(encoding='utf-8'):
        known |= _names(path.read_text(encoding='utf-8'))
  wrong = set()
  for name, text in TEXTS.items():
    if name in OTHER_PROGRAMS:
      continue
    if name.endswith(('.md', '.ipynb')):
      prose = re.findall(r'`(--[^`\n]+)`', text)
    else:
      prose = [text]
    for sentence in prose:
      for flag, field in FLAG.findall(sentence):
        if not field and not {flag, flag.removeprefix('no')} & (
          known | FOREIGN
        ):
          wrong.add(f'{name}: --{flag}')
  assert sorted(wrong) == []
