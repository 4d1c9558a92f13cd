r"""Examines a data set before training.

    python -m deeplab.doctor --config=configs/folder_mnv2.py \
        --config.data.root=MY_IMAGES --config.data.num_classes=3 \
        --output=report.html

reads every image and mask of the training and the evaluation split, prints
what is wrong with them, and exits with status 1 if training would go wrong.
--output writes the same with pictures, as one HTML file.
"""

from absl import app
from absl import flags
from ml_collections import config_flags

from deeplab import cli
from deeplab import system
from deeplab.data import datasets
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import report
from deeplab.doctor import scan
from deeplab.doctor import summary
from deeplab.files import output_files

# The data, and fields that must fit it for training to start.
_READ_FIELDS = cli.ReadFields(
  (
    *('data', 'loss.balance', 'loss.balance_rule', 'loss.class_weights'),
    *('batch_size', 'accumulate_steps', 'total_steps', 'epochs'),
    *('model.frozen_norms', 'quantization.name', 'quantization.frozen_norms'),
    *('optimizer.learning_rate', 'eval.batch_size', 'eval.every_epochs'),
    *('log_every_steps', 'checkpoint.every_steps', 'checkpoint.keep_latest'),
  ),
  but=('data.threads', 'data.prefetch', 'data.cache'),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  config_flag = config_flags.DEFINE_config_file(
    'config',
    None,
    'Config: a file under configs/, optionally with ":variant".',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output',
    None,
    'The .html file that the report with pictures goes to.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'processes',
    0,
    'Number of processes; 0: one per core.',
    lower_bound=0,
    flag_values=values,
  )
  cli.define_overwrite_flag(values)
  return config_flag


def _run(config_flag: flags.FlagHolder) -> None:
  config = cli.config_from_flag(config_flag, reads=_READ_FIELDS)
  if config is None:
    raise ValueError(
      '--config is missing; for a folder of your own, '
      '--config=configs/folder_mnv2.py --config.data.root=FOLDER'
    )
  config = datasets.resolve_config(config)
  dataset = datasets.Dataset(config.data)
  splits, issues = {}, []
  for split in dict.fromkeys((config.data.train_split, config.data.eval_split)):
    splits[split], split_issues = example_loader.list_examples(dataset, split)
    issues += split_issues
  output, name = None, ''
  if flags.FLAGS.output:
    output, name = output_files.open_output_file(
      flags.FLAGS.output,
      inputs=[
        path
        for refs in splits.values()
        if not isinstance(refs, int)  # prepared records
        for ref in refs
        for path in (ref.image, ref.mask)
      ],
      overwrite=flags.FLAGS.overwrite,
    )
  scans = scan.scan_splits(
    splits, dataset, flags.FLAGS.processes or system.cpu_count()
  )
  result = diagnosis.diagnose(scans, issues, config, dataset)
  print(summary.format_summary(result))
  if output:
    output.write_text(name, report.render_html(result, dataset))
    print(f'Report with pictures: {flags.FLAGS.output}')
  if not result.can_train:
    raise SystemExit(1)


def main(argv: list[str], config_flag: flags.FlagHolder) -> None:
  """Examines the data set of the flags and prints the findings."""
  cli.run_command(argv, lambda: _run(config_flag))


if __name__ == '__main__':
  _config_flag = define_flags()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
