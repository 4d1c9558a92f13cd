"""Writes the weights of a run as one .safetensors file.

    python -m deeplab.pretrained.save --workdir=W --output=weights.safetensors

The file is what another run's config.init_from may name; `own.write` says what
stands in it.
"""

from absl import app
from absl import flags
import jax

from deeplab import cli
from deeplab.pretrained.systems import deeplab

_WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory of the run.')
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', ['best', 'latest'], 'Which of its checkpoints.'
)
_OUTPUT = flags.DEFINE_string('output', None, 'The .safetensors file to write.')


def _run() -> None:
  if not _WORKDIR.value or not _OUTPUT.value:
    raise ValueError(
      '--workdir and --output are needed: the run, and the file to write'
    )
  deeplab.write_run_weights(_WORKDIR.value, _CHECKPOINT.value, _OUTPUT.value)
  print(f'Wrote {_OUTPUT.value}.')


def main(argv: list[str]) -> None:
  """Exports; an error that the user can mend is one line."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
