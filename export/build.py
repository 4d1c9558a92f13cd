"""One export, told from weights to report.

Convert, refuse what is not as it is called, compare with JAX, evaluate, write
down. The result appears under its name only when all of it is there.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
from importlib import metadata
import json
import os
import shutil
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from deeplab import evaluate
from deeplab import inference
from deeplab import litert
from deeplab import predictors
from deeplab.models import profile
from deeplab.quantization import networks
from export import calibration
from export import cards
from export import folder as folder_lib
from export import graph as graph_lib
from export import memory
from export import parity
from export import report as report_lib
from export import request as request_lib
from export import saved_model
from export import score
from export import source as source_lib
from export import tflite

_PACKAGES = (
  'jax',
  'flax',
  'tensorflow',
  'tensorflow-cpu',
  'ai-edge-litert',
  'litert-converter',
  'qwix',
)
_PARITY_IMAGES = 8


def _versions() -> dict[str, str]:
  versions = {}
  for name in _PACKAGES:
    with contextlib.suppress(metadata.PackageNotFoundError):
      versions[name] = metadata.version(name)
  return versions


def _tflite_facts(data: bytes) -> dict[str, Any]:
  """Returns what the bytes of a .tflite file say."""
  graph = graph_lib.read(data)
  activations = memory.lives(graph)
  return {
    'weight_bytes': graph_lib.weight_bytes(graph),
    'peak_activation_bytes': memory.arena(activations),
    'activation_lower_bound_bytes': memory.lower_bound(activations),
    'unpacked_weight_bytes': memory.unpacked_bytes(graph),
    'macs': graph_lib.macs(graph),
    'operators': graph_lib.operators(graph),
    'operator_dtypes': graph_lib.operator_dtypes(graph),
    'input': cards.end(graph, graph.inputs[0]),
    'output': cards.end(graph, graph.outputs[0]),
  }


def _saved_model_facts(
  compute: saved_model.Function, request: request_lib.Request, macs: int
) -> dict[str, Any]:
  """Returns the same of a SavedModel, whose memory XLA plans when it runs."""
  size = request.input_size
  image = jax.ShapeDtypeStruct((1, *size, 3), 'float32')
  result = jax.eval_shape(compute, image)
  end = lambda x: {
    'dtype': str(x.dtype),
    'shape': list(x.shape),
    'quantization': None,
  }
  return {
    **saved_model.describe(compute, size),
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'unpacked_weight_bytes': 0,
    'macs': macs,
    'input': end(image),
    'output': end(result),
  }


def _ranges_note(
  source: source_lib.Source, request: request_lib.Request, images: str
) -> str:
  """Returns the sentence on where integer ranges come from."""
  by_us = 'int8_litert' in request.formats
  trained = 'quant_stats' in source.variables
  method = source.config.quantization.calibration.method
  ours = 'trained' if trained else f'by {method!r} over {images}'
  theirs = f'the extremes over {images}'
  ranges = f'int8_litert ranges are {ours}' if by_us else ''
  if set(request.formats) & {'int8', 'int16x8'}:
    ranges = f'{ranges}; the other' if by_us else 'Integer'
    ranges += f' ranges are {theirs}'
  return f'{ranges}; weights are quantised per {request.rules.weights}.'


def _notes(
  source: source_lib.Source,
  request: request_lib.Request,
  calibrated_on: int,
  scorer: score.Scorer,
  real: bool,
) -> list[str]:
  """Returns what a reader of the report must know, a sentence or two each."""
  notes = []
  if not source.trained:
    notes.append(
      "The weights are untrained (initialised from the config's seed): sizes "
      'and operators are those of a trained model, mIoU has no meaning. Parity '
      'was taken on drawn images, and untrained logits lie so close together '
      'that arg-max agreement says little.'
    )
  elif scorer.enabled:
    part = 'the first ' if scorer.limit else 'all '
    notes.append(
      f'mIoU and parity are on {part}{scorer.total()} and the first '
      f'{_PARITY_IMAGES} images of the split '
      f'`{source.config.data.eval_split}`.'
    )
  else:
    where = 'validation images' if real else 'drawn images'
    notes.append(
      f'The files were not evaluated (`--noeval`); parity was taken on {where}.'
    )
  if calibrated_on:
    images = (
      f'{calibrated_on} images of the split `{source.config.data.train_split}`'
      if source.trained
      else f'{calibrated_on} synthetic images (seed {source.config.seed})'
    )
    notes.append(_ranges_note(source, request, images))
  if networks.enabled(source.config):
    notes.append(
      'The run was trained in simulated int8; the row of JAX computes that.'
    )
  if source.config.model.dtype != 'float32':
    notes.append(
      f'The run computed in {source.config.model.dtype}; all rows here compute '
      'from its float32 weights in float32.'
    )
  return notes


def _padding_notes(report: report_lib.Report) -> list[str]:
  """Returns what to do about PAD operators, if there are any."""
  counts = [f['operators'].get('PAD', 0) for f in report['formats'].values()]
  if not any(counts):
    return []
  return [
    f'{max(counts)} PAD operators: strided convolutions that pad symmetrically '
    'need one where their input is even. An input size of k * 32 + 1, or a '
    "model trained with padding 'same', has none."
  ]


def run(
  source: source_lib.Source,
  request: request_lib.Request,
  output: str,
  calibration_images: int,
  evaluate_files: bool,
  eval_limit: int,
) -> report_lib.Report:
  """Exports a model.

  Args:
    source: the model.
    request: what to make of it.
    output: folder to write: `saved_model/`, `KIND.tflite`, a card KIND.json
      beside each, labels.txt, report.json and report.md.
    calibration_images: how many, for int8.
    evaluate_files: scores JAX and every file on the validation split.
    eval_limit: examples of it, 0 for all.

  Returns:
    What report.json holds.

  Raises:
    graph.BadGraph: a file is not what it must be; nothing is written.
    ValueError: conversion or evaluation is impossible, and why.
  """
  scorer = score.Scorer(source, request, evaluate_files, eval_limit)
  with folder_lib.whole_or_nothing(output) as folder:
    return _fill(folder, source, request, calibration_images, scorer)


def _fill(
  folder: str,
  source: source_lib.Source,
  request: request_lib.Request,
  calibration_images: int,
  scorer: score.Scorer,
) -> report_lib.Report:
  """Writes the whole export into a folder; see `run`."""
  data, size = source.config.data, request.input_size
  classes = source.info.num_classes
  traced = profile.profile(
    source_lib.model(source, depthwise='conv', pointwise='conv'),
    classes,
    size,
  )
  compute = saved_model.function(
    source_lib.model(source, depthwise='conv', pointwise='conv'),
    source.weights,
    request,
    data.mean,
    data.std,
  )
  # JAX as it is evaluated, with the platform's own kernels.
  reference = predictors.FlaxPredictor(
    networks.build(source_lib.in_float32(source.config), classes),
    source.variables,
    data.mean,
    data.std,
    {'argmax': 'ids'}.get(request.output, request.output),
    float64=networks.enabled(source.config),
  )
  # Without evaluation and calibration a run's data set may be elsewhere.
  calibrated = set(request.formats) & set(request_lib.CALIBRATED)
  real = source.trained and (scorer.enabled or bool(calibrated))
  images = [
    predictors.resize_bilinear(image, size)
    for image in source_lib.parity_images(source, size, _PARITY_IMAGES, real)
  ]
  expected = parity.outputs(reference, images)
  calibrate = []
  if calibrated:
    calibrate = source_lib.calibration_images(source, size, calibration_images)
  report: report_lib.Report = {
    'source': source.facts(),
    'dataset': source.info.name,
    'request': dataclasses.asdict(request),
    'notes': _notes(source, request, len(calibrate), scorer, real),
    'model': {'macs': traced.macs, 'params': traced.params},
    'jax': {'miou': scorer.miou(reference, 'JAX')},
    'formats': {},
    'versions': _versions(),
    'resolver': litert.DEFAULT_RESOLVER,
  }
  cards.write_labels(folder, source.info)
  saved = os.path.join(folder, 'saved_model')
  saved_model.write(compute, size, saved)
  for kind in request.formats:
    logging.info('Writing %s', kind)
    start = time.monotonic()
    if kind == 'saved_model':
      file, facts = kind, _saved_model_facts(compute, request, traced.macs)
    else:
      file = f'{kind}.tflite'
      if kind == 'int8_litert':
        quantized = source_lib.quantized(source, calibrate, request.rules)
        content = _lowered(source, quantized, request)
      else:
        samples: Iterable[np.ndarray] = ()
        if kind in request_lib.CALIBRATED:
          samples = _samples(calibrate, request, data)
        content = tflite.convert(saved, kind, request, samples)
      with open(os.path.join(folder, file), 'wb') as f:
        f.write(content)
      facts = _tflite_facts(content)
    seconds = time.monotonic() - start
    card = cards.card(file, kind, request, source, facts)
    cards.write(folder, kind, card)
    candidate = _open(os.path.join(folder, file), request, data)
    simulated = None
    if kind == 'int8_litert':
      simulated = _simulated(
        os.path.join(folder, file), source, quantized, request, images, scorer
      )
    comparison = parity.compare(expected, parity.outputs(candidate, images))
    miou = scorer.miou(candidate, kind)
    cards.write(folder, kind, {**card, 'miou': miou})
    report['formats'][kind] = {
      'file': file,
      'file_bytes': folder_lib.file_bytes(os.path.join(folder, file)),
      'params': traced.params,
      **facts,
      'miou': miou,
      'miou_difference_points': _points(miou, report['jax']['miou']),
      'parity': comparison,
      'simulation': simulated,
      'conversion_seconds': round(seconds, 2),
    }
  report['notes'] += _padding_notes(report)
  if 'saved_model' not in request.formats:
    shutil.rmtree(saved)
  evaluate.write_json(os.path.join(folder, 'report.json'), report)
  # From the file, so that both say the same.
  with open(os.path.join(folder, 'report.json'), encoding='utf-8') as f:
    report = json.load(f)
  with open(os.path.join(folder, 'report.md'), 'w', encoding='utf-8') as f:
    f.write(report_lib.markdown(report))
  return report


def _lowered(
  source: source_lib.Source, variables: Any, request: request_lib.Request
) -> bytes:
  """Returns the file by litert-converter."""
  from export import lowering  # Qwix and the converter may be absent

  data = source.config.data
  return lowering.convert(
    source_lib.model(source, **networks.KERNELS),
    variables,
    request.rules,
    request,
    data.mean,
    data.std,
  )


def _simulated(
  path: str,
  source: source_lib.Source,
  variables: Any,
  request: request_lib.Request,
  images: list[np.ndarray],
  scorer: score.Scorer,
) -> dict[str, Any]:
  """Returns how far the file is from its simulation in JAX."""
  from export import simulation

  return simulation.compare(
    simulation.predictor(source, variables, request), path, images, scorer
  )


def _samples(
  images: list[np.ndarray], request: request_lib.Request, data: Any
) -> Iterator[np.ndarray]:
  """Yields what the calibration of int8 runs."""
  yield from calibration.samples(
    inference.track(images, len(images), 'calibrate'),
    request.input_size,
    request.normalization_in_graph,
    data.mean,
    data.std,
  )


def _points(miou: float | None, reference: float | None) -> float | None:
  if miou is None or reference is None:
    return None
  return 100 * (miou - reference)


def _open(
  path: str, request: request_lib.Request, data: Any
) -> predictors.Predictor:
  """Returns the file as a predictor."""
  with saved_model.quiet():  # the interpreter greets
    if path.endswith('.tflite'):
      return litert.TFLitePredictor(path)
    return saved_model.SavedModelPredictor(path, request, data.mean, data.std)
