"""Our own weights as a file: their names are our paths."""

import functools
import json

import flax.linen as nn

from deeplab import workdir as workdir_lib
from deeplab.pretrained import merge
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.systems import base


def _sources(variables: base.PyTree, scope: str) -> base.Sources:
  layouts = base.nowhere(variables, scope)
  return {path: merge.Source(path) for path in layouts}


def _part(scope: str) -> base.Part:
  return base.Part(functools.partial(_sources, scope=scope))


SYSTEM = base.System(
  encoders={nn.Module: _part('encoder')},
  heads={nn.Module: _part('head')},
  auxiliaries={nn.Module: _part('auxiliary')},
  whole='head/',
  unused='auxiliary/.*',
)


def write(workdir: str, which: str, output: str) -> None:
  """Writes the weights of a run.

  Names are our paths without their collection, 'encoder/stem/conv/kernel';
  kernels are [h, w, in, out], and everything is float32. Beside the tensors
  stand the run's `config` and `classes`, both JSON, the `step` and its `miou`.

  Args:
    workdir: the run's work directory.
    which: 'best' or 'latest' checkpoint.
    output: the file, named '*.safetensors'.

  Raises:
    ValueError: `output` has another end.
    FileNotFoundError: no run, or no checkpoint, is there.
  """
  if not output.endswith('.safetensors'):
    raise ValueError(f'--output={output} must end in .safetensors')
  loaded = workdir_lib.load(workdir, which)
  safetensors.write(
    output,
    merge.flatten(loaded.variables),
    {
      'config': json.dumps(loaded.config.to_dict(), sort_keys=True),
      'classes': json.dumps(list(loaded.info.class_names)),
      'step': str(loaded.step),
      'miou': str(loaded.miou),
    },
  )
