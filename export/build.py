"""One export, told from weights to report.

Convert, refuse what is not as it is called, compare with JAX, evaluate, write
down. The result appears under its name only when all of it is there.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
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
from deeplab import files
from deeplab import inference
from deeplab import litert
from deeplab import parallel
from deeplab import predictors
from deeplab.models import profile
from export import c_array
from export import calibration
from export import cards
from export import fit
from export import folder as folder_lib
from export import graph as graph_lib
from export import memory
from export import onnx_file
from export import parity
from export import report as report_lib
from export import request as request_lib
from export import saved_model
from export import score
from export import source as source_lib
from export import targets
from export import tflite

_PACKAGES = (
  *('jax', 'flax', 'tensorflow', 'tensorflow-cpu', 'ai-edge-litert'),
  *('tf2onnx', 'onnxruntime', 'tflite-micro', 'ethos-u-vela'),
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
  if source.config.model.dtype != 'float32':
    notes.append(
      f'The run computed in {source.config.model.dtype}; all rows here compute '
      'from its float32 weights in float32.'
    )
  return notes


def _resize_notes(
  source: source_lib.Source, request: request_lib.Request, steps: int
) -> list[str]:
  """Returns what became of the last resize, if it is not what was trained."""
  if request.resize == 'host':
    return [
      'The last resize is not in the files: they return maps of the size that '
      'the head has, and parity is against JAX there. For mIoU the host '
      "resizes from there to the label's size."
    ]
  config = source.config.model
  if steps == config.resize_steps:
    return []
  same = (
    'With aligned corners that is the same function.'
    if config.head.align_corners
    else 'With half-pixel centres that is another function than was trained: '
    f'train with config.model.resize_steps={steps} to be exact.'
  )
  return [
    f'The last resize takes {steps} steps, since {request.target} does not '
    f'take the {config.resize_steps} that the model was trained with. {same}'
  ]


def _file(kind: str, content: bytes) -> tuple[str, bytes, dict[str, Any]]:
  """Returns name, bytes and facts of a format, made of .tflite bytes."""
  facts = _tflite_facts(content)
  if not kind.startswith('onnx'):
    return f'{kind}.tflite', content, facts
  content = onnx_file.convert(content)
  own = onnx_file.facts(content)
  facts |= {
    'weight_bytes': own['weight_bytes'],
    'peak_activation_bytes': None,
    'activation_lower_bound_bytes': None,
    'operators': own['operators'],
    'operator_dtypes': {
      name: {f'opset {own["opset"]}': count}
      for name, count in own['operators'].items()
    },
  }
  return f'{kind}.onnx', content, facts


def _card(
  kind: str,
  content: bytes,
  request: request_lib.Request,
  source: source_lib.Source,
) -> dict[str, Any]:
  """Returns the card of what is made of .tflite bytes."""
  digest = hashlib.sha256(content).hexdigest()
  return cards.card(kind, kind, request, source, _tflite_facts(content), digest)


def _target_facts(
  folder: str, file: str, request: request_lib.Request
) -> dict[str, Any]:
  """Returns what the target makes of the int8 file; see `fit.facts`."""
  path = os.path.join(folder, file)
  with open(path, 'rb') as f:
    graph = graph_lib.read(f.read())
  target = targets.get(request.target)
  available = fit.limits(target, request.ram_kib, request.flash_kib)
  return fit.facts(graph, path, target, available)


def _predictor(
  source: source_lib.Source, model: Any, request: request_lib.Request
) -> predictors.FlaxPredictor:
  """Returns a network of the source with the output of the request."""
  return predictors.FlaxPredictor(
    model,
    source.variables,
    source.config.data.mean,
    source.config.data.std,
    {'argmax': 'ids'}.get(request.output, request.output),
  )


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
    fit.DoesNotFit: the int8 file does not fit its target; likewise.
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
  steps = source_lib.resize_steps(source, request)
  network = source_lib.deployed(source, steps)
  traced = profile.profile(network, source.info.num_classes, size)
  compute = saved_model.function(
    network, source.variables, request, data.mean, data.std
  )
  # JAX as it is evaluated, with the platform's own kernels.
  reference = _predictor(
    source, source_lib.model(source, **parallel.kernels()), request
  )
  # Without evaluation and calibration a run's data set may be elsewhere.
  real = source.trained and (scorer.enabled or request.int8)
  images = [
    predictors.resize_bilinear(image, size)
    for image in source_lib.parity_images(source, size, _PARITY_IMAGES, real)
  ]
  comparable = reference
  if request.resize == 'host':
    comparable = _predictor(
      source, source_lib.HeadResolution(reference.model), request
    )
  expected = parity.outputs(comparable, images)
  calibrate = []
  if request.int8:
    calibrate = source_lib.calibration_images(source, size, calibration_images)
  report: report_lib.Report = {
    'source': source.facts(),
    'dataset': source.info.name,
    'request': dataclasses.asdict(request),
    'notes': [
      *_notes(source, len(calibrate), scorer, real),
      *_resize_notes(source, request, steps),
    ],
    'model': {'macs': traced.macs, 'params': traced.params},
    'jax': {'miou': scorer.miou(reference, 'JAX')},
    'formats': {},
    'versions': _versions(),
    'resolver': litert.DEFAULT_RESOLVER,
  }
  cards.write_labels(folder, source.info)
  saved = os.path.join(folder, 'saved_model')
  saved_model.write(compute, size, saved)
  converted: dict[str, bytes] = {}
  for kind in request.formats:
    logging.info('Writing %s', kind)
    start = time.monotonic()
    if kind == 'saved_model':
      file, facts = kind, _saved_model_facts(compute, request, traced.macs)
      digest = None
    else:
      base = request_lib.MADE_OF.get(kind, kind)
      if base not in converted:
        samples = _samples(calibrate, request, data) if base == 'int8' else ()
        converted[base] = tflite.convert(saved, base, request, samples)
      if kind == 'c':
        card = _card(kind, converted[base], request, source)
        c_array.write(
          os.path.join(folder, kind), converted[base], card, images[0]
        )
        continue
      file, content, facts = _file(kind, converted[base])
      with open(os.path.join(folder, file), 'wb') as f:
        f.write(content)
      digest = hashlib.sha256(content).hexdigest()
      if kind == 'int8' and request.target:
        report['target'] = _target_facts(folder, file, request)
    seconds = time.monotonic() - start
    card = cards.card(file, kind, request, source, facts, digest)
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
    if os.path.isfile(path):
      return files.load(path)
    return saved_model.SavedModelPredictor(path, request, data.mean, data.std)
