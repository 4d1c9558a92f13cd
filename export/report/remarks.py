"""What a reader of a report must know, in sentences."""

from typing import Any

from export import request as request_lib
from export import source as source_lib
from export.verify import score


def _describe_ranges(
  source: source_lib.ExportSource, request: request_lib.Request, images: str
) -> str:
  """Returns the sentence on where integer ranges come from."""
  bases = {request.base_format(kind) for kind in request.formats}
  by_us = 'int8_litert' in bases
  trained = 'quant_stats' in source.variables
  calibration = source.config.quantization.calibration
  method = calibration.method
  how = f', kernels rounded by {calibration.rounding!r}'
  if calibration.equalize and request.rules.weights == 'channel':
    how += ', what depthwise ones read equalised'
  if trained or not source.is_trained:
    how = ''
  ours = 'trained' if trained else f'by {method!r} over {images}'
  theirs = f'the extremes over {images}'
  ranges = f'int8_litert ranges are {ours}' if by_us else ''
  if bases & {'int8', 'int16x8'}:
    ranges = f'{ranges}; the other' if by_us else 'Integer'
    ranges += f' ranges are {theirs}'
  rules = request.rules
  how += ''.join(
    f'; layers {layers!r} {what}'
    for layers, what in (
      (rules.wide_layers, 'have activations of 16 bits'),
      (rules.float_layers, 'stay in float32'),
    )
    if layers
  )
  return f'{ranges}; weights are quantised per {rules.weights}{how}.'


def general_remarks(
  source: source_lib.ExportSource,
  request: request_lib.Request,
  num_calibration_images: int,
  scorer: score.Scorer,
  real_images: bool,
  num_parity_images: int,
) -> list[str]:
  """Returns what a reader of the report must know, a sentence or two each."""
  notes = []
  if not source.is_trained:
    notes.append(
      "The weights are untrained (initialised from the config's seed): sizes "
      'and operators are those of a trained model, mIoU has no meaning. Parity '
      'was taken on drawn images, and untrained logits lie so close together '
      'that arg-max agreement says little.'
    )
  elif scorer.enabled:
    part = 'the first ' if scorer.limit else 'all '
    notes.append(
      f'mIoU and parity are on {part}{scorer.num_images()} and the first '
      f'{num_parity_images} images of the split '
      f'`{source.config.data.eval_split}`.'
    )
  else:
    where = 'validation images' if real_images else 'drawn images'
    notes.append(
      f'The files were not evaluated (`--noeval`); parity was taken on {where}.'
    )
  if num_calibration_images:
    images = (
      f'{num_calibration_images} images of the split '
      f'`{source.config.data.train_split}`'
      if source.is_trained
      else f'{num_calibration_images} synthetic images '
      f'(seed {source.config.seed})'
    )
    notes.append(_describe_ranges(source, request, images))
    if source.dataset.spec.depth > 8:
      notes.append(
        'The images have 16 bits and the int8 file reads 8 of them: its input '
        'has 256 levels over the whole range, 0..65535. Images that fill a '
        'part of it keep as much less: stretch them, for training too.'
      )
  if source.network.has_trained_ranges:
    notes.append(
      'The run was trained in simulated int8; the row of JAX computes that.'
    )
    if not request.normalization_in_graph:
      notes.append(
        'It computes a file of pixels, which are rounded before they are '
        'normalised; these files take normalised ones.'
      )
  if source.config.model.dtype != 'float32':
    notes.append(
      f'The run computed in {source.config.model.dtype}; all rows here compute '
      'from its float32 weights in float32.'
    )
  return notes


def resize_remarks(
  source: source_lib.ExportSource, request: request_lib.Request, ratio: int
) -> list[str]:
  """Returns what became of the resizes, if they are not what was trained."""
  notes = []
  if request.resize == 'host':
    notes.append(
      'The last resize is not in the files: they return maps of the size that '
      'the head has, and parity is against JAX there. For mIoU the host '
      "resizes from there to the label's size."
    )
  config = source.config.model
  if ratio != config.resize_ratio:
    step = f'Maps grow by at most {ratio} a step'
    notes.append(
      f'{step if ratio else "Every resize takes one step"}, since '
      f'{request.target} does not take the resizes that the model was trained '
      'with. With aligned corners that is the same function, with half-pixel '
      f'centres another one: train with config.model.resize_ratio={ratio} to '
      'be exact.'
    )
  return notes


def padding_remarks(report: dict[str, Any]) -> list[str]:
  """Returns what to do about PAD operators, if there are any."""
  counts = [f['operators'].get('PAD', 0) for f in report['formats'].values()]
  if not any(counts):
    return []
  return [
    f'{max(counts)} PAD operators: strided convolutions that pad symmetrically '
    'need one where their input is even. An input size of k * 32 + 1, or a '
    "model trained with padding 'same', has none."
  ]
