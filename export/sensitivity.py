"""Ranks the layers of a float network by how much int8 hurts them.

    python -m export.sensitivity --weights=runs/voc/1 --output=sensitivity

calibrates the model on training images, or on those of a folder
(--calibration_images), quantizes the weights and activations of
one module at a time (--mode=all_but_one: of all other modules), and measures
the signal-to-quantization-noise ratio of the logits (SQNR, dB) and the loss of
mIoU on --images validation images:

    sensitivity.json   all results, the most sensitive module first
    sensitivity.md     the same as a table
    sensitivity.png    the same as a plot

Weights without a run need a data set with labels: --config=PAGE
--config.data.root=ROOT.

Losses are relative to the trained network. The cost of channel equalization
alone, before anything is int8, is a row of its own; it is zero on images like
those of the calibration.

The command also searches the smallest number of modules that must stay in
float32 for a loss of at most --loss points of mIoU, and prints them as the
value of --float_layers of `python -m export.main`.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import math
import re
from typing import Any

from absl import app
from absl import flags
from absl import logging
import flax.traverse_util
import jax
from ml_collections import config_flags
import numpy as np

from deeplab import cli
from deeplab import text
from deeplab import visualize
from deeplab.data import resize
from deeplab.files import output_files
from deeplab.inference import predictors
from deeplab.pretrained import identify
from deeplab.quantization import simulator
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration
from export import frozen_model
from export import request as request_lib
from export import source as source_lib
from export.verify import parity
from export.verify import score

PyTree = Any
Row = dict[str, Any]


def build_switches(modules: Iterable[str], enabled: Iterable[str]) -> PyTree:
  """Builds the collection 'switches' that `providers.add_int8_switches` reads.

  Args:
    modules: paths of all modules with activation ranges; '' is the network.
    enabled: paths of the modules that compute in int8.

  Returns:
    A tree of float32, 1 for enabled modules and 0 for the others.
  """
  enabled = set(enabled)
  return flax.traverse_util.unflatten_dict(
    {
      (*(p for p in name.split('/') if p), 'on'): np.float32(name in enabled)
      for name in modules
    }
  )


def sqnr(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
  """Computes the signal-to-quantization-noise ratio in dB.

  It is 10 log10(sum(expected^2) / sum((expected - found)^2)), inf if equal.

  Args:
    expected: outputs [H, W, K] of the float network, one array per image.
    found: outputs of the quantized network, in the same shapes.
  """
  signal = sum(float(np.sum(np.float64(a) ** 2)) for a in expected)
  noise = sum(
    float(np.sum((np.float64(a) - b) ** 2))
    for a, b in zip(expected, found, strict=True)
  )
  return 10 * math.log10(signal / noise) if noise else math.inf


def match_any_regex(names: Sequence[str]) -> str:
  """Returns a regular expression that matches exactly those module paths."""
  return '|'.join(re.escape(name) for name in names)


class SensitivityAnalysis:
  """A float network of which any set of modules can be quantized.

  Attributes:
    modules: paths of all modules with weights or ranges to quantize.
    miou: mIoU of the trained float network.
  """

  def __init__(
    self,
    source: source_lib.ExportSource,
    num_calibration_images: int,
    num_images: int,
  ):
    """Calibrates the network and evaluates it in float.

    Args:
      source: a float run.
      num_calibration_images: number of images for the ranges.
      num_images: number of validation images that losses are measured on.

    Raises:
      ValueError: there are no labeled images, or the run was trained in
        simulated int8.
    """
    if not source.has_labels:
      raise ValueError(
        f'losses of {source.weights} need labeled images: name their data set, '
        '--config=PAGE --config.data.root=ROOT'
      )
    if source.network.has_trained_ranges:
      raise ValueError(
        f'{source.weights} was trained in simulated int8: pass the float run '
        'that it started from'
      )
    request = request_lib.make_request(
      formats=('float32',),
      input_size=source.config.eval.static_size,
      num_classes=source.dataset.info.num_classes,
    )
    model = frozen_model.FrozenModel(
      source, request, num_calibration_images=num_calibration_images
    )
    self._scorer = score.Scorer(source, request, True, num_images)
    self._images = [
      resize.resize_bilinear(x['image'], request.input_size)
      for x in source_lib.eval_examples(source, num_images)
    ]
    self._set_up_variables(model)
    trained = predictors.FlaxPredictor(
      model.network, source.float_variables, model.mean, model.std
    )
    self._float_outputs = parity.predict_images(trained, self._images)
    self.miou = self._compute_miou(trained)

  def _set_up_variables(self, model: frozen_model.FrozenModel) -> None:
    """Computes float and rounded kernels, and finds the modules."""
    network, rules = model.network, model.request.rules
    equalized = calibration.fold_and_equalize(
      network,
      rules,
      model.source.float_variables,
      model.calibration_images,
      model.source.config,
    )
    self._params = equalized['params'], model.integer_weights['params']
    # Biases are in the BatchNorm's module, but correct the kernel's rounding.
    self._owners = {
      '/'.join(norm): '/'.join(conv)
      for conv, (norm, _) in batch_norm_folding.find_batch_norms(
        network, equalized, model.source.dataset.spec.channels
      ).items()
    }
    variables = model.simulation_variables
    stats = flax.traverse_util.flatten_dict(variables['quant_stats'])
    params = flax.traverse_util.flatten_dict(variables['params'])
    modules = {'/'.join(path[:-2]) for path in stats}
    modules |= {'/'.join(p[:-1]) for p in params if p[-1] == 'kernel'}
    self.modules = sorted(
      name for name in modules if not re.fullmatch(rules.float_pattern, name)
    )
    self._variables = {**variables, 'params': equalized['params']}
    self._predictor = predictors.FlaxPredictor(
      simulator.load_providers().add_int8_switches(network, rules),
      {**self._variables, 'switches': build_switches(self.modules, ())},
      model.mean,
      model.std,
    )

  def _compute_miou(self, predictor: predictors.Predictor) -> float:
    miou = self._scorer.compute_miou(predictor, 'the partly quantized network')
    assert miou is not None  # the scorer is enabled
    return miou

  def measure_loss(self, quantized: Iterable[str]) -> Row:
    """Measures the network with some modules in int8.

    Args:
      quantized: paths of those modules.

    Returns:
      `sqnr_db` of the logits, `miou`, and `loss_points` of mIoU against the
      trained network.
    """
    quantized = set(quantized)
    equalized, rounded = map(flax.traverse_util.flatten_dict, self._params)
    params = dict(equalized)
    for path in equalized:
      module = '/'.join(path[:-1])
      if self._owners.get(module, module) in quantized:
        params[path] = rounded[path]
    predictor = self._predictor.with_variables(
      {
        **self._variables,
        'params': flax.traverse_util.unflatten_dict(params),
        'switches': build_switches(self.modules, quantized),
      }
    )
    miou = self._compute_miou(predictor)
    outputs = parity.predict_images(predictor, self._images)
    return {
      'sqnr_db': sqnr(self._float_outputs, outputs),
      'miou': miou,
      'loss_points': 100 * (self.miou - miou),
    }


def rank_modules(analysis: Any, mode: str) -> list[Row]:
  """Measures every module and sorts them, the most sensitive first.

  Args:
    analysis: a `SensitivityAnalysis`.
    mode: 'one' quantizes the module alone, and the lowest SQNR is the worst;
      'all_but_one' quantizes all others, and the highest SQNR is the worst.

  Returns:
    The results of `SensitivityAnalysis.measure_loss` with `module`, one row per
    module.
  """
  rows = []
  for i, name in enumerate(analysis.modules):
    others = [m for m in analysis.modules if m != name]
    losses = analysis.measure_loss([name] if mode == 'one' else others)
    rows.append({'module': name, **losses})
    logging.info('%d of %d: %s', i + 1, len(analysis.modules), rows[-1])
  sign = 1 if mode == 'one' else -1
  return sorted(rows, key=lambda row: (sign * row['sqnr_db'], row['module']))


def find_float_modules(
  analysis: Any, ranked: Sequence[Row], max_loss_points: float
) -> Row:
  """Finds the modules to keep in float32 for a bounded loss of mIoU.

  The most sensitive modules are added one by one until the loss is small
  enough; all of them if it never is.

  Args:
    analysis: a `SensitivityAnalysis`.
    ranked: the rows of `rank_modules`.
    max_loss_points: the largest loss, points of mIoU.

  Returns:
    `modules` to keep in float32, and the results of
    `SensitivityAnalysis.measure_loss` with all others in int8.
  """
  names = [row['module'] for row in ranked]
  row: Row = {}
  for count in range(len(names) + 1):
    row = {'modules': names[:count], **analysis.measure_loss(names[count:])}
    if row['loss_points'] <= max_loss_points:
      break
  return row


def render_markdown(report: Row) -> str:
  """Renders sensitivity.json as Markdown, with a table of all modules."""
  choice = report['keep_float']
  layers = (
    f'{len(choice["modules"])} modules stay in float32 (mIoU '
    f'{choice["miou"]:.4f}): '
    f'`--float_layers={match_any_regex(choice["modules"])!r}`'
  )
  if choice['loss_points'] > report['loss']:
    layers = (
      'all modules in float32 are not enough: folding BatchNorms and '
      f'equalizing channels alone costs {choice["loss_points"]:.2f} points '
      '(more calibration images, or '
      '`config.quantization.calibration.equalize=False`, may help)'
    )
  lines = [
    '# Sensitivity to int8 of '
    + text.escape_markdown(report['source']['config']),
    '',
    f'Mode `{report["mode"]}`, {report["images"]} validation images; float '
    f'mIoU {report["miou"]:.4f}, with equalized channels '
    f'{report["none"]["miou"]:.4f}, all in int8 {report["all"]["miou"]:.4f} '
    f'(SQNR {report["all"]["sqnr_db"]:.1f} dB).',
    '',
    f'For a loss of at most {report["loss"]:g} points, {layers}',
    '',
    *text.format_table(
      ('module', 'SQNR (dB)', 'mIoU loss (points)'),
      [
        (
          row['module'] or '(network)',
          f'{row["sqnr_db"]:.1f}',
          f'{row["loss_points"]:+.2f}',
        )
        for row in report['modules']
      ],
      pad=False,
    ),
    '',
  ]
  return '\n'.join(lines)


def analyze_sensitivity(
  source: source_lib.ExportSource,
  output: str,
  num_calibration_images: int,
  num_images: int,
  mode: str,
  max_loss_points: float,
  overwrite: bool = False,
) -> Row:
  """Analyses a run and writes sensitivity.json, .md and .png.

  Args:
    source: a float run.
    output: folder to write.
    num_calibration_images: number of images for the ranges.
    num_images: number of validation images that losses are measured on.
    mode: 'one' or 'all_but_one' (`rank_modules`).
    max_loss_points: the largest loss, points of mIoU, for which modules to keep
      in float32 are searched.
    overwrite: files of these names that the project did not write may be
      replaced.

  Returns:
    The content of sensitivity.json.

  Raises:
    ValueError: `output` holds a file of the user of one of these names, or the
      run was trained in simulated int8.
  """
  files = output_files.OutputFiles(output, overwrite=overwrite)
  files.check([f'sensitivity.{suffix}' for suffix in ('json', 'md', 'png')])
  analysis = SensitivityAnalysis(source, num_calibration_images, num_images)
  ranked = rank_modules(analysis, mode)
  report = {
    'source': source.describe(),
    'mode': mode,
    'images': num_images,
    'loss': max_loss_points,
    'miou': analysis.miou,
    'none': analysis.measure_loss(()),
    'all': analysis.measure_loss(analysis.modules),
    'keep_float': find_float_modules(analysis, ranked, max_loss_points),
    'modules': ranked,
  }
  files.write_json('sensitivity.json', report)
  files.write_text('sensitivity.md', render_markdown(report))
  picture = visualize.plot_bars(
    [row['module'] or '(network)' for row in ranked],
    [
      ('SQNR of the logits (dB)', [row['sqnr_db'] for row in ranked]),
      ('mIoU loss (points)', [row['loss_points'] for row in ranked]),
    ],
  )
  with files.replace('sensitivity.png') as path:
    visualize.save_image(picture, path)
  return report


def define_flags(
  values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  flags.DEFINE_string(
    'weights',
    None,
    'Float model: the work directory of a run, the folder of a saved model, a '
    'published name (python -m deeplab.main --list), a file of weights, or '
    'hf:USER/MODEL.',
    flag_values=values,
  )
  flags.DEFINE_string('output', None, 'Folder to write.', flag_values=values)
  flags.DEFINE_integer(
    'images',
    20,
    'Number of validation images that losses are measured on.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'calibration_images',
    None,
    'Folder of images for the ranges, without labels; default the training '
    'images of the data set.',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'num_calibration_images',
    32,
    'Number of images for the ranges.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'mode',
    'one',
    ['one', 'all_but_one'],
    'Quantize one module at a time, or all but one.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'loss',
    0.5,
    'Largest loss of mIoU, in points, for which --float_layers is searched.',
    lower_bound=0.0,
    flag_values=values,
  )
  cli.define_overwrite_flag(values)
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'Data set with labels (--config.data.root) for weights without a run, and '
    'their network where the tensors do not tell.',
    flag_values=values,
  )


def _run(values: flags.FlagValues, config_flag: flags.FlagHolder) -> None:
  if not values.weights or not values.output:
    raise ValueError(
      'pass both --weights (a float model) and --output (the folder to write)'
    )
  config = cli.config_from_flag(
    config_flag, values, request_lib.READ_WITH_WEIGHTS
  )
  source = source_lib.load_trained(
    values.weights,
    config=config,
    overrides=cli.overridden_fields(config_flag, values),
    calibration_folder=values.calibration_images or '',
    has_labels=config is not None or identify.is_run(values.weights),
  )
  report = analyze_sensitivity(
    source,
    values.output,
    values.num_calibration_images,
    values.images,
    values.mode,
    values.loss,
    values.overwrite,
  )
  print(render_markdown(report))


def main(
  argv: list[str],
  config_flag: flags.FlagHolder,
  values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Runs the analysis; an error the user can mend is printed in one line."""
  cli.run_command(argv, lambda: _run(values, config_flag))


if __name__ == '__main__':
  _config_flag = define_flags()
  jax.config.config_with_absl()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
