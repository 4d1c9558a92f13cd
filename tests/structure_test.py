import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ('deeplab', 'configs', 'experiments', 'export', 'tests')
FILES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob('*.py'))
TOP = {
  *('README.md', 'requirements.txt', 'LICENSE'),
  *('deeplab', 'configs', 'experiments', 'export', 'notebooks', 'tests'),
}


def _imports(path):
  """Returns the modules that a file imports."""
  modules = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
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


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_parses(path):
  compile(path.read_text(encoding='utf-8'), str(path), 'exec')


def test_the_library_imports_nothing_above_it():
  above = ('configs', 'experiments', 'export', 'notebooks', 'tests')
  assert _offenders('deeplab', above) == []


def test_data_imports_no_jax_and_models_no_tensorflow():
  assert _offenders('deeplab/data', ('jax', 'flax', 'optax')) == []
  heavy = ('tensorflow', 'tensorflow_datasets', 'clu')
  assert _offenders('deeplab/models', heavy) == []


def test_one_file_says_pmap():
  said = [
    str(p.relative_to(ROOT))
    for p in sorted((ROOT / 'deeplab').rglob('*.py'))
    if 'jax.pmap' in p.read_text(encoding='utf-8')
  ]
  assert said == ['deeplab/parallel.py']


@pytest.mark.parametrize(
  'modules',
  [
    'deeplab.training.train_step, deeplab.parallel, deeplab.models.registry',
    'experiments.zoo',
    'experiments.benchmarks.inference',
    'experiments.benchmarks.train_step',
  ],
)
def test_steps_and_benchmarks_need_no_tensorflow(modules):
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
