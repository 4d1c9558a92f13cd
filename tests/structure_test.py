"""The structure of the project: import order, READMEs, docstrings."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ('deeplab', 'configs', 'experiments', 'export', 'tests')
CODE = ('deeplab', 'configs', 'experiments', 'export')
FILES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob('*.py'))
TOP = {
  *('README.md', 'requirements.txt', 'LICENSE'),
  *('deeplab', 'configs', 'experiments', 'export', 'notebooks', 'tests'),
}
# Imports run down: a module may import modules of its own folder and of lower
# levels, never of its own level or above. From the top to the bottom.
LEVELS = (
  *('experiments.quickstart', 'experiments.zoo_export experiments.benchmarks'),
  *('experiments.sweep', 'experiments.tabulate experiments.device_search'),
  'experiments.readme_table experiments.plots experiments.ablations',
  'experiments.study',
  'experiments.zoo experiments.launchers experiments.atrous',
  *('experiments.published_scores', 'experiments.zoo_rows'),
  *('deeplab.api', 'export.main export.sensitivity'),
  *('export.pipeline', 'export.report'),
  *('export.verify', 'export.frozen_model', 'export.convert'),
  *('export.source', 'export.request', 'export.file_formats'),
  *('export.devices', 'export.output_folder export.graph'),
  'configs',
  'deeplab.main deeplab.demo',
  *('deeplab.describe', 'deeplab.train'),
  *('deeplab.predict', 'deeplab.evaluate', 'deeplab.pretrained'),
  *('deeplab.doctor', 'deeplab.networks', 'deeplab.inference'),
  *('deeplab.workdir', 'deeplab.training', 'deeplab.quantization'),
  *('deeplab.visualize deeplab.metrics', 'deeplab.data', 'deeplab.cli'),
  *('deeplab.files', 'deeplab.models'),
  *('deeplab.parallel', 'deeplab.system'),
  'deeplab.text deeplab.tflite_schema',
)
LEVEL = {
  room: level for level, names in enumerate(LEVELS) for room in names.split()
}
ARRAYS = re.compile(r'\b(np\.ndarray|jax\.Array|jnp\.ndarray|Array)\b')
# Arrays of many shapes by name, such as the tensors of a file.
NAMED_ARRAYS = re.compile(r'(dict|Mapping)\[str, [\w.]+\]')
SHAPE = re.compile(r'\[[^\]\n]*\]|[Ss]calar|[Ee]lementwise|any shape|one value')


# It is a table of converters, each of which is imported when it runs.
IMPORTS_LATE = 'export/file_formats.py'


def _runtime_nodes(tree, late):
  """Yields nodes that run, those of functions only if `late`."""
  for node in ast.iter_child_nodes(tree):
    typing_only = isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(
      node.test
    )
    if typing_only or (isinstance(node, ast.FunctionDef) and not late):
      continue
    yield node
    yield from _runtime_nodes(node, late)


def _imports(path, late=True):
  """Returns the modules that a file imports, in functions only if `late`."""
  modules = set()
  tree = ast.parse(path.read_text(encoding='utf-8'))
  for node in _runtime_nodes(tree, late):
    if isinstance(node, ast.Import):
      modules |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      modules |= {f'{node.module}.{alias.name}' for alias in node.names}
  return modules


def _offenders(folder, banned):
  return [
    f'{path.relative_to(ROOT)}: {module}'
    for path in sorted((ROOT / folder).rglob('*.py'))
    for module in sorted(_imports(path))
    if any(module == b or module.startswith(f'{b}.') for b in banned)
  ]


def _module(path):
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def _room(module):
  """Returns the file or folder below a package to which a module belongs."""
  parts = module.split('.')
  return parts[0] if parts[0] == 'configs' else '.'.join(parts[:2])


def _code_files():
  return [path for path in FILES if path.relative_to(ROOT).parts[0] in CODE]


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_parses(path):
  compile(path.read_text(encoding='utf-8'), str(path), 'exec')


def test_every_module_has_a_level():
  rooms = {_room(_module(path)) for path in _code_files()}
  named = {room for room in rooms if not room.endswith('.__init__')}
  assert named == set(LEVEL)


def test_imports_run_down():
  wrong = []
  for path in _code_files():
    name = str(path.relative_to(ROOT))
    room = _room(_module(path))
    for module in sorted(_imports(path, late=name != IMPORTS_LATE)):
      other = _room(module)
      if room == other or other not in LEVEL or room not in LEVEL:
        continue
      if LEVEL[other] <= LEVEL[room]:
        wrong.append(f'{name}: {module}')
  assert wrong == []


def test_the_library_imports_nothing_above_it():
  """Its public face, `deeplab.api`, is above `export` and alone there."""
  above = ('configs', 'experiments', 'export', 'notebooks', 'tests')
  found = _offenders('deeplab', (*above, 'deeplab.api'))
  assert {line.partition(':')[0] for line in found} == {'deeplab/api.py'}
  assert {line.partition(': ')[2].split('.')[0] for line in found} == {'export'}


def test_data_imports_no_jax_and_models_no_tensorflow():
  assert _offenders('deeplab/data', ('jax', 'flax', 'optax')) == []
  heavy = ('tensorflow', 'tensorflow_datasets', 'clu')
  assert _offenders('deeplab/models', heavy) == []


@pytest.mark.parametrize(
  ('text', 'owner'),
  [
    (r'\bpmap\(|jax\.pmap', 'deeplab/parallel.py'),
    (
      r'import.*qwix\._src|from qwix\._src',
      'deeplab/quantization/simulator/qwix_compat.py',
    ),
  ],
)
def test_one_file_says(text, owner):
  said = [
    str(path.relative_to(ROOT))
    for path in _code_files()
    if re.search(text, path.read_text(encoding='utf-8'))
  ]
  assert said == [owner]


def _folders():
  """Returns the folders of the code that hold more than three modules."""
  folders = {path.parent for path in _code_files()} | {ROOT / 'tests'}
  count = lambda f: len([p for p in f.glob('*.py') if p.name != '__init__.py'])
  return sorted(f for f in folders if count(f) > 3)


def test_large_folders_have_a_readme():
  missing = [
    str(folder.relative_to(ROOT))
    for folder in [*_folders(), ROOT / 'notebooks']
    if not (folder / 'README.md').is_file()
  ]
  assert missing == []


def _pages():
  pages = [*ROOT.glob('*.md'), *(ROOT / '.github').glob('*.md')]
  for name in (*CODE, 'notebooks', 'tests'):
    pages += (ROOT / name).rglob('*.md')
  return sorted(pages)


def test_pages_name_files_that_exist():
  missing = []
  for page in _pages():
    text = page.read_text(encoding='utf-8')
    text = re.sub(r'^ {4}.*$', '', text, flags=re.M)  # blocks of code
    links = re.findall(r'\]\(([^)\s]+)\)', text)
    for link in links:
      target = link.partition('#')[0]
      if target and '://' not in target and not (page.parent / target).exists():
        missing.append(f'{page.relative_to(ROOT)}: {link}')
    for name in re.findall(r'`([\w./]+/[\w.]+\.(?:py|json|csv|txt))`', text):
      placeholder = re.search(r'NAME|ROOT', name)
      bases = (
        page.parent,
        page.parent.parent,
        *(ROOT / x for x in ('', *CODE)),
      )
      if not placeholder and not any((base / name).exists() for base in bases):
        missing.append(f'{page.relative_to(ROOT)}: {name}')
  assert missing == []


def test_importing_a_module_defines_no_flags():
  wrong = [
    f'{path.relative_to(ROOT)}:{node.lineno}'
    for path in _code_files()
    for node in ast.parse(path.read_text(encoding='utf-8')).body
    if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)
    and 'flags.DEFINE_' in ast.unparse(node)
  ]
  assert wrong == []


def _public_functions(tree):
  """Yields the public functions of a module and methods of its classes."""
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      yield node
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name[0] != '_':
          yield method


def test_docstrings_give_the_shapes_of_arrays():
  silent = []
  for path in _code_files():
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in _public_functions(tree):
      arguments = [*node.args.args, *node.args.kwonlyargs]
      hints = [a.annotation for a in arguments if a.annotation]
      hints += [node.returns] if node.returns else []
      written = ' '.join(ast.unparse(hint) for hint in hints)
      arrays = ARRAYS.search(NAMED_ARRAYS.sub('', written))
      if arrays and not SHAPE.search(ast.get_docstring(node) or ''):
        silent.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.name}')
  assert silent == []


@pytest.mark.parametrize(
  'modules',
  [
    'deeplab.training.train_step, deeplab.parallel, deeplab.models.registry',
    'experiments.zoo',
    'experiments.benchmarks.inference',
    'experiments.benchmarks.train_step',
    'export.devices.tflm',
  ],
)
def test_steps_benchmarks_and_devices_need_no_tensorflow(modules):
  code = (
    f'import sys, {modules}; '
    'bad = {"tensorflow", "tensorflow_datasets", "clu"} & set(sys.modules); '
    'sys.exit(str(bad) if bad else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def test_top_level_is_as_agreed():
  tracked = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  if tracked.returncode:
    pytest.skip('not a git checkout')
  top = {line.split('/')[0] for line in tracked.stdout.splitlines()}
  assert {t for t in top if not t.startswith('.')} <= TOP
