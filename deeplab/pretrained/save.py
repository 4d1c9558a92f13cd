"""Writes the weights of a run as one .safetensors file.

    python -m deeplab.pretrained.save --workdir=W --output=weights.safetensors

Another run can start from the file by its config.init_from;
`systems.deeplab.write_run_weights` describes the contents.
"""

from absl import app
from absl import flags
import jax

from deeplab import cli
from deeplab.pretrained.systems import deeplab

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of the run.')
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', ['best', 'latest'], 'Checkpoint of the run.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'The .safetensors file to write.')


def _run() -> None:
  if not _WORKDIR.value or not _OUTPUT.value:
    raise ValueError(
      '--workdir (the run) and --output (the file to write) are required'
    )
  deeplab.write_run_weights(_WORKDIR.value, _CHECKPOINT.value, _OUTPUT.value)
  print(f'Wrote {_OUTPUT.value}.')


def main(argv: list[str]) -> None:
  """Writes the file; errors that the user can correct are one line."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
