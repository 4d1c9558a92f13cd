"""One export, told from weights to report.

Convert, refuse what is not as it is called, compare with JAX, evaluate, write
down. The result appears under its name only when all of it is there.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import hashlib
import json
import os
import shutil
import time
from typing import Any

from absl import logging
import numpy as np

from deeplab import system
from deeplab import workdir as workdir_lib
from deeplab.data import resize
from deeplab.inference import interpreters
from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.models import profile
from deeplab.quantization.ptq import calibration as calibrate
from export import calibration
from export import output_folder
from export import request as request_lib
from export import source as source_lib
from export.convert import c_source
from export.convert import saved_model
from export.convert import tflite
from export.devices import fit
from export.devices import measure
from export.devices import targets
from export.devices import tflm
from export.graph import tflite_graph
from export.report import comparison
from export.report import contents
from export.report import html_page
from export.report import markdown
from export.report import model_card
from export.report import plots
from export.report import remarks
from export.verify import agreement
from export.verify import parity
from export.verify import score

_PACKAGES = (
  *('jax', 'flax', 'tensorflow', 'tensorflow-cpu', 'ai-edge-litert'),
  *('litert-converter', 'qwix', 'tf2onnx', 'onnxruntime', 'tflite-micro'),
  'ethos-u-vela',
)
_PARITY_IMAGES = 8


def _model_card(
  kind: str,
  content: bytes,
  request: request_lib.Request,
  source: source_lib.ExportSource,
) -> dict[str, Any]:
  """Returns the card of what is made of .tflite bytes."""
  digest = hashlib.sha256(content).hexdigest()
  return model_card.make_card(
    kind, kind, request, source, contents.summarize_tflite(content), digest
  )


def _check_target(
  folder: str, file: str, request: request_lib.Request
) -> dict[str, Any]:
  """Returns what the target makes of an int8 file; see `fit.check_fit`."""
  path = os.path.join(folder, file)
  with open(path, 'rb') as f:
    graph = tflite_graph.read_tflite(f.read())
  target = targets.get_target(request.target)
  available = fit.memory_limits(target, request.ram_kib, request.flash_kib)
  return fit.check_fit(graph, path, target, available)


def _reference_predictor(
  source: source_lib.ExportSource, request: request_lib.Request
) -> predictors.FlaxPredictor:
  """Returns JAX as it is evaluated, with the platform's own kernels."""
  network = source.network
  return network.predictor(
    network.add_input_normalization(source.variables), request.output
  )


def export_model(
  source: source_lib.ExportSource,
  request: request_lib.Request,
  output: str,
  num_calibration_images: int,
  evaluate_files: bool,
  eval_limit: int,
  check_devices: bool = False,
  baseline: str = '',
) -> markdown.Report:
  """Exports a model.

  Args:
    source: the model.
    request: what to make of it.
    output: folder to write: `saved_model/`, `KIND.tflite`, a card KIND.json
      beside each, labels.txt, report.json, report.md and report.html.
    num_calibration_images: how many, for integer files.
    evaluate_files: scores JAX and every file on the validation split.
    eval_limit: examples of it, 0 for all.
    check_devices: asks compilers, TFLite Micro and this CPU what they make of
      the int8 file, and draws pictures.
    baseline: folder of an earlier export whose scores the report repeats; ''
      for none.

  Returns:
    What report.json holds.

  Raises:
    graph.BadGraph: a file is not what it must be; nothing is written.
    fit.DoesNotFit: an int8 file does not fit its target; likewise.
    ValueError: conversion or evaluation is impossible, and why.
  """
  if source.network.has_trained_ranges and request.resize == 'host':
    raise ValueError(
      '--resize=host is for float runs: simulated int8 knows the ranges of the '
      'whole network; pass --resize=trained'
    )
  if 'c' in request.formats and source.dataset.spec.depth > 8:
    raise ValueError(
      f'--formats=c: the example reads images of 8 bits, and this network has '
      f'{source.dataset.spec.depth}; leave c out'
    )
  scorer = score.Scorer(source, request, evaluate_files, eval_limit)
  with output_folder.write_atomically(output) as folder:
    return _write_export(
      folder,
      source,
      request,
      num_calibration_images,
      scorer,
      check_devices,
      baseline,
    )


def _write_export(
  folder: str,
  source: source_lib.ExportSource,
  request: request_lib.Request,
  num_calibration_images: int,
  scorer: score.Scorer,
  check_devices: bool,
  baseline: str,
) -> markdown.Report:
  """Writes the whole export into a folder; see `export_model`."""
  data, size = source.config.data, request.input_size
  scored_on = {
    'dataset': source.dataset.info.name,
    'classes': list(source.dataset.info.class_names),
    'scored': scorer.num_images() if scorer.enabled else None,
    'request': dataclasses.asdict(request),
  }
  # Before anything that takes long.
  earlier = comparison.read_baseline(baseline, scored_on) if baseline else None
  ratio = source_lib.resize_ratio(source, request)
  network = source_lib.build_export_model(source, ratio)
  channels = source.dataset.spec.channels
  traced = profile.count_macs_and_params(
    network, source.dataset.info.num_classes, size, channels=channels
  )
  compute = saved_model.make_serving_function(
    network, source.float_variables, request, data.mean, data.std
  )
  reference = _reference_predictor(source, request)
  # Without evaluation and calibration a run's data set may be elsewhere.
  real = source.is_trained and (scorer.enabled or request.needs_calibration)
  images = [
    resize.resize_bilinear(image, size)
    for image in source_lib.parity_images(source, size, _PARITY_IMAGES, real)
  ]
  comparable = reference
  if request.resize == 'host':
    comparable = reference.with_model(
      source_lib.WithoutLastResize(reference.model)
    )
  expected = parity.predict_images(comparable, images)
  calibration_set = []
  if request.needs_calibration:
    calibration_set = source_lib.calibration_images(
      source, size, num_calibration_images
    )
    calibrate.check_images(calibration_set)
  recorder = agreement.PredictionRecorder(reference)
  scored = scorer.score_predictor(recorder, 'JAX')
  shown = [] if scored is None else [('JAX', scored)]
  report: markdown.Report = {
    'source': source.describe(),
    **scored_on,
    'notes': [
      *remarks.general_remarks(
        source, request, len(calibration_set), scorer, real, _PARITY_IMAGES
      ),
      *remarks.resize_remarks(source, request, ratio),
    ],
    'model': {'macs': traced.macs, 'params': traced.params},
    'jax': {
      'arithmetic': source.network.arithmetic,
      **score.select_iou_metrics(scored, source.dataset.info.class_names),
    },
    'formats': {},
    'beside': earlier,
    'target': {},
    'proof': {},
    'versions': workdir_lib.package_versions(_PACKAGES),
    'resolver': interpreters.DEFAULT_RESOLVER,
  }
  model_card.write_labels(folder, source.dataset.info)
  saved = os.path.join(folder, 'saved_model')
  saved_model.write_saved_model(compute, (*size, channels), saved)
  weights = source.float_variables
  if request.needs_calibration:
    weights = source_lib.prepare_int8_weights(
      source, network, calibration_set, request.rules
    )
  # What TensorFlow makes integer files of.
  settled = os.path.join(folder, 'settled_model')
  converted: dict[str, bytes] = {}
  for kind in request.formats:
    logging.info('Writing %s', kind)
    start = time.monotonic()
    if kind == 'saved_model':
      file, facts = (
        kind,
        contents.summarize_saved_model(compute, (*size, channels), traced.macs),
      )
      digest = None
    else:
      base = request.base_format(kind)
      if base == 'int8_litert' and base not in converted:
        converted[base], simulated = _convert_by_litert(
          source, network, weights, calibration_set, request
        )
      elif base not in converted:
        samples: Iterable[np.ndarray] = ()
        made_of = saved
        if base in request_lib.CALIBRATED_FORMATS:
          samples = _representative_dataset(calibration_set, request, source)
          made_of = settled
          if not os.path.exists(settled):
            compute = saved_model.make_serving_function(
              network, weights, request, data.mean, data.std
            )
            saved_model.write_saved_model(compute, (*size, channels), settled)
        converted[base] = tflite.convert_saved_model(
          made_of, base, request, samples
        )
      if kind == 'c':
        card = _model_card(kind, converted[base], request, source)
        c_source.write_c_project(
          os.path.join(folder, kind),
          converted[base],
          card,
          images[0],
          tflm.recommend_arena_bytes(converted[base]),
        )
        continue
      file, content, facts = contents.derive_file(kind, converted[base])
      with open(os.path.join(folder, file), 'wb') as f:
        f.write(content)
      digest = hashlib.sha256(content).hexdigest()
      if kind in request_lib.INTEGER_IO_FORMATS and request.target:
        report['target'][kind] = _check_target(folder, file, request)
    seconds = time.monotonic() - start
    card = model_card.make_card(file, kind, request, source, facts, digest)
    model_card.write_card(folder, kind, card)
    candidate = _open_predictor(os.path.join(folder, file), request, data)
    found = parity.predict_images(candidate, images)
    comparer = agreement.PredictionComparer(
      candidate, recorder, source.dataset.info.num_classes
    )
    result = scorer.score_predictor(comparer, kind)
    metrics = score.select_iou_metrics(result, source.dataset.info.class_names)
    miou = metrics['miou']
    model_card.write_card(folder, kind, {**card, 'miou': miou})
    report['formats'][kind] = {
      'file': file,
      'file_bytes': output_folder.file_bytes(os.path.join(folder, file)),
      'params': traced.params,
      **facts,
      'latency_ms': None,
      **metrics,
      'miou_difference_points': _miou_difference(miou, report['jax']['miou']),
      'agreement': comparer.agreement_shares() if scorer.enabled else None,
      'parity': parity.compare_outputs(expected, found),
      'simulation': None,
      'conversion_seconds': round(seconds, 2),
    }
    if kind == 'int8_litert':
      report['formats'][kind]['simulation'] = _compare_with_simulation(
        simulated, os.path.join(folder, file), images, scorer
      )
    if check_devices and file.endswith('.tflite'):
      report['formats'][kind]['latency_ms'] = measure.measure_latency_ms(
        content
      )
    if check_devices and kind.startswith('int8'):
      report['proof'][kind] = _check_devices(
        folder, kind, report, images, expected, found, source
      )
      shown += [] if result is None else [(kind, result)]
  report['notes'] += remarks.padding_remarks(report)
  if check_devices and shown:
    plots.write_overlays(folder, shown, source.dataset.info)
    report['overlays'] = True
  if 'saved_model' not in request.formats:
    shutil.rmtree(saved)
  shutil.rmtree(settled, ignore_errors=True)
  system.write_json(os.path.join(folder, 'report.json'), report)
  # From the file, so that both say the same.
  with open(os.path.join(folder, 'report.json'), encoding='utf-8') as f:
    report = json.load(f)
  text = markdown.render_report(report)
  pages = {
    'report.md': text,
    'report.html': html_page.render_page(text, folder),
  }
  for name, whole in pages.items():
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
      f.write(whole)
  return report


def _check_devices(
  folder: str,
  kind: str,
  report: markdown.Report,
  images: list[np.ndarray],
  expected: list[np.ndarray],
  found: list[np.ndarray],
  source: source_lib.ExportSource,
) -> dict[str, Any]:
  """Runs the device checks of an int8 file and draws their plots."""
  logging.info('Checking %s with device compilers and TFLite Micro', kind)
  normalization = None
  if not report['request']['normalization_in_graph']:
    normalization = (source.config.data.mean, source.config.data.std)
  target = report['target'].get(kind, {})
  ram = target.get('ram_bytes')
  checks = measure.run_device_checks(
    os.path.join(folder, f'{kind}.tflite'),
    images,
    normalization,
    target.get('name', ''),
    ram,
  )
  arena = report['formats'][kind]['peak_activation_bytes']
  plots.write_memory_plot(folder, kind, checks['memory'], arena, ram)
  plots.write_error_plot(folder, kind, images, expected, found)
  return checks


def _convert_by_litert(
  source: source_lib.ExportSource,
  network: Any,
  weights: Any,
  images: list[np.ndarray],
  request: request_lib.Request,
) -> tuple[bytes, predictors.Predictor]:
  """Returns the file by litert-converter, and what it is to compute."""
  from export.convert import litert_converter
  from export.verify import simulation

  variables = source_lib.prepare_int8_variables(
    source, network, weights, images, request.rules
  )
  content = litert_converter.convert_network(
    network,
    variables,
    request.rules,
    request,
    source.config.data.mean,
    source.config.data.std,
    source.dataset.spec.max_value,
  )
  return content, simulation.make_simulated_predictor(
    source, network, variables, request
  )


def _compare_with_simulation(
  simulated: predictors.Predictor,
  path: str,
  images: list[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Returns how far the file is from its simulation in JAX."""
  from export.verify import simulation

  return simulation.compare_with_file(simulated, path, images, scorer)


def _representative_dataset(
  images: list[np.ndarray],
  request: request_lib.Request,
  source: source_lib.ExportSource,
) -> Iterator[np.ndarray]:
  """Yields what TensorFlow's calibration runs."""
  yield from calibration.representative_dataset(
    system.track_progress(images, len(images), 'calibrate'),
    request.input_size,
    request.normalization_in_graph,
    source.config.data.mean,
    source.config.data.std,
    source.dataset.spec.max_value,
  )


def _miou_difference(
  miou: float | None, reference: float | None
) -> float | None:
  if miou is None or reference is None:
    return None
  return 100 * (miou - reference)


def _open_predictor(
  path: str, request: request_lib.Request, data: Any
) -> predictors.Predictor:
  """Returns the file as a predictor."""
  with system.capture_stderr():  # the interpreter greets
    if os.path.isfile(path):
      return load.load_predictor(path)
    return saved_model.SavedModelPredictor(path, request, data.mean, data.std)
