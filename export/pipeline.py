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

from deeplab import networks
from deeplab import system
from deeplab import workdir as workdir_lib
from deeplab.data import resize
from deeplab.inference import litert
from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.inference import views
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
from export.graph import tflite_graph
from export.report import comparison
from export.report import contents
from export.report import html_page
from export.report import markdown
from export.report import model_card
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


def _card(
  kind: str,
  content: bytes,
  request: request_lib.Request,
  source: source_lib.Source,
) -> dict[str, Any]:
  """Returns the card of what is made of .tflite bytes."""
  digest = hashlib.sha256(content).hexdigest()
  return model_card.card(
    kind, kind, request, source, contents.tflite_file(content), digest
  )


def _target_facts(
  folder: str, file: str, request: request_lib.Request
) -> dict[str, Any]:
  """Returns what the target makes of an int8 file; see `fit.facts`."""
  path = os.path.join(folder, file)
  with open(path, 'rb') as f:
    graph = tflite_graph.read(f.read())
  target = targets.get(request.target)
  available = fit.limits(target, request.ram_kib, request.flash_kib)
  return fit.facts(graph, path, target, available)


def _reference(
  source: source_lib.Source, request: request_lib.Request
) -> predictors.FlaxPredictor:
  """Returns JAX as it is evaluated, with the platform's own kernels."""
  config = source_lib.in_float32(source.config)
  return predictors.of_config(
    config,
    source.info.num_classes,
    networks.with_pixels(config, source.variables),
    request.predicted,
  )


def run(
  source: source_lib.Source,
  request: request_lib.Request,
  output: str,
  calibration_images: int,
  evaluate_files: bool,
  eval_limit: int,
  prove: bool = False,
  beside: str = '',
) -> markdown.Report:
  """Exports a model.

  Args:
    source: the model.
    request: what to make of it.
    output: folder to write: `saved_model/`, `KIND.tflite`, a card KIND.json
      beside each, labels.txt, report.json, report.md and report.html.
    calibration_images: how many, for integer files.
    evaluate_files: scores JAX and every file on the validation split.
    eval_limit: examples of it, 0 for all.
    prove: asks compilers, TFLite Micro and this CPU what they make of the int8
      file, and draws pictures.
    beside: folder of an earlier export whose scores the report repeats; '' for
      none.

  Returns:
    What report.json holds.

  Raises:
    graph.BadGraph: a file is not what it must be; nothing is written.
    fit.DoesNotFit: an int8 file does not fit its target; likewise.
    ValueError: conversion or evaluation is impossible, and why.
  """
  if networks.enabled(source.config) and request.resize == 'host':
    raise ValueError(
      '--resize=host is for float runs: simulated int8 knows the ranges of the '
      'whole network; pass --resize=trained'
    )
  if 'c' in request.formats and source.pixels.depth > 8:
    raise ValueError(
      f'--formats=c: the example reads images of 8 bits, and this network has '
      f'{source.pixels.depth}; leave c out'
    )
  scorer = score.Scorer(source, request, evaluate_files, eval_limit)
  with output_folder.whole_or_nothing(output) as folder:
    return _fill(
      folder, source, request, calibration_images, scorer, prove, beside
    )


def _fill(
  folder: str,
  source: source_lib.Source,
  request: request_lib.Request,
  calibration_images: int,
  scorer: score.Scorer,
  prove: bool,
  beside: str,
) -> markdown.Report:
  """Writes the whole export into a folder; see `run`."""
  data, size = source.config.data, request.input_size
  scored_on = {
    'dataset': source.info.name,
    'classes': list(source.info.class_names),
    'scored': scorer.total() if scorer.enabled else None,
    'request': dataclasses.asdict(request),
  }
  # Before anything that takes long.
  earlier = comparison.read(beside, scored_on) if beside else None
  ratio = source_lib.resize_ratio(source, request)
  network = source_lib.deployed(source, ratio)
  channels = source.pixels.channels
  traced = profile.profile(
    network, source.info.num_classes, size, channels=channels
  )
  compute = saved_model.function(
    network, source.weights, request, data.mean, data.std
  )
  reference = _reference(source, request)
  # Without evaluation and calibration a run's data set may be elsewhere.
  real = source.trained and (scorer.enabled or request.int8)
  images = [
    resize.resize_bilinear(image, size)
    for image in source_lib.parity_images(source, size, _PARITY_IMAGES, real)
  ]
  comparable = reference
  if request.resize == 'host':
    comparable = reference.with_model(
      source_lib.HeadResolution(reference.model)
    )
  expected = parity.outputs(comparable, images)
  calibration_set = []
  if request.int8:
    calibration_set = source_lib.calibration_images(
      source, size, calibration_images
    )
    calibrate.check(calibration_set)
  recorder = agreement.Recorder(reference)
  scored = scorer.result(recorder, 'JAX')
  shown = [] if scored is None else [('JAX', scored)]
  report: markdown.Report = {
    'source': source.facts(),
    **scored_on,
    'notes': [
      *remarks.general(
        source, request, len(calibration_set), scorer, real, _PARITY_IMAGES
      ),
      *remarks.resize(source, request, ratio),
    ],
    'model': {'macs': traced.macs, 'params': traced.params},
    'jax': {
      'arithmetic': (
        'simulated int8' if networks.enabled(source.config) else 'float32'
      ),
      **score.metrics_of(scored, source.info.class_names),
    },
    'formats': {},
    'beside': earlier,
    'target': {},
    'proof': {},
    'versions': workdir_lib.package_versions(_PACKAGES),
    'resolver': litert.DEFAULT_RESOLVER,
  }
  model_card.write_labels(folder, source.info)
  saved = os.path.join(folder, 'saved_model')
  saved_model.write(compute, (*size, channels), saved)
  weights = source.weights
  if request.int8:
    weights = source_lib.settled(
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
        contents.saved_model_file(compute, (*size, channels), traced.macs),
      )
      digest = None
    else:
      base = request.base(kind)
      if base == 'int8_litert' and base not in converted:
        converted[base], simulated = _lowered(
          source, network, weights, calibration_set, request
        )
      elif base not in converted:
        samples: Iterable[np.ndarray] = ()
        made_of = saved
        if base in request_lib.CALIBRATED:
          samples = _samples(calibration_set, request, source)
          made_of = settled
          if not os.path.exists(settled):
            compute = saved_model.function(
              network, weights, request, data.mean, data.std
            )
            saved_model.write(compute, (*size, channels), settled)
        converted[base] = tflite.convert(made_of, base, request, samples)
      if kind == 'c':
        card = _card(kind, converted[base], request, source)
        c_source.write(
          os.path.join(folder, kind), converted[base], card, images[0]
        )
        continue
      file, content, facts = contents.made_of(kind, converted[base])
      with open(os.path.join(folder, file), 'wb') as f:
        f.write(content)
      digest = hashlib.sha256(content).hexdigest()
      if kind in request_lib.INT8 and request.target:
        report['target'][kind] = _target_facts(folder, file, request)
    seconds = time.monotonic() - start
    card = model_card.card(file, kind, request, source, facts, digest)
    model_card.write(folder, kind, card)
    candidate = _open(os.path.join(folder, file), request, data)
    found = parity.outputs(candidate, images)
    comparer = agreement.Comparer(candidate, recorder, source.info.num_classes)
    result = scorer.result(comparer, kind)
    metrics = score.metrics_of(result, source.info.class_names)
    miou = metrics['miou']
    model_card.write(folder, kind, {**card, 'miou': miou})
    report['formats'][kind] = {
      'file': file,
      'file_bytes': output_folder.file_bytes(os.path.join(folder, file)),
      'params': traced.params,
      **facts,
      'latency_ms': None,
      **metrics,
      'miou_difference_points': _points(miou, report['jax']['miou']),
      'agreement': comparer.shares() if scorer.enabled else None,
      'parity': parity.compare(expected, found),
      'simulation': None,
      'conversion_seconds': round(seconds, 2),
    }
    if kind == 'int8_litert':
      report['formats'][kind]['simulation'] = _simulation(
        simulated, os.path.join(folder, file), images, scorer
      )
    if prove and file.endswith('.tflite'):
      report['formats'][kind]['latency_ms'] = measure.latency_ms(content)
    if prove and kind.startswith('int8'):
      report['proof'][kind] = measure.of_file(
        folder, kind, report, images, expected, found, source
      )
      shown += [] if result is None else [(kind, result)]
  report['notes'] += remarks.padding(report)
  if prove and shown:
    measure.draw_masks(folder, shown, source.info)
    report['overlays'] = True
  if 'saved_model' not in request.formats:
    shutil.rmtree(saved)
  shutil.rmtree(settled, ignore_errors=True)
  system.write_json(os.path.join(folder, 'report.json'), report)
  # From the file, so that both say the same.
  with open(os.path.join(folder, 'report.json'), encoding='utf-8') as f:
    report = json.load(f)
  text = markdown.markdown(report)
  pages = {'report.md': text, 'report.html': html_page.html(text, folder)}
  for name, whole in pages.items():
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
      f.write(whole)
  return report


def _lowered(
  source: source_lib.Source,
  network: Any,
  weights: Any,
  images: list[np.ndarray],
  request: request_lib.Request,
) -> tuple[bytes, predictors.Predictor]:
  """Returns the file by litert-converter, and what it is to compute."""
  from export.convert import litert_converter
  from export.verify import simulation

  variables = source_lib.quantized(
    source, network, weights, images, request.rules
  )
  content = litert_converter.convert(
    network,
    variables,
    request.rules,
    request,
    source.config.data.mean,
    source.config.data.std,
    source.pixels.highest,
  )
  return content, simulation.predictor(source, network, variables, request)


def _simulation(
  simulated: predictors.Predictor,
  path: str,
  images: list[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Returns how far the file is from its simulation in JAX."""
  from export.verify import simulation

  return simulation.compare(simulated, path, images, scorer)


def _samples(
  images: list[np.ndarray],
  request: request_lib.Request,
  source: source_lib.Source,
) -> Iterator[np.ndarray]:
  """Yields what TensorFlow's calibration runs."""
  yield from calibration.samples(
    views.track(images, len(images), 'calibrate'),
    request.input_size,
    request.normalization_in_graph,
    source.config.data.mean,
    source.config.data.std,
    source.pixels.highest,
  )


def _points(miou: float | None, reference: float | None) -> float | None:
  if miou is None or reference is None:
    return None
  return 100 * (miou - reference)


def _open(
  path: str, request: request_lib.Request, data: Any
) -> predictors.Predictor:
  """Returns the file as a predictor."""
  with system.capture_stderr():  # the interpreter greets
    if os.path.isfile(path):
      return load.load(path)
    return saved_model.SavedModelPredictor(path, request, data.mean, data.std)
