"""One export, told from weights to report.

Convert, refuse what is not as it is called, compare with JAX, evaluate, write
down. The result appears under its name only when all of it is there.
"""

from collections.abc import Iterator
from collections.abc import Sequence
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
from deeplab import parallel
from deeplab import predictors
from deeplab.models import profile
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

_PACKAGES = ('jax', 'flax', 'tensorflow', 'tensorflow-cpu', 'ai-edge-litert')
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
  compute: saved_model.Function, shape: Sequence[int], macs: int
) -> dict[str, Any]:
  """Returns the same of a SavedModel, whose memory XLA plans when it runs."""
  image = jax.ShapeDtypeStruct((1, *shape), 'float32')
  result = jax.eval_shape(compute, image)
  end = lambda x: {
    'dtype': str(x.dtype),
    'shape': list(x.shape),
    'quantization': None,
  }
  return {
    **saved_model.describe(compute, shape),
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'unpacked_weight_bytes': 0,
    'macs': macs,
    'input': end(image),
    'output': end(result),
  }


def _notes(
  source: source_lib.Source,
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
    notes.append(
      f'int8 ranges are the extremes over {images}; weights are quantised per '
      'channel.'
    )
    if source.pixels.depth > 8:
      notes.append(
        'The images have 16 bits and the int8 file reads 8 of them: its input '
        'has 256 levels over the whole range, 0..65535. Images that fill a '
        'part of it keep as much less: stretch them, for training too.'
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
  shape = *size, source.pixels.channels
  traced = profile.profile(
    source_lib.model(source, depthwise='conv', pointwise='conv'),
    source.info.num_classes,
    size,
    channels=source.pixels.channels,
  )
  compute = saved_model.function(
    source_lib.model(source, depthwise='conv', pointwise='conv'),
    source.variables,
    request,
    data.mean,
    data.std,
  )
  # JAX as it is evaluated, with the platform's own kernels.
  reference = predictors.FlaxPredictor(
    source_lib.model(source, **parallel.kernels()),
    source.variables,
    data.mean,
    data.std,
    {'argmax': 'ids'}.get(request.output, request.output),
  )
  # Without evaluation and calibration a run's data set may be elsewhere.
  real = source.trained and (scorer.enabled or 'int8' in request.formats)
  images = [
    predictors.resize_bilinear(image, size)
    for image in source_lib.parity_images(source, size, _PARITY_IMAGES, real)
  ]
  expected = parity.outputs(reference, images)
  calibrate = []
  if 'int8' in request.formats:
    calibrate = source_lib.calibration_images(source, size, calibration_images)
  report: report_lib.Report = {
    'source': source.facts(),
    'dataset': source.info.name,
    'request': dataclasses.asdict(request),
    'notes': _notes(source, len(calibrate), scorer, real),
    'model': {'macs': traced.macs, 'params': traced.params},
    'jax': {'miou': scorer.miou(reference, 'JAX')},
    'formats': {},
    'versions': _versions(),
    'resolver': litert.DEFAULT_RESOLVER,
  }
  cards.write_labels(folder, source.info)
  saved = os.path.join(folder, 'saved_model')
  saved_model.write(compute, shape, saved)
  for kind in request.formats:
    logging.info('Writing %s', kind)
    start = time.monotonic()
    if kind == 'saved_model':
      file, facts = kind, _saved_model_facts(compute, shape, traced.macs)
    else:
      file = f'{kind}.tflite'
      samples = _samples(calibrate, request, source) if kind == 'int8' else ()
      content = tflite.convert(saved, kind, request, samples)
      with open(os.path.join(folder, file), 'wb') as f:
        f.write(content)
      facts = _tflite_facts(content)
    seconds = time.monotonic() - start
    card = cards.card(file, kind, request, source, facts)
    cards.write(folder, kind, card)
    candidate = _open(os.path.join(folder, file), request, data)
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


def _samples(
  images: list[np.ndarray],
  request: request_lib.Request,
  source: source_lib.Source,
) -> Iterator[np.ndarray]:
  """Yields what the calibration of int8 runs."""
  yield from calibration.samples(
    inference.track(images, len(images), 'calibrate'),
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
  with saved_model.quiet():  # the interpreter greets
    if path.endswith('.tflite'):
      return litert.TFLitePredictor(path)
    return saved_model.SavedModelPredictor(path, request, data.mean, data.std)
