import os
import subprocess
import sys

from absl import app
from absl import flags
from ml_collections import config_flags
import pytest

from deeplab import cli
from deeplab import describe
from deeplab import evaluate
from deeplab import main
from tests import runs

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'deeplab.main', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_help_teaches():
  shown = _run('--help').stdout
  for word in ('--config=configs/shapes_mnv2.py', '--mode', '--dry_run'):
    assert word in shown


def test_a_misspelt_key_is_one_sentence():
  done = _run(
    '--config=configs/shapes_mnv2.py:smoke', '--config.optimizer.learnin_rate=1'
  )
  assert done.returncode == 1
  error = done.stderr.strip().splitlines()
  assert error[-1] == (
    "Error: a --config flag is wrong: 'learnin_rate': "
    'Did you mean "learning_rate" instead of "learnin_rate"?'
  )
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('flag', 'sentence'),
  [
    (
      '--model=x',
      'Error: there is no flag --model; the flags of this command are '
      '--config, --images, --max_padding, --opacity, --output, --weights '
      '(--help says more)',
    ),
    (
      '--opacity=much',
      "Error: flag --opacity=much: could not convert string to float: 'much' "
      '(--help says more)',
    ),
  ],
)
def test_a_wrong_flag_is_one_sentence(flag, sentence):
  done = subprocess.run(
    [sys.executable, '-m', 'deeplab.predict', flag],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert done.stderr.splitlines()[-1] == sentence


@pytest.mark.full
@pytest.mark.parametrize(
  ('given', 'sentence'),
  [
    (
      ('--mode=evaluate', '--config.eval.flip=True'),
      'Error: --config.eval.flip changes a field of a config: give the '
      'config too, --config=configs/PAGE.py',
    ),
    (
      (
        '--config=configs/shapes_mnv2.py',
        '--config.model.encoder=mobilenet_v2',
      ),
      'Error: --config.model.encoder=mobilenet_v2: config.model.encoder is a '
      'section of the config, not a field; use --config.model.encoder.FIELD='
      '...; configs/common.py lists the fields',
    ),
    (
      ('--config=configs/shapes_mnv2.py', '--config.eval_every=10'),
      "Error: a --config flag is wrong: there is no field 'eval_every'; "
      'configs/common.py lists all fields',
    ),
  ],
)
def test_a_field_that_is_not_there_is_one_sentence(given, sentence):
  done = _run(*given)
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1] == sentence


def _parse(*arguments):
  """Returns (the flag --config, all flags), parsed from a command line."""
  values = flags.FlagValues()
  config_flag = main.define_flags(values)
  values(['main', *arguments])
  return config_flag, values


def test_a_misspelt_page_is_one_sentence(monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(
    cli.config_flags,
    'get_config_filename',
    lambda flag: 'configs/foldr_mnv2.py:smoke',
  )
  config_flag, values = _parse()
  monkeypatch.setattr(values['config'], 'present', 1)
  with pytest.raises(SystemExit) as refused:
    main.main(['main'], config_flag, values)
  assert str(refused.value).startswith(
    'Error: --config=configs/foldr_mnv2.py: there is no such file; did you '
    'mean configs/folder_mnv2.py'
  )


def test_a_misspelt_variant_is_one_sentence():
  done = _run('--config=configs/voc_resnet.py:r50,r102')
  assert done.returncode == 1
  assert done.stderr.strip().splitlines()[-1] == (
    "Error: a --config flag is wrong: variant 'r102' is unknown; this config "
    "has ['20k', '40k', 'flip', 'ms', 'r101', 'r50', 'smoke']"
  )
  assert 'Traceback' not in done.stderr


def test_any_field_of_the_model_can_be_overridden(monkeypatch):
  monkeypatch.chdir(ROOT)
  values = flags.FlagValues()
  argv = [
    'main',
    '--config=configs/folder_mnv2.py',
    '--config.model.encoder.activation=relu',
    '--config.model.head.name=deeplabv3',
    '--config.model.head.channels=64',
    '--config.model.auxiliary.name=fcn',
  ]
  flag = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  values(argv)
  config = cli.config_from_flag(flag, values)
  assert config.model.encoder.activation == 'relu'
  assert config.model.encoder.top_conv  # the page's
  # Another class: its own defaults, and what was given beside its name.
  assert config.model.head.rates == (6, 12, 18)
  assert config.model.head.channels == 64
  assert 'decoder_convs' not in config.model.head
  assert config.model.auxiliary.channels == 256
  assert config.is_locked


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((), '--config is missing; --list prints'),
    (('--mode=evaluate',), 'needs --workdir, the run to evaluate'),
    (
      ('--mode=evaluate', '--workdir=/no/such/run'),
      'is not the work directory of a run',
    ),
  ],
)
def test_flags_that_lack_something(arguments, message):
  with pytest.raises(SystemExit, match=message):
    main.main(['main'], *_parse(*arguments))


def test_positional_arguments_are_refused():
  with pytest.raises(app.UsageError, match=r'unexpected arguments'):
    main.main(['main', 'train'], *_parse())


def test_listing_names_what_there_is(monkeypatch):
  monkeypatch.chdir(ROOT)
  text = describe.list_choices()
  for name in (
    'configs/voc_xception.py',
    'mobilenet_v2',
    'deeplabv3plus',
    'random_scale',
    'cityscapes',
  ):
    assert name in text
  assert 'common.py' not in text


def test_dry_run_says_what_it_would_take(data_dir):
  text = describe.dry_run(
    runs.config(data_dir, init_from='torchvision:resnet50')
  )
  assert 'starts from weights torchvision:resnet50 of https://' in text
  assert 'training 65x65' in text
  assert 'export 64x64' in text
  assert 'M parameters' in text
  assert 'one step of 4 images on one cpu device' in text
  assert 'encoder/stem' in text


def test_a_run_evaluates_to_its_own_score(smoke_run):
  results = evaluate.evaluate_workdir(smoke_run.workdir)
  assert results['checkpoint'].examples == 100
  assert results['checkpoint'].metrics['miou'] == smoke_run.metrics['miou']
  files = os.listdir(os.path.join(smoke_run.workdir, 'eval', 'checkpoint'))
  assert {'metrics.json', 'confusion.json', 'confusion.png'} <= set(files)


def test_errors_become_one_line():
  def fail():
    raise ValueError('learning_rate=-1 is negative; raise it')

  with pytest.raises(SystemExit, match=r'^Error: learning_rate=-1 is neg'):
    cli.run_command(['main'], fail)


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'weights': 'a.pth'}, 'is evaluated by --mode=evaluate; training starts'),
    ({'mode': 'evaluate'}, 'needs --workdir, the run to evaluate, or --weight'),
    (
      {'mode': 'evaluate', 'weights': 'a.pth', 'tflite': 'b.tflite'},
      'is compared with a run: give --workdir',
    ),
    (
      {'mode': 'evaluate', 'weights': 'none.pth'},
      "--weights='none.pth' is neither a file or folder nor a name",
    ),
  ],
)
def test_weights_are_evaluated(given, message):
  config_flag, values = _parse()
  for name, value in given.items():
    setattr(values, name, value)
  with pytest.raises(SystemExit, match=message):
    main.main(['main'], config_flag, values)
