"""Writes the weights of a run as one .safetensors file.

    python -m deeplab.pretrained.export --workdir=W --output=weights.safetensors

The names are our paths, 'encoder/stem/conv/kernel'; kernels are [h, w, in, out]
and everything is float32. Beside the tensors stand the run's `config` (JSON),
its `classes` (JSON), the `step` and its `miou`. The file is what another run's
config.init_from may name.
"""

import json

from absl import app
from absl import flags
import jax

from deeplab import console
from deeplab import workdir as workdirs
from deeplab.pretrained import merge
from deeplab.pretrained import safetensors

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of the run.')
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', ['best', 'latest'], 'Which of its checkpoints.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'The .safetensors file to write.')


def export(workdir: str, which: str, output: str) -> None:
  """Writes the weights of a run.

  Args:
    workdir: its work directory.
    which: 'best' or 'latest' checkpoint.
    output: the file, named '*.safetensors'.

  Raises:
    ValueError: `output` has another end.
    FileNotFoundError: no run, or no checkpoint, is there.
  """
  if not output.endswith('.safetensors'):
    raise ValueError(f'--output={output} must end in .safetensors')
  loaded = workdirs.load(workdir, which)
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


def _run() -> None:
  if not _WORKDIR.value or not _OUTPUT.value:
    raise ValueError(
      '--workdir and --output are needed: the run, and the file to write'
    )
  export(_WORKDIR.value, _CHECKPOINT.value, _OUTPUT.value)
  print(f'Wrote {_OUTPUT.value}.')


def main(argv: list[str]) -> None:
  """Exports; an error that the user can mend is one line."""
  console.run(argv, _run)


if __name__ == '__main__':
  jax.config.config_with_absl()
  app.run(main, flags_parser=console.parse_flags)
