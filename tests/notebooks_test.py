import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from configs import common
from deeplab import workdir as workdir_lib
from deeplab.pretrained import model_folder
from tests.export import weights

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))
by_name = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
  numbers = [path.stem[:2] for path in NOTEBOOKS]
  assert numbers == [f'{i:02}' for i in range(1, len(numbers) + 1)] != []


def _code(path):
  """Returns the code of a notebook; IPython's own lines do nothing."""
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  text = '\n'.join(
    ''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code'
  )
  return re.sub(r'^( *)%.*$', r'\1pass', text, flags=re.M)


@by_name
def test_a_notebook_holds_calls_alone(path):
  book = json.loads(path.read_text(encoding='utf-8'))
  assert book['nbformat'] == 4
  assert book['metadata']['kernelspec']['name'] == 'python3'
  for cell in book['cells']:
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == [] and cell['execution_count'] is None
  for node in ast.walk(ast.parse(_code(path))):
    assert not isinstance(
      node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    )


@pytest.fixture(scope='module')
def runs_dir(tmp_path_factory):
  """Where notebooks find the run that one of them has trained."""
  return tmp_path_factory.mktemp('notebooks')


@pytest.fixture(scope='module')
def saved_model(tmp_path_factory):
  """A model of random weights in place of a published one."""
  config = common.default_config()
  config.model.encoder = {'name': 'mobilenet_v2_tiny'}
  config.model.head = {'name': 'deeplabv3plus', 'channels': 8}
  config.eval.static_size, config.eval.mode = (33, 33), 'static'
  source = weights.make_source(config.lock())
  folder = tmp_path_factory.mktemp('saved') / 'model'
  model_folder.write_model_folder(
    workdir_lib.TrainedModel(
      config, source.dataset, source.variables, None, float('nan')
    ),
    folder,
  )
  return folder


@pytest.mark.full
@by_name
def test_a_notebook_runs(path, tmp_path, runs_dir, data_dir, saved_model):
  if importlib.util.find_spec('nbconvert') is None:
    pytest.skip('nbconvert is not installed')
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'nbconvert', '--to=notebook', '--execute'),
      *(f'--output-dir={tmp_path}', str(path)),
    ],
    cwd=ROOT,
    env=os.environ
    | {
      'SMOKE': '1',
      'DEEPLAB_RUNS': str(runs_dir),
      'DEEPLAB_WEIGHTS': str(saved_model),
      'TFDS_DATA_DIR': data_dir,
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  book = json.loads((tmp_path / path.name).read_text(encoding='utf-8'))
  pictures = [
    output
    for cell in book['cells']
    for output in cell.get('outputs', ())
    if 'image/png' in output.get('data', ())
  ]
  assert len(pictures) >= 2
