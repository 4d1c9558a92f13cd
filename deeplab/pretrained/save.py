"""Saves a trained model as a folder that works without its run and its data.

    python -m deeplab.pretrained.save --weights=runs/mine --output=models/mine

`model_folder` describes the files. Every command takes the folder by --weights,
Python by `deeplab.load('models/mine')`, and another run can start from it by
config.init_from.
"""

from absl import app
from absl import flags
import jax

from deeplab import cli
from deeplab.pretrained import identify
from deeplab.pretrained import model_folder


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'weights',
    None,
    'Model to save: the work directory of a run, a published name, or a file '
    'of weights.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'checkpoint',
    'best',
    ['best', 'latest'],
    'Checkpoint of the run.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output', None, 'The folder to write.', flag_values=values
  )
  cli.define_overwrite_flag(values)


def _run() -> None:
  weights, output = flags.FLAGS.weights, flags.FLAGS.output
  if not weights or not output:
    raise ValueError(
      '--weights (the model) and --output (the folder to write) are required'
    )
  model_folder.check_folder(output, flags.FLAGS.overwrite)
  model = identify.load_model(weights, flags.FLAGS.checkpoint)
  model_folder.write_model_folder(model, output, flags.FLAGS.overwrite)
  print(
    f'Wrote {output}. To share it: pip install huggingface_hub, then\n'
    f'  hf upload USER/MODEL {output}\n'
    'after which everyone can use --weights=hf:USER/MODEL.'
  )


def main(argv: list[str]) -> None:
  """Writes the folder; errors that the user can correct are one line."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
