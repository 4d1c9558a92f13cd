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


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir', None, 'Work directory of the run.', flag_values=values
  )
  flags.DEFINE_enum(
    'checkpoint',
    'best',
    ['best', 'latest'],
    'Checkpoint of the run.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output', None, 'The .safetensors file to write.', flag_values=values
  )
  cli.define_overwrite_flag(values)


def _run() -> None:
  if not flags.FLAGS.workdir or not flags.FLAGS.output:
    raise ValueError(
      '--workdir (the run) and --output (the file to write) are required'
    )
  deeplab.write_run_weights(
    flags.FLAGS.workdir,
    flags.FLAGS.checkpoint,
    flags.FLAGS.output,
    flags.FLAGS.overwrite,
  )
  print(f'Wrote {flags.FLAGS.output}.')


def main(argv: list[str]) -> None:
  """Writes the file; errors that the user can correct are one line."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
