r"""Makes tables and plots of a sweep from the records of its runs.

    python -m experiments.tabulate --workdir=runs/output_stride

prints the table and writes it to the sweep's work directory, with plots of mIoU
over MACs (and the Pareto front), of learning curves, and of class IoU. With
--keep the numbers and the first plot are also copied to
experiments/results/ablations, and the tables of README.md and
experiments/README.md are regenerated between the markers

    <!-- ablation:TITLE:begin --> and <!-- ablation:TITLE:end -->

Without --workdir only the pages are regenerated, from the kept results.
"""

import glob
import json
import os
import statistics
from typing import Any
from typing import NamedTuple

from absl import app
from absl import flags

from deeplab import cli
from deeplab import system
from deeplab import text
from deeplab import visualize
from deeplab import workdir as workdir_lib
from deeplab.data import catalog
from deeplab.files import json_files
from deeplab.models import profile
from deeplab.models import registry
from deeplab.training import metric_writer
from experiments import plots
from experiments import readme_table
from experiments import zoo_rows

_KEPT_DIR = os.path.join('experiments', 'results', 'ablations')
_PAGES = ('README.md', os.path.join('experiments', 'README.md'))


def plan_path(workdir: str) -> str:
  """Returns the path of a sweep's plan."""
  return os.path.join(workdir, 'sweep.json')


def run_dir(workdir: str, run: str) -> str:
  """Returns the work directory of one run."""
  return os.path.join(workdir, 'runs', run)


def error_path(workdir: str, run: str) -> str:
  """Returns the path of the error of a failed run."""
  return os.path.join(workdir, 'errors', f'{run}.txt')


def read_run_record(workdir: str, run: str) -> dict[str, Any] | None:
  """Returns the record (run.json) of a run; None if it is not finished."""
  return workdir_lib.read_run_record(run_dir(workdir, run))


_RUN = json_files.record(
  {
    'id': {'type': 'string', 'pattern': r'^[\w.+-]+$'},
    'labels': {'type': 'object', 'additionalProperties': json_files.TEXT},
    'seed': json_files.COUNT,
    'config_hash': json_files.TEXT,
  }
)
_check_plan = json_files.compile_schema(
  json_files.record(
    {
      'study': json_files.TEXT,
      'question': json_files.TEXT,
      'reference': json_files.TEXT,
      'verdict': json_files.TEXT,
      'config': json_files.TEXT,
      'axes': {
        'type': 'object',
        'additionalProperties': json_files.array(json_files.TEXT),
      },
      'runs': json_files.array(_RUN),
    }
  )
)


def read_plan(workdir: str) -> dict[str, Any] | None:
  """Returns the plan of a sweep; None if none was started.

  Raises:
    ValueError: sweep.json is damaged or of another kind.
  """
  if not os.path.exists(plan_path(workdir)):
    return None
  return json_files.read_checked_json(
    plan_path(workdir), _check_plan, 'restore it, or choose another --workdir'
  )


def _network_cost(
  workdir: str, known: dict[str, tuple[int, int]]
) -> dict[str, Any]:
  """Returns 'gmacs' and 'params' of a run's network in evaluation."""
  config = workdir_lib.read_config(workdir)
  model = registry.with_output_stride(config.model, config.eval.output_stride)
  size = tuple(config.eval.static_size)
  classes = catalog.info_for(config.data).num_classes
  key = json.dumps([model.to_dict(), classes, size], sort_keys=True)
  if key not in known:
    traced = profile.count_macs_and_params(model, classes, size)
    known[key] = traced.macs, traced.params
  macs, params = known[key]
  return {'size': list(size), 'gmacs': macs / 1e9, 'params': params}


def collect_sweep(workdir: str) -> dict[str, Any]:
  """Returns the sweep with the results of its runs so far.

  A finished run has 'record', a failed one 'error', a pending one neither.

  Raises:
    ValueError: `workdir` holds no sweep.
  """
  sweep = read_plan(workdir)
  if sweep is None:
    raise ValueError(
      f'{workdir} is not the work directory of a sweep; start one with '
      'python -m experiments.sweep'
    )
  known: dict[str, tuple[int, int]] = {}
  for run in sweep['runs']:
    found = read_run_record(workdir, run['id'])
    if found is not None:
      run['record'] = found
      run |= _network_cost(run_dir(workdir, run['id']), known)
    elif os.path.exists(error_path(workdir, run['id'])):
      with open(error_path(workdir, run['id']), encoding='utf-8') as f:
        run['error'] = f.read().strip()
  return sweep


class Setting(NamedTuple):
  """One row of the table: one setting per axis, over all seeds.

  Attributes:
    labels: label of the setting by axis.
    runs: finished runs.
    failed: number of failed runs.
    pending: number of runs neither finished nor failed.
  """

  labels: tuple[str, ...]
  runs: list[dict[str, Any]]
  failed: int
  pending: int

  @property
  def name(self) -> str:
    """The labels, joined."""
    return ', '.join(self.labels)

  def metric_values(self, metric: str) -> list[float]:
    """Returns a metric of the finished runs that have it."""
    found = [run['record']['metrics'].get(metric) for run in self.runs]
    return [value for value in found if value is not None]


def group_by_setting(sweep: dict[str, Any]) -> list[Setting]:
  """Groups runs by setting, the baseline first."""
  groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
  for run in sweep['runs']:
    groups.setdefault(tuple(run['labels'].values()), []).append(run)
  return [
    Setting(
      labels,
      [run for run in runs if 'record' in run],
      sum('error' in run for run in runs),
      sum('record' not in run and 'error' not in run for run in runs),
    )
    for labels, runs in groups.items()
  ]


def _format_percent(values: list[float], signed: bool = False) -> str:
  if not values:
    return ''
  return f'{100 * statistics.fmean(values):{"+" if signed else ""}.2f}'


def format_table(sweep: dict[str, Any]) -> str:
  """Returns a Markdown table, one line per setting, mIoU in percent.

  The deviation is the sample standard deviation over seeds; the difference is
  to the first line, in percentage points.
  """
  rows = group_by_setting(sweep)
  base = rows[0].metric_values('miou')
  lines = []
  for row in rows:
    miou = row.metric_values('miou')
    notes = [f'{len(row.runs)}']
    notes += [f'{row.failed} failed'] if row.failed else []
    notes += [f'{row.pending} to come'] if row.pending else []
    difference = []
    if row is not rows[0] and miou and base:
      difference = [statistics.fmean(miou) - statistics.fmean(base)]
    first = row.runs[0] if row.runs else None
    lines.append(
      (
        *row.labels,
        f'{first["gmacs"]:.3f}' if first else '',
        f'{first["params"]:,}' if first else '',
        _format_percent(miou),
        f'{100 * statistics.stdev(miou):.2f}' if len(miou) > 1 else '',
        _format_percent(difference, signed=True),
        ', '.join(notes),
      )
    )
  header = (*sweep['axes'], 'GMACs', 'params', 'mIoU', '±', 'to base', 'runs')
  return zoo_rows.markdown_table([h.replace('_', ' ') for h in header], lines)


def format_page(sweep: dict[str, Any]) -> str:
  """Returns the question, our table, published results and the verdict."""
  failed = [
    f'- {run["id"]}: {text.escape_markdown(run["error"])}'
    for run in sweep['runs']
    if 'error' in run
  ]
  records = [run['record'] for run in sweep['runs'] if 'record' in run]
  hours = sum(found['seconds'] for found in records) / 3600
  devices = sorted(
    {f'{x["devices"]} x {text.escape_markdown(x["device"])}' for x in records}
  )
  parts = [
    f'{sweep["question"]} (`{sweep["config"]}`, {len(records)} runs, '
    f'{hours:.1f} hours on {", ".join(devices) or "nothing yet"})',
    format_table(sweep),
    '\n'.join(failed),
    f'Published:\n\n{sweep["reference"].strip()}',
    sweep['verdict'],
  ]
  return '\n\n'.join(filter(None, parts))


def write_plots(
  sweep: dict[str, Any], folder: str, workdir: str | None
) -> None:
  """Writes the plots of the finished runs of a sweep.

  Args:
    sweep: the result of `collect_sweep`.
    folder: gets TITLE_pareto.png and, with `workdir`, TITLE_curves.png and
      TITLE_classes.png.
    workdir: work directory of the sweep, with the records of its runs.
  """
  rows = [row for row in group_by_setting(sweep) if row.metric_values('miou')]
  if not rows:
    return
  points = [(r.name, r.runs[0]['gmacs'], r.metric_values('miou')) for r in rows]
  start = os.path.join(folder, sweep['study'])
  visualize.save_image(plots.plot_pareto(points), f'{start}_pareto.png')
  if workdir is None:
    return
  curves = {}
  for row in rows:
    paths = [
      os.path.join(run_dir(workdir, run['id']), 'metrics.jsonl')
      for run in row.runs
    ]
    curves[row.name] = [
      [
        (x['step'], x['miou'])
        for x in metric_writer.read_metrics(path)
        if x.get('miou')
      ]
      for path in paths
    ]
  visualize.save_image(
    plots.plot_learning_curves(curves), f'{start}_curves.png'
  )
  prefix = 'iou/'
  names = [
    name.removeprefix(prefix)
    for name in rows[0].runs[0]['record']['metrics']
    if name.startswith(prefix)
  ]
  shares = {
    row.name: [row.metric_values(f'{prefix}{name}') for name in names]
    for row in rows
  }
  visualize.save_image(
    plots.plot_class_iou(names, shares), f'{start}_classes.png'
  )


def read_kept_sweeps() -> list[dict[str, Any]]:
  """Returns the sweeps of experiments/results/ablations."""
  sweeps = []
  for path in sorted(glob.glob(os.path.join(_KEPT_DIR, '*.json'))):
    sweeps.append(json_files.read_checked_json(path, _check_plan))
  return sweeps


def update_page(path: str, sweeps: list[dict[str, Any]]) -> None:
  """Regenerates the tables for which a page has markers.

  Args:
    path: a Markdown file.
    sweeps: results of `collect_sweep`.
  """
  with open(path, encoding='utf-8') as f:
    page = new = f.read()
  for sweep in sweeps:
    name = f'ablation:{sweep["study"]}'
    if readme_table.begin_marker(name) in new:
      new = readme_table.replace_between_markers(new, format_page(sweep), name)
  if new != page:
    system.write_text(path, new)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir',
    None,
    'Work directory of a sweep, finished or not.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'keep',
    False,
    'Copy the results to experiments/results and regenerate the tables of the '
    'README pages.',
    flag_values=values,
  )


def _run(values: flags.FlagValues) -> None:
  if values.workdir:
    sweep = collect_sweep(values.workdir)
    page = format_page(sweep)
    print(page)
    system.write_text(os.path.join(values.workdir, 'table.md'), page + '\n')
    write_plots(sweep, values.workdir, values.workdir)
    if not values.keep:
      return
    zoo_rows.write_json(
      os.path.join(_KEPT_DIR, f'{sweep["study"]}.json'), sweep
    )
    write_plots(sweep, _KEPT_DIR, None)
  for path in _PAGES:
    update_page(path, read_kept_sweeps())


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Writes the tables and plots."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  app.run(main)
