"""The environments of the originals that parity tests compare with.

    python -m tests.peers FOLDER
    DEEPLAB_PEERS=FOLDER python -m pytest tests/models/paddleseg_test.py

The first command makes one virtual environment for each peer below the folder,
since their requirements exclude each other and ours (paddlepaddle and JAX want
different versions of opt-einsum). Tests with torch run in that of torch, which
has the project's requirements, too: FOLDER/torch/bin/python -m pytest. The
others are started by tests as processes of their own, which skip where
DEEPLAB_PEERS does not name the folder.
"""

import os
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# Files of requirements, and packages that are installed without theirs: these
# ask for other versions of what is there, or for what no test calls.
_PEERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
  'torch': (
    (
      *('-r', 'requirements.txt', '-r', 'tests/requirements.txt'),
      *(
        '-r',
        'tests/requirements-torch.txt',
        'huggingface-hub',
        'platformdirs',
      ),
      *('regex', 'wcwidth'),
    ),
    (
      *('torchvision==0.28.0', 'timm==1.0.26'),
      *('mmsegmentation==1.2.2', 'mmengine==0.10.7', 'mmcv-lite==2.1.0'),
      *('addict==2.4.0', 'yapf==0.43.0', 'prettytable==3.18.0', 'ftfy==6.3.1'),
      'segmentation-models-pytorch==0.6.0',
    ),
  ),
  'paddle': (
    ('paddlepaddle==3.3.1', 'paddleseg==2.8.0', 'numpy==1.26.4'),
    (),
  ),
  'keras_hub': (
    ('-r', 'requirements.txt'),
    ('keras-hub==0.32.0', 'kagglesdk==0.1.38'),
  ),
}


def find_python(peer: str) -> str:
  """Returns the interpreter of a peer, or skips the calling test.

  Args:
    peer: 'paddle' or 'keras_hub'.
  """
  import pytest  # the environments are made without it

  python = os.path.join(
    os.environ.get('DEEPLAB_PEERS', ''), peer, 'bin', 'python'
  )
  if not os.path.exists(python):
    pytest.skip(f'DEEPLAB_PEERS names no folder with an environment {peer}')
  return python


def main(folder: str) -> None:
  """Makes the environments that the folder lacks."""
  for peer, (required, without) in _PEERS.items():
    path = os.path.abspath(os.path.join(folder, peer))
    if os.path.exists(path):
      print(f'{path} is there')
      continue
    subprocess.run([sys.executable, '-m', 'venv', path], check=True)
    install = [os.path.join(path, 'bin', 'python'), '-m', 'pip', 'install']
    for arguments in (required, without and ('--no-deps', *without)):
      if arguments:
        subprocess.run([*install, *arguments], check=True, cwd=_ROOT)
    print(f'{path} is made')


if __name__ == '__main__':
  main(*sys.argv[1:])
