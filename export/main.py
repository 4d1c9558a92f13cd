"""Exports a trained model as SavedModel and TFLite files, and checks them.

    python -m export.main --workdir=runs/shapes_mnv2/1 --output=exports/shapes

writes, under --output, saved_model/, float32.tflite, float16.tflite and
int8.tflite, a model card (.json) beside each, labels.txt, and report.md and
report.json: sizes, operators, memory, distance from JAX and mIoU of each file.
The whole validation split is evaluated with JAX and with every file;
--eval_limit=50 shortens that, --noeval leaves it out; without it and without
int8 no data set is read.

    python -m export.main --config=configs/voc_mnv2.py --output=exports/voc

needs no training and no data: an untrained model of that shape, to see
operators, sizes and speed. Fields may be overridden: --config.model.X=Y.

Some of what devices ask for:

    uint8 image in, float32 confidences out (ST):
        --formats=int8 --input_type=uint8 --output_kind=softmax
    int8 in, int8 out (an NPU with nothing left on the CPU):
        --formats=int8 --input_type=int8 --output_type=int8
    a mask, one byte a pixel:
        --output_kind=argmax --output_type=uint8
    ONNX, float and int8, and C with an example that builds on TFLite Micro
    (of the int8_litert file, if that stands in int8's place):
        --formats=int8,onnx,c
    what a certain device takes, or a sentence that says why it cannot:
        --target=ethos-u55-128 --output_kind=argmax

The report, Markdown and one HTML page, also says what devices make of the int8
file, with pictures: TFLite Micro's memory and bits, Arm's compiler for Ethos-U,
LiteRT's time here, estimates for other targets; --noproof leaves that out.

Integer files (--formats) come by two ways:

    int8         TensorFlow's converter, ranges by its own calibration
    int16x8      likewise, with 16-bit activations
    int8_litert  litert-converter, ranges by --calibration_method or by training
                 in simulated int8 (config.quantization); its file computes what
                 that simulation computes, on LiteRT's reference kernels

and of the last, --wide_layers='head.*' computes layers with activations of 16
bits, --float_layers='head.*' keeps them in float32, and --power_of_two makes
every scale a power of two.

A file with an operator that LiteRT's builtin kernels do not have, or an int8
file with float arithmetic in it, is refused: the command fails, names operator
and tensor, and writes nothing.
"""

import dataclasses
import time

from absl import app
from absl import flags
import jax
from ml_collections import ConfigDict
from ml_collections import config_flags

from deeplab import cli
from deeplab.data import datasets
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import gptq
from deeplab.quantization.ptq import range_estimators
from export import pipeline
from export import request as request_lib
from export import source as source_lib
from export.devices import targets
from export.report import markdown

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Work directory of the run to export.'
)
_CHECKPOINT = flags.DEFINE_enum(
  'checkpoint', 'best', ['best', 'latest'], 'With --workdir: which one.'
)
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Instead of --workdir: export an untrained model of this config, without '
  'any data set.',
)
_DATA_ROOT = flags.DEFINE_string(
  'data_root',
  None,
  "With --workdir: where the run's data set lies now, if it was moved.",
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Folder to write. An earlier export there is replaced.'
)
_FORMATS = flags.DEFINE_list(
  'formats',
  list(request_lib.DEFAULT_FORMATS),
  f'Which files to write, of {", ".join(request_lib.FORMATS)}; onnx is both '
  'of its kinds.',
)
_INPUT_SIZE = flags.DEFINE_list(
  'input_size', None, 'H,W of the files; default config.eval.static_size.'
)
_NORMALIZATION = flags.DEFINE_enum(
  'normalization',
  'graph',
  ['graph', 'caller'],
  'graph: the files take images as they are (RGB in 0..255) and normalise '
  'them; caller: they take (image - mean) / std. The int8 file then takes that '
  'quantised.',
)
_INPUT_TYPE = flags.DEFINE_string(
  'input_type',
  None,
  'Input of int8 and int8_litert files: uint8 (default), int8 or float32. The '
  'other formats take float32.',
)
_OUTPUT_KIND = flags.DEFINE_enum(
  'output_kind',
  'logits',
  list(request_lib.OUTPUT_KINDS),
  'What the files return a pixel: K logits, K probabilities, or a class id.',
)
_OUTPUT_TYPE = flags.DEFINE_string(
  'output_type',
  None,
  'Output of int8 and int8_litert files: float32 (default), int8 or uint8; '
  'with --output_kind=argmax of every file: int32 (default) or uint8.',
)
_TARGET = flags.DEFINE_enum(
  'target',
  None,
  sorted(targets.TARGETS),
  'Device that int8 and int8_litert files must fit. It chooses their ends and '
  'the steps of resizes, unless they are given; operators and memories '
  'are checked.',
)
_RESIZE = flags.DEFINE_enum(
  'resize',
  None,
  list(request_lib.RESIZE_MODES),
  'How maps and logits are enlarged: as the model was trained (default without '
  '--target), in as few steps as the target takes (default with), or so, but '
  'for the last resize, which is left to the host and not in the files.',
)
_RAM = flags.DEFINE_integer(
  'ram_kib', None, "With --target: RAM in place of the target's."
)
_FLASH = flags.DEFINE_integer(
  'flash_kib', None, "With --target: flash in place of the target's."
)
_CALIBRATION_IMAGES = flags.DEFINE_integer(
  'calibration_images',
  100,
  'Images of the training split that integer ranges are taken from; drawn '
  'ones with --config.',
  lower_bound=2,
)
_CALIBRATION_METHOD = flags.DEFINE_enum(
  'calibration_method',
  None,
  list(range_estimators.METHODS),
  'How int8_litert takes ranges from images; default '
  'config.quantization.calibration.method.',
)
_CALIBRATION_ROUNDING = flags.DEFINE_enum(
  'calibration_rounding',
  None,
  list(gptq.ROUNDING_METHODS),
  'How kernels of integer files are rounded; default '
  'config.quantization.calibration.rounding.',
)
_CALIBRATION_EQUALIZE = flags.DEFINE_bool(
  'calibration_equalize',
  None,
  'Channels that depthwise kernels read are brought to one range (not with '
  '--weights=tensor); default '
  'config.quantization.calibration.equalize.',
)
_WEIGHTS = flags.DEFINE_enum(
  'weights',
  None,
  list(rules_lib.WEIGHT_GRANULARITIES),
  'One scale of the weights a channel, or a tensor; default what --target '
  'wants, or config.quantization.weights.',
)
_FLOAT_LAYERS = flags.DEFINE_string(
  'float_layers',
  None,
  'Regular expression of whole module paths that int8_litert keeps in float32.',
)
_WIDE_LAYERS = flags.DEFINE_string(
  'wide_layers',
  None,
  'Likewise, whose operators int8_litert computes with 16-bit activations.',
)
_POWER_OF_TWO = flags.DEFINE_bool(
  'power_of_two', None, 'Scales of int8_litert are powers of two.'
)
_EVAL = flags.DEFINE_bool(
  'eval',
  None,
  'Evaluate JAX and every file on the validation split; default with '
  '--workdir, impossible with --config.',
)
_EVAL_LIMIT = flags.DEFINE_integer(
  'eval_limit', 0, 'Only the first so many images; 0: all.', lower_bound=0
)
_BESIDE = flags.DEFINE_string(
  'beside',
  None,
  'Folder of an earlier export, of the float run say that this one began with: '
  'the report sets its mIoU beside the new ones.',
)
_PROOF = flags.DEFINE_bool(
  'proof',
  True,
  'Ask TFLite Micro, Vela and this CPU what they make of the int8 file, and '
  'draw pictures.',
)


def _check_flags() -> None:
  """Refuses flags that contradict each other.

  Raises:
    ValueError: which ones, and what to pass instead.
  """
  workdir, config = bool(_WORKDIR.value), _CONFIG.value is not None
  if workdir == config:
    raise ValueError(
      'pass either --workdir (a run) or --config (an untrained model)'
    )
  if not _OUTPUT.value:
    raise ValueError('--output is missing: the folder to write')
  if config and _EVAL.value:
    raise ValueError(
      '--eval needs --workdir: an untrained model (--config) has no mIoU'
    )
  if config and flags.FLAGS['checkpoint'].present:
    raise ValueError('--checkpoint needs --workdir: --config has none')
  for name in ('calibration_rounding', 'calibration_equalize'):
    if config and flags.FLAGS[name].present:
      raise ValueError(
        f'--{name} needs --workdir: kernels of an untrained model (--config) '
        'are rounded to the nearest step'
      )
  if config and _DATA_ROOT.value:
    raise ValueError('--data_root needs --workdir: --config reads no data')
  evaluates = workdir and _EVAL.value is not False
  if _BESIDE.value and not evaluates:
    raise ValueError('--beside has no meaning without an evaluation')
  if _EVAL_LIMIT.value and not evaluates:
    raise ValueError('--eval_limit has no meaning without an evaluation')
  if _CALIBRATION_METHOD.value and 'int8_litert' not in _FORMATS.value:
    raise ValueError(
      '--calibration_method needs int8_litert among --formats: TensorFlow '
      'takes extremes'
    )


def _input_size(config: ConfigDict) -> tuple[int, ...]:
  if _INPUT_SIZE.value is None:
    return tuple(config.eval.static_size)
  try:
    return tuple(int(n) for n in _INPUT_SIZE.value)
  except ValueError:
    raise ValueError(
      f'--input_size={",".join(_INPUT_SIZE.value)} is not a height and a width'
    ) from None


def _target_weights(config: ConfigDict) -> str | None:
  """Returns the scales that the target wants; None for the config's."""
  if not _TARGET.value or rules_lib.is_int8(config):
    return None
  return request_lib.target_weight_granularity(_TARGET.value, _FORMATS.value)


def _apply_quantization_flags(config: ConfigDict) -> ConfigDict:
  """Returns the config with the quantisation that the flags ask for.

  Raises:
    ValueError: the run was trained in simulated int8, which says it all.
  """
  asked = {
    'float_layers': _FLOAT_LAYERS.value,
    'wide_layers': _WIDE_LAYERS.value,
    'weights': _WEIGHTS.value or _target_weights(config),
    'power_of_two': _POWER_OF_TWO.value,
    'calibration.method': _CALIBRATION_METHOD.value,
    'calibration.equalize': _CALIBRATION_EQUALIZE.value,
    'calibration.rounding': _CALIBRATION_ROUNDING.value,
  }
  asked = {k: v for k, v in asked.items() if v is not None}
  if asked and rules_lib.is_int8(config):
    flag = next(iter(asked)).replace('calibration.', 'calibration_')
    raise ValueError(
      f'--{flag} is for float runs: this one was trained in the int8 that '
      'config.quantization describes'
    )
  config = ConfigDict(config)
  with config.unlocked():
    config.update_from_flattened_dict(
      {f'quantization.{k}': v for k, v in asked.items()}
    )
  return config


def _make_request(
  config: ConfigDict, dataset: datasets.Dataset
) -> request_lib.Request:
  request = request_lib.make_request(
    _FORMATS.value,
    _input_size(config),
    dataset.info.num_classes,
    _NORMALIZATION.value,
    _INPUT_TYPE.value,
    _OUTPUT_KIND.value,
    _OUTPUT_TYPE.value,
    _TARGET.value or '',
    _RESIZE.value,
    _RAM.value,
    _FLASH.value,
    rules_lib.from_config(config.quantization),
  )
  for name in ('images', 'rounding', 'equalize'):
    if (
      flags.FLAGS[f'calibration_{name}'].present
      and not request.needs_calibration
    ):
      raise ValueError(
        f'--calibration_{name} needs a format in integers among --formats, '
        'such as int8'
      )
  return request


def _run() -> None:
  start = time.monotonic()
  _check_flags()
  if _WORKDIR.value:
    source = source_lib.load_from_workdir(
      _WORKDIR.value, _CHECKPOINT.value, _DATA_ROOT.value
    )
    source = dataclasses.replace(
      source, config=_apply_quantization_flags(source.config)
    )
    request = _make_request(source.config, source.dataset)
  else:
    # What makes no sense is refused before the model is initialised.
    config = cli.config_from_flag(_CONFIG)
    assert config is not None  # checked above
    config = _apply_quantization_flags(config)
    request = _make_request(config, datasets.Dataset(config.data))
    source = source_lib.init_untrained(config)
  report = pipeline.export_model(
    source,
    request,
    str(_OUTPUT.value),
    _CALIBRATION_IMAGES.value,
    source.is_trained and _EVAL.value is not False,
    _EVAL_LIMIT.value,
    _PROOF.value,
    _BESIDE.value or '',
  )
  print(markdown.render_quality_table(report))
  print(f'\nWrote {_OUTPUT.value} in {time.monotonic() - start:.0f} s.')


def main(argv: list[str]) -> None:
  """Exports; an error that the user can mend is one line."""
  cli.run_command(argv, _run)


if __name__ == '__main__':
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
