"""Remarks at the head of a report: what its reader must know, in sentences."""

from typing import Any

from deeplab import text
from export import file_formats
from export import frozen_model
from export import request as request_lib
from export import source as source_lib
from export.verify import score


def general_remarks(
  model: frozen_model.FrozenModel, scorer: score.Scorer, parity_origin: str
) -> list[str]:
  """Lists the remarks on weights, images, quantization and arithmetic.

  Args:
    model: the model as the files hold it.
    scorer: evaluates the files, or not.
    parity_origin: of the images that parity was measured on, as in
      `source.parity_images`.

  Returns:
    One or two sentences each.
  """
  source, request = model.source, model.request
  remarks = [
    _evaluation_remark(source, scorer, parity_origin, len(model.images))
  ]
  num_calibration_images = len(model.calibration_images)
  if num_calibration_images:
    images = _calibration_origin(source, num_calibration_images)
    remarks.append(_quantization_remark(source, request, images))
    if source.dataset.spec.depth > 8:
      remarks.append(
        'The images have 16 bits and the input of the int8 file has 8: 256 '
        'levels over the whole range, 0..65535. Images that use a part of the '
        'range keep that part of the levels only: stretch their contrast, for '
        'training too.'
      )
  if source.network.has_trained_ranges:
    remarks.append(
      'The run was trained in simulated int8, and the JAX row computes in it.'
    )
    if not request.normalization_in_graph:
      remarks.append(
        'JAX simulates a file with normalization in the graph, whose int8 '
        'input is the rounded pixels; these files take normalized images.'
      )
  if source.config.model.dtype != 'float32':
    remarks.append(
      f'The run was trained in {source.config.model.dtype}; all rows of this '
      'report compute in float32, from its float32 weights.'
    )
  return remarks


def _evaluation_remark(
  source: source_lib.ExportSource,
  scorer: score.Scorer,
  parity_origin: str,
  num_parity_images: int,
) -> str:
  """Names the images that mIoU and parity were measured on."""
  if not source.is_trained:
    return (
      "The weights are untrained (initialized from the config's seed): sizes "
      'and operators are those of a trained model, mIoU is meaningless. Parity '
      'was measured on synthetic images, and untrained logits are so close '
      'together that arg-max agreement is not informative.'
    )
  if scorer.enabled:
    part = 'the first ' if scorer.limit else 'all '
    return (
      f'mIoU was measured on {part}{scorer.num_images()} images of the split '
      f'{text.format_code(source.config.data.eval_split)}, parity on the first '
      f'{num_parity_images} of them.'
    )
  reason = (
    '`--noeval`'
    if source.has_labels
    else 'there are no labels; `--config.data.root` names a data set with them'
  )
  images = {
    'validation': 'validation images',
    'calibration': text.plural(num_parity_images, 'image')
    + f' of the folder {text.format_code(source.calibration_folder)}',
    'synthetic': 'synthetic images',
  }[parity_origin]
  return (
    f'The files were not evaluated ({reason}); parity was measured on {images}.'
  )


def _calibration_origin(source: source_lib.ExportSource, count: int) -> str:
  """Names the images that integer files were calibrated on.

  Args:
    source: the model and its data.
    count: number of the images.
  """
  if source.calibration_folder:
    total = len(source.calibration_paths)
    return (
      f'{count} of {text.plural(total, "image")} of the folder '
      f'{text.format_code(source.calibration_folder)}'
    )
  if source.is_trained:
    return (
      f'{count} images of the split '
      f'{text.format_code(source.config.data.train_split)}'
    )
  return f'{count} synthetic images (seed {source.config.seed})'


def _quantization_remark(
  source: source_lib.ExportSource, request: request_lib.Request, images: str
) -> str:
  """Describes the origin of activation ranges and integer weights."""
  formats = [
    file_formats.FORMATS[name]
    for name in dict.fromkeys(map(request.base_format, request.formats))
  ]
  calibration = source.config.quantization.calibration
  trained = source.network.has_trained_ranges
  rules = request.rules
  sentences = []
  simulated = [x.name for x in formats if x.calibrated and x.simulate]
  if simulated:
    origin = (
      'were trained'
      if trained
      else f'were estimated by {calibration.method!r} on {images}'
    )
    sentences.append(
      f'Activation ranges of {" and ".join(simulated)} {origin}.'
    )
  by_tensorflow = [x.name for x in formats if x.calibrated and not x.simulate]
  if by_tensorflow:
    sentences.append(
      f'Activation ranges of {" and ".join(by_tensorflow)} are the minimum and '
      f'maximum over {images}.'
    )
  weights = f'Weights are quantized per {rules.weights}'
  if source.is_trained and not trained:
    if calibration.equalize and rules.weights == 'channel':
      weights += ', after equalization of the channels that depthwise kernels '
      weights += 'read'
    weights += f', with kernels rounded by {calibration.rounding!r}'
  sentences.append(f'{weights}.')
  if rules.wide_layers:
    layers = text.format_code(rules.wide_layers)
    sentences.append(f'Layers {layers} have 16-bit activations.')
  if rules.float_layers:
    layers = text.format_code(rules.float_layers)
    sentences.append(f'Layers {layers} stay in float32.')
  return ' '.join(sentences)


def resize_remarks(model: frozen_model.FrozenModel) -> list[str]:
  """Lists the differences between the resizes of the files and of the model.

  Args:
    model: the model as the files hold it.
  """
  request, ratio = model.request, model.resize_ratio
  remarks = []
  if request.resize == 'host':
    remarks.append(
      'The files leave out the last resize and return maps of the size that '
      'the head has; parity is measured against JAX at that size. For mIoU the '
      "host resizes the maps to the label's size."
    )
  trained_ratio = model.source.config.model.resize_ratio
  if ratio != trained_ratio:
    resizes = (
      f'Each resize enlarges by at most {ratio}'
      if ratio
      else 'Each resize is one operator'
    )
    remarks.append(
      f'{resizes}, because {request.target} does not run the resizes that the '
      'model was trained with. With aligned corners this computes the same '
      'function, with half-pixel centers a different one: train with '
      f'config.model.resize_ratio={ratio} for equal results.'
    )
  return remarks


def padding_remarks(report: dict[str, Any]) -> list[str]:
  """Advises how to avoid PAD operators, if there are any.

  Args:
    report: content of report.json.
  """
  counts = [f['operators'].get('PAD', 0) for f in report['formats'].values()]
  if not any(counts):
    return []
  return [
    f'The graph has {max(counts)} PAD operators: strided convolutions with '
    'symmetric padding need one where their input size is even. An input size '
    "of 32k + 1, or a model trained with padding 'same', needs none."
  ]
