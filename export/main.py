"""Exports a trained model as SavedModel, TFLite, ONNX or C, and checks it.

    python -m export.main --weights=runs/shapes_mnv2/1 --output=exports/shapes

writes saved_model/, float32.tflite, float16.tflite and int8.tflite to --output,
with a model card (.json) beside each, labels.txt, and a report (.json, .md and
.html): size, operators, memory, differences from JAX and mIoU of each file. JAX
and every file are evaluated on the whole validation split; --eval_limit=50
shortens that, --noeval skips it. Without an evaluation and without integer
files no data set is read.

    python -m export.main --weights=theirs.pth --output=exports/theirs \\
        --calibration_images=FOLDER

exports weights of another framework, a published network or a saved model (as
in deeplab.predict). Integer files calibrate on the images of a plain folder, on
which every file is compared with JAX, too. mIoU needs labels: --config=PAGE
--config.data.root=ROOT names a data set of the same classes.

    python -m export.main --config=configs/voc_mnv2.py --output=exports/voc

needs no training and no data: it exports an untrained model of that config, to
look at operators, size and speed. Any field can be overridden:
--config.model.X=Y.

Common requirements of devices:

    uint8 image in, float32 probabilities out (ST):
        --formats=int8 --input_type=uint8 --output_kind=softmax
    int8 in, int8 out (an NPU that leaves nothing to the CPU):
        --formats=int8 --input_type=int8 --output_type=int8
    a mask of one byte per pixel:
        --output_kind=argmax --output_type=uint8
    ONNX in float and int8, and C sources with an example for TFLite Micro
    (both are made from the int8_litert file if int8 is not exported):
        --formats=int8,onnx,c
    a certain device, which is checked layer by layer:
        --target=ethos-u55-128 --output_kind=argmax

The report also holds device checks of the int8 files, with plots: arena and
outputs of TFLite Micro, Arm's Vela compiler for Ethos-U, latency of LiteRT on
this machine, estimates for other targets. --nodevice_checks skips them.

Integer formats come from two converters:

    int8         TensorFlow's converter; ranges are the extremes over images
    int16x8      the same with 16-bit activations
    int8_litert  litert-converter; ranges by --calibration_method, or trained in
                 simulated int8 (config.quantization). Its file computes what
                 that simulation computes, bit by bit on LiteRT's reference
                 kernels

In int8_litert files, --wide_layers='head.*' gives layers 16-bit activations,
--float_layers='head.*' keeps layers in float32, and --power_of_two makes every
scale a power of two.

The command fails, names the operator and its tensor, and writes nothing if a
file holds an operator that LiteRT's builtin kernels lack, or if an int8 file
computes in float.
"""

import dataclasses
import time

from absl import app
from absl import flags
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab import cli
from deeplab import networks
from deeplab.data import datasets
from deeplab.pretrained import identify
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import gptq
from deeplab.quantization.ptq import range_estimators
from export import file_formats
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from export.devices import targets
from export.report import markdown

# What an untrained model and its quantization depend on. Exports have kernels,
# type and normalization layers of their own.
_READ_UNTRAINED = cli.ReadFields(
  (
    *('name', 'seed', *cli.DATASET_FIELDS, 'data.mean', 'data.std'),
    *('data.depth', 'model', 'eval.static_size', 'quantization'),
  ),
  but=(
    *('model.depthwise', 'model.pointwise', 'model.remat'),
    *('model.unbiased_variance', 'model.classifier_stddev'),
    *('model.frozen_norms', 'quantization.name', 'quantization.frozen_norms'),
    *('quantization.range_decay', 'quantization.range_steps'),
    'quantization.calibration.images',
  ),
)
# Flags that override fields of config.quantization.
_QUANTIZATION_FIELDS = {
  'float_layers': 'float_layers',
  'wide_layers': 'wide_layers',
  'weight_granularity': 'weights',
  'power_of_two': 'power_of_two',
  'calibration_method': 'calibration.method',
  'calibration_equalize': 'calibration.equalize',
  'calibration_rounding': 'calibration.rounding',
}


def define_flags(
  values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  _define_source_flags(values)
  _define_file_flags(values)
  _define_quantization_flags(values)
  _define_check_flags(values)
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'With --weights: the data set with labels (--config.data.root), and the '
    'network of a file of weights where its tensors do not tell. Without: '
    'export an untrained model of this config, without a data set.',
    flag_values=values,
  )


def _define_source_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    'weights',
    None,
    'Model to export: the work directory of a run, the folder of a saved '
    'model, a published name (python -m deeplab.main --list), a file of '
    'weights, or hf:USER/MODEL.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'checkpoint',
    'best',
    ['best', 'latest'],
    'The checkpoint of a run to export.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'data_root',
    None,
    'Root of the data set of a run or a saved model, if it has moved.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output',
    None,
    'Folder to write. An earlier export in it is replaced; files that no '
    'export has written are kept.',
    flag_values=values,
  )
  cli.define_overwrite_flag(values)


def _define_file_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_list(
    'formats',
    list(file_formats.DEFAULT_FORMATS),
    f'Files to write, of {", ".join(file_formats.FORMATS)}; onnx selects both '
    'ONNX formats.',
    flag_values=values,
  )
  flags.DEFINE_list(
    'input_size',
    None,
    'H,W of the files; default config.eval.static_size.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'normalization',
    'graph',
    list(request_lib.NORMALIZATIONS),
    'graph: the files take RGB pixels in 0..255 and normalize them; caller: '
    'they take (image - mean) / std, which the int8 file takes quantized.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'input_type',
    None,
    'Input dtype of int8 and int8_litert files: uint8 (default), int8 or '
    'float32. Other formats take float32.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'output_kind',
    'logits',
    list(request_lib.OUTPUT_KINDS),
    'Output of the files per pixel: K logits, K probabilities, or a class id.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output_type',
    None,
    'Output dtype of int8 and int8_litert files: float32 (default), int8 or '
    'uint8; with --output_kind=argmax of every file: int32 (default) or uint8.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'target',
    None,
    sorted(targets.TARGETS),
    'Device that int8 and int8_litert files must fit. It sets the defaults of '
    'the I/O dtypes and of --resize; operators and memory are checked.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'resize',
    None,
    list(request_lib.RESIZE_MODES),
    'Upsampling of features and logits: trained: as the model was trained '
    '(default without --target); steps: in as few steps as the target takes '
    '(default with it); host: like steps, but the last resize is left to the '
    'host and is not in the files.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'ram_kib',
    None,
    "With --target: RAM in place of the target's.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    'flash_kib',
    None,
    "With --target: flash memory in place of the target's.",
    flag_values=values,
  )


def _define_quantization_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_string(
    'calibration_images',
    None,
    'Folder of images, searched recursively, that integer files calibrate on, '
    'without labels; default the training images of the data set.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_calibration_images',
    100,
    'Number of images that integer files calibrate on.',
    lower_bound=2,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'calibration_method',
    None,
    list(range_estimators.METHODS),
    'Range estimator of int8_litert; default '
    'config.quantization.calibration.method.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'calibration_rounding',
    None,
    list(gptq.ROUNDING_METHODS),
    'Rounding of the kernels of integer files; default '
    'config.quantization.calibration.rounding.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'calibration_equalize',
    None,
    'Cross-layer equalization: scale the input channels of depthwise kernels '
    'to equal ranges (not with --weight_granularity=tensor); default '
    'config.quantization.calibration.equalize.',
    flag_values=values,
  )
  flags.DEFINE_enum(
    'weight_granularity',
    None,
    list(rules_lib.WEIGHT_GRANULARITIES),
    'One scale of the weights per channel or per tensor; default that of '
    '--target, or config.quantization.weights.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'float_layers',
    None,
    'Regular expression of module paths that int8_litert keeps in float32; it '
    'must match the whole path.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'wide_layers',
    None,
    'Regular expression of module paths that int8_litert computes with 16-bit '
    'activations; it must match the whole path.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'power_of_two',
    None,
    'Make every scale of int8_litert a power of two.',
    flag_values=values,
  )


def _define_check_flags(values: flags.FlagValues) -> None:
  flags.DEFINE_bool(
    'eval',
    None,
    'Evaluate JAX and every file on the validation split; default for a run, '
    'and where --config.data.root or --data_root names labeled images.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'eval_limit',
    0,
    'Number of validation images to evaluate; 0 for all.',
    lower_bound=0,
    flag_values=values,
  )
  flags.DEFINE_string(
    'baseline',
    None,
    'Folder of an earlier export, for example of the float run that this run '
    'started from; the report compares the mIoU of both.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'device_checks',
    True,
    'Run the device checks (TFLite Micro, Vela, latency on this machine) on '
    'int8 files, and draw plots.',
    flag_values=values,
  )


def _given_flags(
  values: flags.FlagValues, config_flag: flags.FlagHolder
) -> frozenset[str]:
  """Returns the flags that the command line sets; of booleans the true ones."""
  given = {
    name
    for name in values
    if values[name].present and values[name].value not in (None, False, '')
  }
  given.discard('config')
  if config_flag.value is not None:
    given.add('config')
  # Equalization is set by --nocalibration_equalize, too.
  if values['calibration_equalize'].present:
    given.add('calibration_equalize')
  return frozenset(given)


def _parse_input_size(
  values: flags.FlagValues, config: ConfigDict
) -> tuple[int, ...]:
  if values.input_size is None:
    return tuple(config.eval.static_size)
  try:
    return tuple(int(n) for n in values.input_size)
  except ValueError:
    raise ValueError(
      f'--input_size={",".join(values.input_size)} is not a height and a width'
    ) from None


def _apply_quantization_flags(
  values: flags.FlagValues, config: ConfigDict, network: networks.Network
) -> ConfigDict:
  """Returns the config with the quantization that the flags ask for.

  Args:
    values: the flags.
    config: the experiment.
    network: its network, whose quantization may be fixed by training.

  Raises:
    ValueError: a flag would change what training has fixed.
  """
  overrides = {name: values[name].value for name in _QUANTIZATION_FIELDS}
  if network.has_trained_ranges:
    request_lib.check_trained_quantization(
      [name for name, value in overrides.items() if value is not None]
    )
    return config
  if values.target and overrides['weight_granularity'] is None:
    overrides['weight_granularity'] = request_lib.target_weight_granularity(
      values.target, values.formats
    )
  config = ConfigDict(config)
  with config.unlocked():
    config.update_from_flattened_dict(
      {
        f'quantization.{_QUANTIZATION_FIELDS[name]}': value
        for name, value in overrides.items()
        if value is not None
      }
    )
  return config


def _make_request(
  values: flags.FlagValues,
  given: frozenset[str],
  config: ConfigDict,
  dataset: datasets.Dataset,
) -> request_lib.Request:
  request = request_lib.make_request(
    formats=values.formats,
    input_size=_parse_input_size(values, config),
    num_classes=dataset.info.num_classes,
    normalization=values.normalization,
    input_type=values.input_type,
    output=values.output_kind,
    output_type=values.output_type,
    target=values.target or '',
    resize=values.resize,
    ram_kib=values.ram_kib,
    flash_kib=values.flash_kib,
    rules=rules_lib.from_config(config.quantization),
  )
  request_lib.check_calibration_flags(given, request)
  return request


def _load(
  values: flags.FlagValues,
  given: frozenset[str],
  config: ConfigDict | None,
  overrides: frozenset[str],
  has_labels: bool,
) -> tuple[source_lib.ExportSource, request_lib.Request]:
  """Loads the trained model, or initializes the model of --config."""
  if values.weights:
    source = source_lib.load_trained(
      values.weights,
      values.checkpoint,
      config=config,
      overrides=overrides,
      data_root=values.data_root or '',
      calibration_folder=values.calibration_images or '',
      has_labels=has_labels,
    )
    config = _apply_quantization_flags(values, source.config, source.network)
    source = dataclasses.replace(source, config=config)
    return source, _make_request(values, given, config, source.dataset)
  # A request that makes no sense is refused before the model is initialized.
  assert config is not None  # by check_flags
  dataset = datasets.Dataset(config.data)
  config = _apply_quantization_flags(
    values, config, networks.Network(config, dataset)
  )
  request = _make_request(values, given, config, dataset)
  return source_lib.init_untrained(config), request


def _has_labels(
  values: flags.FlagValues, overrides: frozenset[str], has_config: bool
) -> bool:
  """Returns True if the command line names labeled images.

  A run does, and a config whose root is given, or whose evaluation is asked
  for.

  Args:
    values: the flags.
    overrides: fields of --config that the command line sets.
    has_config: True if --config is given.
  """
  if not values.weights:
    return False
  return (
    bool(values.data_root or {'data.root', 'data.data_dir'} & overrides)
    or (has_config and bool(values.eval))
    or identify.is_run(values.weights)
  )


def _run(values: flags.FlagValues, config_flag: flags.FlagHolder) -> None:
  start = time.monotonic()
  given = _given_flags(values, config_flag)
  config = cli.config_from_flag(
    config_flag,
    values,
    request_lib.READ_WITH_WEIGHTS if values.weights else _READ_UNTRAINED,
  )
  overrides = cli.overridden_fields(config_flag, values)
  has_labels = _has_labels(values, overrides, config is not None)
  evaluates = has_labels if values.eval is None else values.eval
  request_lib.check_flags(given, has_labels, evaluates)
  source, request = _load(values, given, config, overrides, has_labels)
  report = pipeline.export_model(
    source,
    request,
    values.output,
    num_calibration_images=values.num_calibration_images,
    evaluate_files=evaluates,
    eval_limit=values.eval_limit,
    check_devices=values.device_checks,
    baseline=values.baseline or '',
    overwrite=values.overwrite,
  )
  print(markdown.render_quality_table(report))
  print(f'\nWrote {values.output} in {time.monotonic() - start:.0f} s.')


def main(
  argv: list[str],
  config_flag: flags.FlagHolder,
  values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Exports; an error that the user can mend is printed in one line."""
  cli.run_command(argv, lambda: _run(values, config_flag))


if __name__ == '__main__':
  _config_flag = define_flags()
  jax.config.config_with_absl()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
