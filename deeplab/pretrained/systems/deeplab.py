"""This project's own weight files, whose names are our paths."""

import functools
import json

import flax.linen as nn

from deeplab import output_files
from deeplab import workdir as workdir_lib
from deeplab.pretrained import merge
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.systems import mapping


def _own_tensor_refs(
  variables: mapping.PyTree, scope: str
) -> mapping.TensorRefs:
  paths = mapping.missing_tensor_refs(variables, scope)
  return {path: merge.TensorRef(path) for path in paths}


def _part_mapping(scope: str) -> mapping.PartMapping:
  return mapping.PartMapping(functools.partial(_own_tensor_refs, scope=scope))


SYSTEM = mapping.WeightSystem(
  encoders={nn.Module: _part_mapping('encoder')},
  heads={nn.Module: _part_mapping('head')},
  auxiliaries={nn.Module: _part_mapping('auxiliary')},
  segmenter_prefix='head/',
  unused='auxiliary/.*',
)


def write_run_weights(
  workdir: str, checkpoint: str, output: str, overwrite: bool = False
) -> None:
  """Writes the weights of a run.

  Names are our paths without their collection, 'encoder/stem/conv/kernel';
  kernels are [h, w, in, out], and everything is float32. The metadata holds the
  run's `config` and `classes`, both JSON, the `step` and its `miou`.

  Args:
    workdir: the run's work directory.
    checkpoint: 'best' or 'latest' checkpoint.
    output: the file, named '*.safetensors'.
    overwrite: a file that the project did not write may be replaced.

  Raises:
    ValueError: `output` has another suffix, or is a file of the user.
    FileNotFoundError: there is no run, or it has no checkpoint.
  """
  if not output.endswith('.safetensors'):
    raise ValueError(f'--output={output} must end in .safetensors')
  files, name = output_files.open_output_file(output, overwrite=overwrite)
  loaded = workdir_lib.load_trained_model(workdir, checkpoint)
  with files.replace(name) as path:
    safetensors.write_safetensors(
      path,
      merge.flatten_variables(loaded.variables),
      {
        'config': json.dumps(loaded.config.to_dict(), sort_keys=True),
        'classes': json.dumps(list(loaded.dataset.info.class_names)),
        'step': str(loaded.step),
        'miou': str(loaded.miou),
      },
    )
