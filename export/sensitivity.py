"""Which layers int8 hurts: one at a time, ranked.

    python -m export.sensitivity --workdir=runs/voc/1 --output=sensitivity

calibrates the float run on training images, quantises one module's weights and
activations at a time (--mode=all_but_one: all others), and writes, for every
module, the signal-to-noise ratio of the logits (SQNR, dB, on --images images of
the validation split) and the loss of mIoU on them:

    sensitivity.json   everything, worst first
    sensitivity.md     the table
    sensitivity.png    its picture

Losses are those from the trained network. What equalising its channels costs
before anything is int8 (nothing, on images like those of the calibration) has
a line of its own.

The smallest set to keep in float32 for --loss points of mIoU is sought among
the worst: the first, the first two, and so on; it comes as the value of
--float_layers of `python -m export.main`.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import itertools
import math
import os
import re
from typing import Any

from absl import app
from absl import flags
from absl import logging
import flax.traverse_util
import jax
import numpy as np

from deeplab import cli
from deeplab import system
from deeplab import visualize
from deeplab.data import resize
from deeplab.inference import predictors
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration as calibrate
from deeplab.quantization.simulator import providers
from export import request as request_lib
from export import source as source_lib
from export.verify import parity
from export.verify import score

PyTree = Any
Row = dict[str, Any]


def build_switches(modules: Iterable[str], enabled: Iterable[str]) -> PyTree:
  """Returns the collection 'switches' of `providers.add_int8_switches`.

  Args:
    modules: paths of all modules with ranges; '' is the network itself.
    enabled: those that are int8.
  """
  enabled = set(enabled)
  return flax.traverse_util.unflatten_dict(
    {
      (*(p for p in name.split('/') if p), 'on'): np.float32(name in enabled)
      for name in modules
    }
  )


def sqnr(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
  """Returns 10 log10 of the signal's over the error's energy; inf if equal."""
  signal = sum(float(np.sum(np.float64(a) ** 2)) for a in expected)
  noise = sum(
    float(np.sum((np.float64(a) - b) ** 2))
    for a, b in zip(expected, found, strict=True)
  )
  return 10 * math.log10(signal / noise) if noise else math.inf


def match_any_regex(names: Sequence[str]) -> str:
  """Returns the regular expression of whole paths that are those names."""
  return '|'.join(re.escape(name) for name in names)


class SensitivityAnalysis:
  """A network, quantised in parts.

  Attributes:
    modules: paths of what has weights or ranges to quantise.
  """

  def __init__(
    self, source: source_lib.ExportSource, calibration: int, images: int
  ):
    """Calibrates.

    Raises:
      ValueError: the run was trained in simulated int8.
    """
    if source.network.has_trained_ranges:
      raise ValueError(
        f'{source.workdir} was trained in simulated int8: name the float run '
        'that it began with'
      )
    rules = rules_lib.Rules()
    height, width = source.config.eval.static_size
    size = height, width
    network = source.network.export_model()
    seen = source_lib.calibration_images(source, size, calibration)
    settled = source_lib.prepare_int8_weights(source, network, seen, rules)
    variables = source_lib.prepare_int8_variables(
      source, network, settled, seen, rules
    )
    plain = calibrate.fold_and_equalize(
      network, rules, source.float_variables, seen, source.config
    )
    self._params = plain['params'], settled['params']
    # A bias belongs to the kernel whose rounding it makes up for.
    self._owners = {
      '/'.join(norm): '/'.join(conv)
      for conv, (norm, _) in batch_norm_folding.find_batch_norms(
        network, plain, source.dataset.spec.channels
      ).items()
    }
    stats = flax.traverse_util.flatten_dict(variables['quant_stats'])
    params = flax.traverse_util.flatten_dict(variables['params'])
    modules = {'/'.join(path[:-2]) for path in stats}
    modules |= {'/'.join(p[:-1]) for p in params if p[-1] == 'kernel'}
    self.modules = sorted(
      name for name in modules if not re.fullmatch(rules.float_pattern, name)
    )
    self._variables = {**variables, 'params': plain['params']}
    data = source.config.data
    self._predictor = predictors.FlaxPredictor(
      providers.add_int8_switches(network, rules),
      {**self._variables, 'switches': build_switches(self.modules, ())},
      data.mean,
      data.std,
    )
    request = request_lib.make_request(
      ('float32',), size, source.dataset.info.num_classes
    )
    self._scorer = score.Scorer(source, request, True, images)
    self._images = [
      resize.resize_bilinear(x['image'], size)
      for x in itertools.islice(
        source_lib.eval_examples(source, images), images
      )
    ]
    trained = predictors.FlaxPredictor(
      network, source.float_variables, data.mean, data.std
    )
    self._float_outputs = parity.predict_images(trained, self._images)
    self.miou = self._compute_miou(trained)

  def _compute_miou(self, predictor: predictors.Predictor) -> float:
    found = self._scorer.compute_miou(predictor, 'a part of it')
    assert found is not None  # it is enabled
    return found

  def measure_loss(self, quantized: Iterable[str]) -> Row:
    """Returns `sqnr_db`, `miou` and `loss_points` with some modules in int8."""
    quantized = set(quantized)
    plain, settled = map(flax.traverse_util.flatten_dict, self._params)
    params = dict(plain)
    for path in plain:
      module = '/'.join(path[:-1])
      if self._owners.get(module, module) in quantized:
        params[path] = settled[path]
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
  """Returns a row a module, the worst first.

  Args:
    analysis: see `SensitivityAnalysis`.
    mode: 'one' quantises a module alone, and the lowest ratio is the worst;
      'all_but_one' leaves it alone, and the highest is.
  """
  rows = []
  for i, name in enumerate(analysis.modules):
    rest = [m for m in analysis.modules if m != name]
    found = analysis.measure_loss([name] if mode == 'one' else rest)
    rows.append({'module': name, **found})
    logging.info('%d of %d: %s', i + 1, len(analysis.modules), rows[-1])
  sign = 1 if mode == 'one' else -1
  return sorted(rows, key=lambda row: (sign * row['sqnr_db'], row['module']))


def find_float_modules(
  analysis: Any, ranked: Sequence[Row], max_loss_points: float
) -> Row:
  """Returns what to keep in float32 for a loss of so many points at most.

  The worst modules are added one by one; all of them, where that loss is beyond
  reach. Returns `modules` and what `Study.damage` says of the rest in int8.
  """
  names = [row['module'] for row in ranked]
  row: Row = {}
  for count in range(len(names) + 1):
    row = {'modules': names[:count], **analysis.measure_loss(names[count:])}
    if row['loss_points'] <= max_loss_points:
      break
  return row


def render_markdown(report: Row) -> str:
  """Returns the table of sensitivity.json for people."""
  kept = report['keep_float']
  layers = (
    f'{len(kept["modules"])} modules stay in float32 (mIoU '
    f'{kept["miou"]:.4f}): '
    f'`--float_layers={match_any_regex(kept["modules"])!r}`'
  )
  if kept['loss_points'] > report['loss']:
    layers = (
      'even all in float32 are not enough: folding BatchNorms and equalising '
      f'channels cost {kept["loss_points"]:.2f} (more calibration images, or '
      '`config.quantization.calibration.equalize=False`, may help)'
    )
  lines = [
    f'# Sensitivity to int8 of {report["source"]["config"]}',
    '',
    f'Mode `{report["mode"]}`, {report["images"]} validation images; float '
    f'mIoU {report["miou"]:.4f}, with equalised channels '
    f'{report["none"]["miou"]:.4f}, all in int8 {report["all"]["miou"]:.4f} '
    f'(SQNR {report["all"]["sqnr_db"]:.1f} dB).',
    '',
    f'For a loss of {report["loss"]:g} points at most, {layers}',
    '',
    '| module | SQNR (dB) | mIoU lost (points) |',
    '|---|---:|---:|',
    *(
      f'| {row["module"] or "(network)"} | {row["sqnr_db"]:.1f} | '
      f'{row["loss_points"]:+.2f} |'
      for row in report['modules']
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
) -> Row:
  """Measures and writes; returns what sensitivity.json holds.

  Raises:
    ValueError: as `SensitivityAnalysis`.
  """
  study = SensitivityAnalysis(source, num_calibration_images, num_images)
  ranked = rank_modules(study, mode)
  report = {
    'source': source.describe(),
    'mode': mode,
    'images': num_images,
    'loss': max_loss_points,
    'miou': study.miou,
    'none': study.measure_loss(()),
    'all': study.measure_loss(study.modules),
    'keep_float': find_float_modules(study, ranked, max_loss_points),
    'modules': ranked,
  }
  os.makedirs(output, exist_ok=True)
  path = os.path.join(output, 'sensitivity')
  system.write_json(f'{path}.json', report)
  system.write_text(f'{path}.md', render_markdown(report))
  picture = visualize.plot_bars(
    [row['module'] or '(network)' for row in ranked],
    [
      ('SQNR of the logits (dB)', [row['sqnr_db'] for row in ranked]),
      ('mIoU lost (points)', [row['loss_points'] for row in ranked]),
    ],
  )
  visualize.save_image(picture, f'{path}.png')
  return report


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir', None, 'Work directory of a float run.', flag_values=values
  )
  flags.DEFINE_string('output', None, 'Folder to write.', flag_values=values)
  flags.DEFINE_integer(
    'images',
    20,
    'Validation images that damage is measured on.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'calibration_images',
    32,
    'Training images for the ranges.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_enum(
    'mode',
    'one',
    ['one', 'all_but_one'],
    'What is quantised for each row.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'loss',
    0.5,
    'Points of mIoU that may be lost.',
    lower_bound=0.0,
    flag_values=values,
  )


def _run(values: flags.FlagValues) -> None:
  if not values.workdir or not values.output:
    raise ValueError(
      '--workdir (a float run) and --output (a folder) are needed'
    )
  report = analyze_sensitivity(
    source_lib.load_from_workdir(values.workdir, 'best', None),
    values.output,
    values.calibration_images,
    values.images,
    values.mode,
    values.loss,
  )
  print(render_markdown(report))


def main(argv: list[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Measures; an error that the user can mend is one line."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  jax.config.config_with_absl()
  app.run(main, flags_parser=cli.parse_flags)
