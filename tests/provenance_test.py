import subprocess

import jax

from deeplab import workdir as workdir_lib
from tests import runs


def test_a_finished_run_says_what_it_was(smoke_run):
  record = workdir_lib.read_run_record(smoke_run.workdir)
  assert record['name'] == 'shapes_mnv2_smoke'
  assert (record['step'], record['seed'], record['hosts']) == (6, 0, 1)
  assert record['devices'] == 2
  assert record['seconds'] > 0
  assert record['versions']['jax'] == jax.__version__
  assert record['metrics']['miou'] == smoke_run.metrics['miou']
  assert record['config_hash'] == workdir_lib.config_hash(smoke_run.config)


def test_hashes_tell_computations_apart(data_dir):
  hashes = [
    workdir_lib.config_hash(runs.config(data_dir, **fields))
    for fields in (
      {},
      {'data__root': '/x', 'log_every_steps': 7, 'profile_steps': '1:2'},
      {'seed': 1},
    )
  ]
  assert hashes[0] == hashes[1] != hashes[2]
  assert len(hashes[0]) == 16


def test_the_revision_is_that_of_the_checkout():
  head = subprocess.run(
    ['git', 'rev-parse', 'HEAD'], capture_output=True, text=True, check=False
  ).stdout.strip()
  found = workdir_lib.git_revision()
  assert found is None if not head else found.rstrip('+') == head


def test_a_run_that_goes_on_has_no_record(tmp_path):
  assert workdir_lib.read_run_record(str(tmp_path)) is None
