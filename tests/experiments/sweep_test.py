import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from absl import flags
import psutil
import pytest

from deeplab import workdir as workdir_lib
from experiments import launchers
from experiments import study
from experiments import sweep
from experiments import tabulate

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
STUDY = 'experiments/ablations/low_level_channels.py'

# A run of six short steps that resumes, and refuses to be done twice. It scores
# by its channels and its seed.
FAKE = r"""
import json, os, re, sys, time
workdir, config, *flags = sys.argv[1:]
os.makedirs(workdir, exist_ok=True)
text = ' '.join(flags)
channels = int(re.search(r'low_level_channels=(\d+)', text)[1])
seed = int(re.search(r'config.seed=(\d+)', text)[1])
if channels == 8 and seed == 1:
  sys.exit('Error: this one never works')
if os.path.exists(workdir + '/run.json'):
  open(workdir + '/repeated', 'w').close()
steps = workdir + '/steps'
while not os.path.exists(steps) or os.path.getsize(steps) < 6:
  with open(steps, 'a') as f:
    f.write('.')
  print(f'step {os.path.getsize(steps)}/6', flush=True)
  time.sleep(0.1)
with open(config) as f, open(workdir + '/config.json', 'w') as g:
  g.write(f.read())
record = {'metrics': {'miou': channels / 100 + seed / 1000, 'iou/a': None}}
record |= {'seconds': 3.6, 'device': 'cpu', 'devices': 2, 'seed': seed}
record |= {'name': 'x', 'config_hash': '0', 'step': 6}
with open(workdir + '/run.json.tmp', 'w') as f:
  json.dump(record, f)
os.replace(workdir + '/run.json.tmp', workdir + '/run.json')
"""

DRIVER = """
import sys
from experiments import sweep
fake, config = sys.argv[1:3]
sweep.command = lambda run, workdir, python: [
  python, fake, sweep.tabulate.run_dir(workdir, run.id), config, *run.flags
]
sweep._POLL_SECONDS = 0.05
sys.argv[1:3] = []
sweep.define_flags()
sweep.app.run(sweep.main)
"""


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
  """Returns the beginning of a command that sweeps over fake runs."""
  folder = tmp_path_factory.mktemp('fake')
  (folder / 'fake.py').write_text(FAKE)
  (folder / 'driver.py').write_text(DRIVER)
  config = study.parse_config(['--config=configs/folder_mnv2.py:smoke'])
  (folder / 'config.json').write_text(json.dumps(config.to_dict()))
  return [
    sys.executable,
    *(str(folder / name) for name in ('driver.py', 'fake.py', 'config.json')),
  ]


def _sweep(driver, workdir, *more):
  return subprocess.Popen(
    [*driver, f'--study={STUDY}:smoke', f'--workdir={workdir}', *more],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finished(workdir):
  return len(list(workdir.glob('runs/*/run.json')))


@pytest.mark.full
def test_two_kills_change_nothing(driver, tmp_path):
  workdir = tmp_path / 'killed'
  for done in (1, 4):
    process = _sweep(driver, workdir, '--jobs=2')
    deadline = time.monotonic() + 120
    while _finished(workdir) < done and time.monotonic() < deadline:
      assert process.poll() is None, process.communicate()[1]
      time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert done <= _finished(workdir) < 9
  out, err = _sweep(driver, workdir).communicate()
  whole, _ = _sweep(driver, tmp_path / 'whole', '--jobs=2').communicate()
  assert out == whole
  assert out.splitlines()[2:4] == [
    '| 48       | 0.003 | 89,826 | 48.05 | 0.07 |         | 2           |',
    '| 8        | 0.003 | 89,826 | 8.00  |      | -40.05  | 1, 1 failed |',
  ]
  assert '1 of 10 runs failed' in err
  assert _finished(workdir) == 9
  assert not list(workdir.glob('runs/*/repeated'))
  steps = {path.read_text() for path in workdir.glob('runs/*/steps')}
  assert steps == {'......'}  # resumed, and by one process at a time
  (error,) = workdir.glob('errors/*')
  assert error.name == '8-s1.txt'
  assert error.read_text().startswith('Error: this one never works (status 1')


def test_a_sweep_goes_on(driver, tmp_path, monkeypatch):
  """One run fails, one was finished, one is being run by another process."""
  _, _, fake, config = driver
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(sweep, '_POLL_SECONDS', 0.02)
  monkeypatch.setattr(
    sweep,
    'build_command',
    lambda run, workdir, python: [
      *(python, fake, tabulate.run_dir(workdir, run.id), config),
      *run.flags,
    ],
  )
  workdir = str(tmp_path)
  runs = sweep.write_plan(study.load_study(f'{STUDY}:smoke'), workdir, [])[:7]
  assert sweep.execute_runs(runs[:1], workdir, 1) == []
  lock = sweep._lock_run(workdir, runs[1])
  assert sweep._lock_run(workdir, runs[1]) is None
  threading.Timer(3.0, lambda: os.close(lock)).start()
  assert sweep.execute_runs(runs, workdir, 3) == ['8-s1']
  assert _finished(tmp_path) == 6
  assert not list(tmp_path.glob('runs/*/repeated'))
  error = (tmp_path / 'errors' / '8-s1.txt').read_text()
  assert error.startswith('Error: this one never works (status 1')
  assert (
    tabulate.group_by_setting(tabulate.collect_sweep(workdir))[1].failed == 1
  )


WRITES = r"""
import os, sys
workdir, before = sys.argv[1:]
if before and not os.path.exists(before + '/run.json'):
  sys.exit('Error: too early')
if workdir.endswith('bad'):
  sys.exit('Error: this one never works')
os.makedirs(workdir)
with open(workdir + '/run.json', 'w') as f:
  f.write(RECORD)
"""
# What a finished run leaves.
RECORD = json.dumps(
  {
    'name': 'x',
    'config_hash': '0',
    'device': 'cpu',
    'devices': 1,
    'seed': 0,
    'step': 6,
    'seconds': 1.0,
    'metrics': {'miou': 0.5},
  }
)
WRITES = WRITES.replace('RECORD', repr(RECORD))


def test_runs_wait_for_the_weights_that_they_start_from(tmp_path, monkeypatch):
  workdir = str(tmp_path)
  place = lambda name: name and tabulate.run_dir(workdir, name)
  monkeypatch.setattr(sweep, '_POLL_SECONDS', 0.02)
  monkeypatch.setattr(
    sweep,
    'build_command',
    lambda run, workdir, python: [
      *(python, '-c', WRITES, place(run.id), place(run.init_from))
    ],
  )
  runs = [
    study.Run('late', {}, 0, (), init_from='first'),
    study.Run('never', {}, 0, (), init_from='bad'),
    study.Run('bad', {}, 0, ()),
    study.Run('first', {}, 0, ()),
  ]
  assert not sweep.can_start(runs[0], workdir)
  assert sweep.execute_runs(runs, workdir, 4) == ['bad', 'never']
  assert sweep.can_start(runs[0], workdir)
  assert {p.name for p in (tmp_path / 'runs').iterdir()} == {'first', 'late'}
  error = (tmp_path / 'errors' / 'never.txt').read_text()
  assert error == 'bad, whose weights it starts from, failed'


def test_a_start_is_a_work_directory():
  ablation = study.load_study('experiments/ablations/int8_recipe.py:smoke')
  runs = {run.id: run for run in ablation.make_runs()}
  assert runs['float-s1'].init_from == ''
  assert runs['minmax-s1'].init_from == 'float-s1'
  line = sweep.build_command(runs['minmax-s1'], 'W', 'python')
  assert line[-1] == '--config.init_from=W/runs/float-s1'
  assert not any(
    'init_from' in flag
    for flag in sweep.build_command(runs['float-s1'], 'W', 'python')
  )


def test_a_sweep_belongs_to_one_set_of_configs(tmp_path):
  ablation = study.load_study(f'{STUDY}:smoke')
  workdir = str(tmp_path)
  first = sweep.write_plan(ablation, workdir, [])
  assert sweep.write_plan(ablation, workdir, ['--config.data.root=/x']) == [
    study.Run(r.id, r.labels, r.seed, (*r.flags, '--config.data.root=/x'))
    for r in first
  ]
  with pytest.raises(ValueError, match=r'16-s0, .* have another config'):
    sweep.write_plan(ablation, str(tmp_path), ['--config.total_steps=7'])


def test_commands_for_other_machines():
  run = study.Run('a', {}, 0, ('--config=c.py', '--config.x=(1, 2)'))
  command = sweep.build_command(run, 'W', 'python')
  line = (
    'python -m deeplab.main --workdir=W/runs/a --config=c.py '
    "'--config.x=(1, 2)'"
  )
  assert launchers.shell_script('t', [command]).splitlines()[-1] == line
  # What the shells at the other end make of the quotes.
  script = launchers.slurm_script('t', [command, command])
  assert '#SBATCH --array=0-1\n' in script
  shown = subprocess.run(
    ['bash', '-c', f'srun() {{ printf "%s|" "$@"; }}\n{script}'],
    env={'SLURM_ARRAY_TASK_ID': '1'},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert shown == '|'.join([*command, ''])
  gcloud = 'gcloud() { printf "%s\\n" "${@: -1:1}"; }'
  shown = subprocess.run(
    ['bash', '-c', f'{gcloud}\n{launchers.tpu_script("t", [command])}'],
    env={'TPU': 'pod', 'ZONE': 'z', 'FOLDER': 'deeplab'},
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert shown == f'--command=cd deeplab && {line}\n'


def _printed(capsys, workdir, kind):
  values = flags.FlagValues()
  sweep.define_flags(values)
  page = 'experiments/ablations/int8_recipe.py:smoke'
  values(['', f'--study={page}', f'--workdir={workdir}', f'--print={kind}'])
  sweep._run(values, ['--config.data.root=/x'])
  return capsys.readouterr().out


def test_what_is_left_is_printed(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  text = _printed(capsys, tmp_path, 'shell')
  commands = [x for x in text.splitlines() if not x.startswith('#')]
  place = f'--workdir={tmp_path}/runs/'
  assert [line.split()[3] for line in commands] == [
    f'{place}float-s0',
    f'{place}float-s1',
  ]
  assert all(line.endswith(' --config.data.root=/x') for line in commands)
  # The eight others of each seed start from its weights.
  assert text.splitlines()[-1].startswith('# 16 more start from the weights')
  record = tmp_path / 'runs' / 'float-s0' / 'run.json'
  record.parent.mkdir(parents=True)
  record.write_text(RECORD)
  slurm = _printed(capsys, tmp_path, 'slurm')
  assert '#SBATCH --array=0-8\n' in slurm and '\n# 8 more start' in slurm
  assert f'{place}float-s0' not in slurm and f'{place}mse-s0' in slurm
  tpu = _printed(capsys, tmp_path, 'tpu')
  assert tpu.count('gcloud compute tpus tpu-vm ssh') == 9
  assert not (tmp_path / 'logs').exists()  # nothing was run


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_shows_a_bar_and_the_time_left(monkeypatch):
  terminal = _Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  progress = sweep._ProgressReporter(10, 4)
  clock = [progress._bar.start_t]
  monkeypatch.setattr(progress._bar, '_time', lambda: clock[0])
  # Three in a minute, four were done before; logs speak all ten seconds.
  for second in range(1, 61):
    clock[0] += 1
    progress.update(4 + second // 10 / 2)
  shown = terminal.getvalue().split('\r')[-1]
  assert shown.strip().endswith('7.00/10 runs [01:00<01:00]')
  progress.close()


def test_other_outputs_get_lines_with_the_time_left(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(
    sweep.logging, 'info', lambda text, *values: said.append(text % values)
  )
  progress = sweep._ProgressReporter(10, 4)
  progress._began -= 300
  run = study.Run('8-s0', {}, 0, ())
  progress.report_ended(run, 6, 'finished')  # two in five minutes
  assert said == ['6/10 8-s0: finished; about 10 minutes left']
  # Parts of runs count by what their logs say.
  log = tmp_path / 'log'
  log.write_text('')
  job = sweep._Job(run, None, str(log))
  assert job.fraction_done() == 0
  log.write_text('I1 step 20/80  loss 1\nI2 step 60/80  loss 1\n')
  assert job.fraction_done() == 0.75


def test_what_is_missing_is_said(tmp_path):
  with pytest.raises(ValueError, match=r'there is no file nothing\.py'):
    study.load_study('nothing.py')
  with pytest.raises(ValueError, match=r"variant 'tiny' is unknown"):
    study.load_study(f'{STUDY}:tiny')
  with pytest.raises(ValueError, match='not the work directory of a sweep'):
    tabulate.collect_sweep(str(tmp_path))


def _real(workdir, data_dir):
  """Starts four runs of six steps."""
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'experiments.sweep'),
      '--study=experiments/ablations/image_pooling.py:smoke',
      f'--workdir={workdir}',
      *('--', f'--config.data.data_dir={data_dir}'),
      *('--config.epochs=0', '--config.total_steps=6'),
      '--config.checkpoint.every_steps=2',
      '--config.data.augment.random_crop.size=(64, 64)',
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope='module')
def whole(data_dir, tmp_path_factory):
  """Returns a sweep that ran through: its work directory, and its table."""
  workdir = tmp_path_factory.mktemp('whole') / 'sweep'
  process = _real(workdir, data_dir)
  table, said = process.communicate()
  assert process.returncode == 0, said
  return workdir, table


@pytest.mark.full
def test_a_smoke_sweep_for_real(whole):
  workdir, table = whole
  assert _finished(workdir) == 4
  collected = tabulate.collect_sweep(str(workdir))
  assert table.strip() == tabulate.format_table(collected)
  on, off = tabulate.group_by_setting(collected)
  # Without the branch: no convolution of it, 160 x 64 and 2 x 64 of its norm,
  # and 64 of the 320 inputs of the projection to 64.
  assert on.runs[0]['params'] - off.runs[0]['params'] == 160 * 64 + 128 + 4096
  for row in (on, off):
    assert len(set(row.metric_values('miou'))) == 2  # two seeds
  found = workdir_lib.read_run_record(tabulate.run_dir(str(workdir), 'on-s0'))
  assert found['step'] == 6 and found['seconds'] > 0
  assert found['versions']['jax'] and len(found['config_hash']) == 16
  tabulate.write_plots(collected, str(workdir), str(workdir))
  assert {path.name for path in workdir.glob('*.png')} == {
    f'image_pooling_smoke_{what}.png'
    for what in ('pareto', 'curves', 'classes')
  }


@pytest.mark.full
def test_a_machine_that_dies_twice_changes_nothing(whole, data_dir, tmp_path):
  """The sweep and what it runs are killed in the middle of a run."""
  workdir = tmp_path / 'sweep'
  metrics = lambda where, run: tabulate.read_run_record(str(where), run)[
    'metrics'
  ]
  killed = ('on-s0', 'off-s0')
  for name in killed:
    process = _real(workdir, data_dir)
    saved = workdir / 'runs' / name / 'checkpoints' / '2'
    deadline = time.monotonic() + 600
    while not saved.exists():
      assert time.monotonic() < deadline
      assert process.poll() is None, process.communicate()[1]
      time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in started:
      child.kill()
    process.communicate()
    assert started and tabulate.read_run_record(str(workdir), name) is None
  process = _real(workdir, data_dir)
  table, said = process.communicate()
  assert process.returncode == 0, said
  for name in killed:
    log = (workdir / 'logs' / f'{name}.log').read_text()
    assert 'Resuming from step' in log
  assert table == whole[1]
  for run in tabulate.collect_sweep(str(workdir))['runs']:
    assert metrics(workdir, run['id']) == metrics(whole[0], run['id'])
