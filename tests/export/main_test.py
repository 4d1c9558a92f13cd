"""Flags of the export command."""

from absl import flags
import pytest

from export import main


def parse(*args):
  """Returns the names of the flags that a command line gives."""
  values = flags.FlagValues()
  config_flag = main.define_flags(values)
  values(['main', *args])
  return main._given_flags(values, config_flag)


@pytest.mark.parametrize(
  ('args', 'given'),
  [
    (('--weights=W', '--output=O'), {'weights', 'output'}),
    # No flag of the command changes a result where it has its default.
    (('--eval_limit=0', '--noeval', '--data_root='), set()),
    (('--eval_limit=3', '--eval'), {'eval_limit', 'eval'}),
    # --no turns equalization off, which is a choice, too.
    (('--nocalibration_equalize',), {'calibration_equalize'}),
    (('--calibration_rounding=nearest',), {'calibration_rounding'}),
  ],
)
def test_given_flags(args, given):
  assert parse(*args) == given


def test_importing_the_command_defines_no_flags():
  assert 'calibration_rounding' not in flags.FLAGS
