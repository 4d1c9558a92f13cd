"""Trains or evaluates a segmentation model.

Train; evaluations on the way and all results go into a work directory:

    python -m deeplab.main --config=configs/shapes_mnv2.py
    python -m deeplab.main --config=configs/folder_mnv2.py \\
        --config.data.root=MY_IMAGES --config.data.num_classes=3

A variant of the config follows a colon (`configs/voc_mnv2.py:smoke` shrinks
everything to minutes), and any field can be set by its name. The same command
with `--workdir` of an earlier run resumes it.

Evaluate a run, or a file exported from it, with the run's `data` and `eval`
settings (or with those of another config, given by --config):

    python -m deeplab.main --mode=evaluate --workdir=W
    python -m deeplab.main --mode=evaluate --workdir=W --tflite=F.tflite

or a published network, or any file of weights, on the data set of a config:

    python -m deeplab.main --mode=evaluate --weights=mmseg:NAME --config=PAGE \\
        --config.data.root=ROOT

On several machines the same command runs on each. Tasks of SLURM and hosts of a
TPU pod find each other; elsewhere, give the address of process 0:

    python -m deeplab.main --config=... --workdir=SHARED \\
        --coordinator=HOST:PORT --processes=2 --process=0

Before training, `--dry_run` prints shapes, MACs, parameters and memory, and
`--list` prints all configs, encoders, heads, weights and data sets.
"""

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab import cli
from deeplab import describe
from deeplab import evaluate
from deeplab import parallel
from deeplab import train
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.inference import load
from deeplab.pretrained import identify

# The weights fix channels, depth and normalization of the images.
_READ_IN_EVALUATION = cli.ReadFields(
  (
    *cli.DATASET_FIELDS,
    *('data.data_dir', 'data.fallback', 'data.train_split', 'data.eval_split'),
    *('data.pool', 'data.pool_share', 'data.pool_seed', 'eval'),
    *('data.images', 'data.labels'),
  ),
  but=('eval.every_epochs',),
)
# A config may also describe the network of a file of weights.
_READ_WITH_WEIGHTS = cli.ReadFields(
  (*_READ_IN_EVALUATION.paths, 'data.mean', 'data.std', 'data.depth', 'model'),
  but=_READ_IN_EVALUATION.but,
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  flags.DEFINE_string(
    'workdir',
    None,
    'Work directory of the run; by default runs/<config>/<time>.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'evaluate'],
    'Train, or evaluate the run in --workdir.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'tflite',
    None,
    'With --mode=evaluate: exported file, .tflite or .onnx, to evaluate beside '
    'the checkpoint.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'weights',
    None,
    'With --mode=evaluate: any trained model in place of a run, as '
    'python -m deeplab.predict takes them. --config then gives the data set, '
    'and the network where the weights do not tell; results go to --workdir.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'checkpoint',
    'best',
    ['best', 'latest'],
    'With --mode=evaluate: checkpoint to evaluate, the best by mIoU or the '
    'latest.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'coordinator',
    '',
    'With several processes: HOST:PORT of process 0.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'processes',
    0,
    'With several processes: their number.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'process',
    None,
    'With several processes: the number of this one, from 0.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'dry_run',
    False,
    'Print shapes, MACs, parameters and memory, and exit.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'list',
    False,
    'Print configs, encoders, heads, weights and data sets, and exit.',
    flag_values=values,
  )
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'Experiment: a file in configs/, with ":variant" if wanted.',
    flag_values=values,
  )


def _evaluate(
  values: flags.FlagValues,
  config: ConfigDict | None,
  overrides: frozenset[str],
) -> None:
  """Evaluates the run of --workdir, or the model of --weights."""
  if not values.weights:
    if not values.workdir:
      raise ValueError(
        '--mode=evaluate needs --workdir, the run to evaluate, or --weights'
      )
    evaluate.evaluate_workdir(
      values.workdir,
      tflite=values.tflite,
      which=values.checkpoint,
      config=config,
      overrides=overrides,
    )
    return
  if values.tflite:
    raise ValueError('--tflite is compared with a run: give --workdir')
  if load.is_exported_file(values.weights):
    if config is None:
      raise ValueError(
        f'{values.weights} names no data: pass --config=PAGE '
        '--config.data.root=ROOT, a data set of its classes'
      )
    workdir = values.workdir or workdir_lib.new_workdir(config)
    evaluate.evaluate_file(values.weights, workdir, config)
    logging.info('Results: %s', workdir)
    return
  model = identify.load_model_for_data(
    values.weights, values.checkpoint, config
  )
  workdir = values.workdir or workdir_lib.new_workdir(model.config)
  evaluate.evaluate_model(model, workdir, config=config, overrides=overrides)
  logging.info('Results: %s', workdir)


def _run(values: flags.FlagValues, config_flag: flags.FlagHolder) -> None:
  reads = None  # all, also in a dry run of the same command line
  if values.list:
    reads = cli.ReadFields(())
  elif values.mode == 'evaluate':
    reads = _READ_WITH_WEIGHTS if values.weights else _READ_IN_EVALUATION
  config = cli.config_from_flag(config_flag, values, reads)
  if values.list:
    print(describe.list_choices())
    return
  parallel.start(values.coordinator, values.processes, values.process)
  if values.mode == 'evaluate':
    _evaluate(values, config, cli.overridden_fields(config_flag, values))
    return
  if values.weights:
    raise ValueError(
      f'--weights={values.weights} is evaluated by --mode=evaluate; training '
      f'starts from it by --config.init_from={values.weights}'
    )
  if config is None:
    raise ValueError(
      '--config is missing; --list prints all of them, for example '
      '--config=configs/shapes_mnv2.py'
    )
  if values.dry_run:
    print(describe.dry_run(datasets.resolve_config(config)))
    return
  workdir = values.workdir or workdir_lib.new_workdir(config)
  logging.info('Work directory: %s', workdir)
  logging.info('Devices: %s', jax.devices())
  train.train(config, workdir)


def main(
  argv: list[str],
  config_flag: flags.FlagHolder,
  values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Runs the command; an error that the user can mend is one line."""
  try:
    cli.run_command(argv, lambda: _run(values, config_flag))
  except BaseException as error:
    parallel.end(error)
    raise


if __name__ == '__main__':
  _config_flag = define_flags()
  jax.config.config_with_absl()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
