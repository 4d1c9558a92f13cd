"""Scripts that run a sweep's commands on other machines."""

from collections.abc import Callable
from collections.abc import Sequence
import shlex

Commands = Sequence[Sequence[str]]


def _quote_commands(commands: Commands) -> list[str]:
  return [shlex.join(command) for command in commands]


def shell_script(title: str, commands: Commands) -> str:
  """Returns a shell script that runs all commands in order."""
  return (
    '\n'.join(('#!/bin/bash', f'# {title}', *_quote_commands(commands))) + '\n'
  )


def slurm_script(title: str, commands: Commands) -> str:
  """Returns a job array for `sbatch`, one task per run.

  With `--nodes` and `--ntasks` a run spans several machines: `srun` starts one
  process on each, and the processes connect to each other.
  """
  if not commands:
    return shell_script(title, commands)
  runs = [f'  {shlex.quote(line)}' for line in _quote_commands(commands)]
  return (
    '\n'.join(
      (
        '#!/bin/bash',
        f'#SBATCH --job-name={title}',
        f'#SBATCH --array=0-{len(commands) - 1}',
        '#SBATCH --output=%x-%a.log',
        '#SBATCH --requeue',
        'runs=(',
        *runs,
        ')',
        'eval "srun ${runs[$SLURM_ARRAY_TASK_ID]}"',
      )
    )
    + '\n'
  )


def tpu_script(title: str, commands: Commands) -> str:
  """Returns a script that runs the commands in order on all hosts of a TPU pod.

  It reads the name and zone of the pod from $TPU and $ZONE, and the project's
  folder on the hosts from $FOLDER. Work directories must be on a file system
  that all hosts share.
  """
  lines = [
    'gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all '
    f'--command="cd $FOLDER && "{shlex.quote(line)}'
    for line in _quote_commands(commands)
  ]
  needed = ': "${TPU:?}" "${ZONE:?}" "${FOLDER:?}"'
  return '\n'.join(('#!/bin/bash', f'# {title}', needed, *lines)) + '\n'


LAUNCHERS: dict[str, Callable[[str, Commands], str]] = {
  'shell': shell_script,
  'slurm': slurm_script,
  'tpu': tpu_script,
}
