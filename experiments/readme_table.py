"""Regenerates the table of results in README.md from finished runs.

    python -m experiments.readme_table --workdirs=runs/quickstart,runs/camvid

reads config.json and eval/*/metrics.json of each run, saves one small JSON file
per run in experiments/results/, and writes the table of all of them between the
markers in README.md.
"""

import glob
import json
import os
import pathlib

from absl import app
from absl import flags

from deeplab import cli
from deeplab import system
from deeplab import text
from deeplab import workdir as workdir_lib
from deeplab.files import json_files
from experiments import zoo

_RESULTS_DIR = os.path.join('experiments', 'results')


_check_metrics = json_files.compile_schema(
  json_files.record(
    {
      'examples': json_files.COUNT,
      'miou': json_files.nullable(json_files.SHARE),
      'pixel_accuracy': json_files.nullable(json_files.SHARE),
      'boundary_iou': json_files.nullable(json_files.SHARE),
    }
  )
)


def summarize_run(workdir: str) -> dict:
  """Returns name, data set and scores of one run.

  Raises:
    ValueError: the run has no evaluation.
  """
  config = workdir_lib.read_config(workdir)
  scores = {}
  for path in sorted(pathlib.Path(workdir, 'eval').glob('*')):
    metrics = json_files.read_checked_json(
      path / 'metrics.json', _check_metrics, 'evaluate the run again'
    )
    scores[path.name] = {
      name: metrics[name]
      for name in ('miou', 'pixel_accuracy', 'boundary_iou', 'examples')
    }
  if (
    'checkpoint' in scores
  ):  # 'checkpoint' is the best one, maybe also the last
    scores.pop('last', None)
  if not scores:
    raise ValueError(
      f'{workdir} has no evaluation; run python -m deeplab.main '
      f'--mode=evaluate --workdir={workdir} first'
    )
  return {'name': config.name, 'data': config.data.name, 'scores': scores}


def format_table(results: list[dict]) -> str:
  """Returns the results as a Markdown table."""
  header = (
    *('run', 'evaluated', 'images', 'mIoU', 'pixel accuracy', 'boundary IoU'),
  )
  rows = [
    (
      text.escape_markdown(result['name']),
      text.escape_markdown(model),
      str(score['examples']),
      *(
        text.format_number(score[metric], '.4f')
        for metric in ('miou', 'pixel_accuracy', 'boundary_iou')
      ),
    )
    for result in sorted(results, key=lambda r: r['name'])
    for model, score in result['scores'].items()
  ]
  return '\n'.join(
    text.format_table(header, rows, right_align=False, pad=False)
  )


def begin_marker(name: str) -> str:
  """Returns the marker that precedes the table of that name."""
  return f'<!-- {name}:begin -->'


def replace_between_markers(page: str, new: str, name: str) -> str:
  """Replaces the text between the markers of a table in a Markdown page.

  Raises:
    ValueError: the page lacks the markers.
  """
  start, end = begin_marker(name), f'<!-- {name}:end -->'
  if start not in page or end not in page:
    raise ValueError(f'the page lacks the markers {start} and {end}')
  before, rest = page.split(start, 1)
  return f'{before}{start}\n{new}\n{end}{rest.split(end, 1)[1]}'


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_list(
    'workdirs',
    [],
    'Finished runs to add; none: only regenerate the table.',
    flag_values=values,
  )


def _run() -> None:
  for workdir in flags.FLAGS.workdirs:
    result = summarize_run(workdir)
    content = json.dumps(result, indent=1, sort_keys=True)
    system.write_text(
      os.path.join(_RESULTS_DIR, f'{result["name"]}.json'), content + '\n'
    )
  results = []
  for path in sorted(glob.glob(os.path.join(_RESULTS_DIR, '*.json'))):
    results.append(json_files.read_checked_json(path, zoo.check_results))
  with open('README.md', encoding='utf-8') as f:
    readme = f.read()
  system.write_text(
    'README.md',
    replace_between_markers(readme, format_table(results), 'results'),
  )


def main(argv: list[str]) -> None:
  """Adds the runs and regenerates the table."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  define_flags()
  app.run(main)
