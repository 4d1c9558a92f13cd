"""One export, in three steps: make the files, verify them, report.

The output folder appears under its name only when all three have succeeded.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

from absl import logging

from deeplab import evaluate
from deeplab import system
from deeplab import workdir as workdir_lib
from deeplab.data import resize
from deeplab.files import output_files
from deeplab.inference import interpreters
from export import file_formats
from export import frozen_model
from export import output_folder
from export import request as request_lib
from export import source as source_lib
from export.devices import fit
from export.devices import measure
from export.devices import targets
from export.graph import tflite_graph
from export.report import comparison
from export.report import html_page
from export.report import markdown
from export.report import model_card
from export.report import plots
from export.report import remarks
from export.report import schema
from export.verify import score
from export.verify import verifier

_PACKAGES = (
  *('jax', 'flax', 'tensorflow', 'tensorflow-cpu', 'ai-edge-litert'),
  *('litert-converter', 'qwix', 'tf2onnx', 'onnxruntime', 'tflite-micro'),
  'ethos-u-vela',
)
_PARITY_IMAGES = 8


def export_model(
  source: source_lib.ExportSource,
  request: request_lib.Request,
  output: str,
  *,
  num_calibration_images: int,
  evaluate_files: bool,
  eval_limit: int = 0,
  check_devices: bool = False,
  baseline: str = '',
  overwrite: bool = False,
) -> dict[str, Any]:
  """Exports a model.

  Args:
    source: the model and its data.
    request: the files to make.
    output: folder to write: one file per format with its model card NAME.json,
      labels.txt, report.json, report.md and report.html.
    num_calibration_images: number of images that integer files calibrate on.
    evaluate_files: evaluate JAX and every file on the validation split.
    eval_limit: number of validation examples, 0 for all.
    check_devices: run the device checks (Vela, TFLite Micro, latency) on the
      int8 files and draw plots.
    baseline: folder of an earlier export whose scores the report repeats; ''
      for none.
    overwrite: files in `output` that no export has written may be replaced;
      without it the export is refused if it would. Others are kept.

  Returns:
    The content of report.json.

  Raises:
    BadGraph: a file holds an operator or a type that it must not hold. Nothing
      is written then, or for the errors below.
    DoesNotFit: an integer file does not fit its target.
    ValueError: the request, the conversion or the evaluation is impossible.
  """
  request_lib.check_source(
    request,
    source.dataset.spec.depth,
    source.network.has_trained_ranges,
    source.has_calibration_images,
  )
  _check_output_outside(output, source.calibration_folder)
  scorer = score.Scorer(source, request, evaluate_files, eval_limit)
  origin = _parity_origin(source, request, evaluate_files)
  with (
    output_folder.write_atomically(
      output,
      inputs=filter(
        os.path.exists,
        (
          *(source.weights or '', source.calibration_folder, baseline),
          source.config.data.root,
        ),
      ),
      planned=_planned_names(request),
      overwrite=overwrite,
    ) as folder,
    tempfile.TemporaryDirectory() as scratch,
  ):
    report = _begin_report(source, request, scorer, baseline)
    model = frozen_model.FrozenModel(
      source,
      request,
      num_calibration_images=(
        num_calibration_images if request.needs_calibration else 0
      ),
      images=[
        resize.resize_bilinear(image, request.input_size)
        for image in source_lib.parity_images(
          source, request.input_size, _PARITY_IMAGES, origin
        )
      ],
      scratch=scratch,
    )
    files = make_files(model, folder, scratch)
    report.target = check_target(request, files)
    report.notes = _collect_remarks(model, scorer, origin)
    report.model = {'macs': model.cost.macs, 'params': model.cost.params}
    verify_files(files, folder, model, scorer, report, check_devices)
    return write_report(folder, report)


def export_file(
  source: source_lib.ExportSource,
  request: request_lib.Request,
  path: str | os.PathLike,
  *,
  num_calibration_images: int,
  overwrite: bool = False,
) -> dict[str, Any]:
  """Exports one file and its model card, without folder and report.

  Args:
    source: the model and its data.
    request: asks for one format.
    path: the file; an earlier export of the name is replaced.
    num_calibration_images: as for `export_model`.
    overwrite: files that no export has written may be replaced.

  Returns:
    The content that report.json would have.

  Raises:
    ValueError: as `export_model` does; or the file, or NAME.json beside it, is
      of the user.
  """
  path = pathlib.Path(path)
  card_name = path.with_suffix('.json').name
  files = output_files.OutputFiles(path.parent, overwrite=overwrite)
  files.check([path.name, card_name])
  with tempfile.TemporaryDirectory() as parent:
    folder = os.path.join(parent, 'export')
    report = export_model(
      source,
      request,
      folder,
      num_calibration_images=num_calibration_images,
      evaluate_files=False,
    )
    (name,) = request.formats
    exported = os.path.join(folder, report['formats'][name]['file'])
    with open(os.path.join(folder, f'{name}.json'), encoding='utf-8') as f:
      card = json.load(f)
    del card['labels']  # the card lists the classes, too
    os.makedirs(path.parent, exist_ok=True)
    with files.replace(path.name) as temporary:
      shutil.copyfile(exported, temporary)
    files.write_json(card_name, {**card, 'file': path.name})
  return report


def _check_output_outside(output: str, folder: str) -> None:
  """Raises ValueError if an export would lie in the calibration folder."""
  if folder and pathlib.Path(folder).resolve() in (
    pathlib.Path(output).resolve().parents
  ):
    raise ValueError(
      f'--output={output} lies in --calibration_images={folder}: the next '
      'calibration would take its plots for images; choose another --output'
    )


def _parity_origin(
  source: source_lib.ExportSource,
  request: request_lib.Request,
  evaluate_files: bool,
) -> str:
  """Returns the origin of the images that files are compared with JAX on.

  Without evaluation and calibration the data set of a run may be elsewhere.
  """
  if evaluate_files:
    return 'validation'
  if source.calibration_folder:
    return 'calibration'
  if source.has_labels and request.needs_calibration:
    return 'validation'
  return 'synthetic'


def _planned_names(request: request_lib.Request) -> set[str]:
  """Returns the names of the files of an export, but for those in folders."""
  names = {
    *('report.json', 'report.md', 'report.html', 'overlays.png'),
    model_card.LABELS_FILE,
  }
  for name in request.formats:
    suffix = file_formats.FORMATS[name].suffix
    names |= {f'{name}{suffix}'} if suffix else set()
    names |= {f'{name}.json', f'memory_{name}.png', f'errors_{name}.png'}
  return names


def _begin_report(
  source: source_lib.ExportSource,
  request: request_lib.Request,
  scorer: score.Scorer,
  baseline: str,
) -> schema.Report:
  """Reads the baseline before anything that takes long."""
  report = schema.Report(
    source=source.describe(),
    dataset=source.dataset.info.name,
    classes=list(source.dataset.info.class_names),
    scored=scorer.num_images() if scorer.enabled else None,
    request=dataclasses.asdict(request),
    versions=workdir_lib.package_versions(_PACKAGES),
    resolver=interpreters.DEFAULT_RESOLVER,
  )
  if baseline:
    report.beside = comparison.read_baseline(baseline, report.to_json())
  return report


# --- Make -------------------------------------------------------------------


def make_files(
  model: frozen_model.FrozenModel, folder: str, scratch: str
) -> list[file_formats.File]:
  """Makes the requested files, in order, with their model cards.

  Args:
    model: the model as the files hold it.
    folder: where they are written.
    scratch: where files are written from which others are derived and which
      are not requested themselves.
  """
  if model.request.needs_calibration:
    model.prepare_integer_weights()
  made: dict[str, file_formats.File] = {}
  files = [
    _make_file(model, name, folder, scratch, made)
    for name in model.request.formats
  ]
  model_card.write_labels(folder, model.source.dataset.info)
  return files


def _make_file(
  model: frozen_model.FrozenModel,
  name: str,
  folder: str,
  scratch: str,
  made: dict[str, file_formats.File],
) -> file_formats.File:
  """Makes one file, after the file that it is derived from; each only once."""
  if name in made:
    return made[name]
  request = model.request
  base_name = request.base_format(name)
  base = None
  if base_name != name:
    base = _make_file(model, base_name, folder, scratch, made)
  file_format = file_formats.FORMATS[name]
  parent = folder if name in request.formats else scratch
  file = file_formats.File(
    file_format, os.path.join(parent, name + file_format.suffix), base
  )
  logging.info('Writing %s', name)
  start = time.monotonic()
  file_format.convert(model, file)
  made[name] = dataclasses.replace(file, seconds=time.monotonic() - start)
  return made[name]


def check_target(
  request: request_lib.Request, files: list[file_formats.File]
) -> dict[str, Any]:
  """Returns the fit of each integer file on the target; {} without a target.

  Raises:
    DoesNotFit: a file needs more than the target has.
  """
  if not request.target:
    return {}
  target = targets.get_target(request.target)
  limits = fit.memory_limits(target, request.ram_kib, request.flash_kib)
  return {
    file.format.name: fit.check_fit(
      tflite_graph.read_tflite(file.content()), file.path, target, limits
    )
    for file in files
    if file.format.integer_io
  }


# --- Verify -----------------------------------------------------------------


def verify_files(
  files: list[file_formats.File],
  folder: str,
  model: frozen_model.FrozenModel,
  scorer: score.Scorer,
  report: schema.Report,
  check_devices: bool,
) -> None:
  """Compares JAX and each file, and fills `jax`, `formats` and `proof`.

  Args:
    files: the files of `make_files`.
    folder: the export, which gets model cards and plots.
    model: the model as they hold it.
    scorer: evaluates on the validation split, or not at all.
    report: gets the results.
    check_devices: run the device checks on the integer files, too.
  """
  reference = verifier.Verifier(model, scorer)
  report.jax = {
    'arithmetic': model.source.network.arithmetic,
    **reference.metrics,
  }
  evaluated = [('JAX', reference.result)]
  for file in files:
    if file.format.summarize is None:
      continue
    name = file.format.name
    summary = file.format.summarize(model, file)
    card = model_card.make_card(model, file.name, name, summary, file.digest())
    # Predictors read the card, which then gets the mIoU.
    model_card.write_card(folder, name, card)
    verification = reference.verify_file(file)
    model_card.write_card(
      folder, name, {**card, 'miou': verification.metrics['miou']}
    )
    report.formats[name] = _format_report(
      file, summary, model, report.jax['miou'], verification
    )
    if check_devices:
      _check_devices(file, model, reference.expected, verification, report)
    if check_devices and file.format.integer_io:
      evaluated.append((name, verification.result))
  if check_devices:
    _write_overlays(folder, evaluated, model, report)


def _format_report(
  file: file_formats.File,
  summary: dict[str, Any],
  model: frozen_model.FrozenModel,
  jax_miou: float | None,
  verification: verifier.Verification,
) -> schema.FormatReport:
  """Returns the row of one file, without its latency."""
  miou = verification.metrics['miou']
  difference = None
  if miou is not None and jax_miou is not None:
    difference = 100 * (miou - jax_miou)
  return schema.FormatReport(
    file=file.name,
    file_bytes=output_folder.file_bytes(file.path),
    params=model.cost.params,
    summary=summary,
    **verification.metrics,
    miou_difference_points=difference,
    agreement=verification.agreement,
    parity=verification.parity,
    simulation=verification.simulation,
    conversion_seconds=file.seconds,
  )


def _check_devices(
  file: file_formats.File,
  model: frozen_model.FrozenModel,
  expected: list[Any],
  verification: verifier.Verification,
  report: schema.Report,
) -> None:
  """Times a .tflite file; runs and plots the device checks of integer ones."""
  name = file.format.name
  if file.format.suffix == '.tflite':
    report.formats[name] = dataclasses.replace(
      report.formats[name],
      latency_ms=measure.measure_latency_ms(file.content()),
    )
  if not file.format.integer_io:
    return
  logging.info('Checking %s with device compilers and TFLite Micro', name)
  normalization = None
  if not model.request.normalization_in_graph:
    normalization = (model.mean, model.std)
  target = report.target.get(name, {})
  ram = target.get('ram_bytes')
  checks = measure.run_device_checks(
    file.path, model.images, normalization, target.get('name', ''), ram
  )
  report.proof[name] = checks
  folder = os.path.dirname(file.path)
  arena = report.formats[name].summary['peak_activation_bytes']
  plots.write_memory_plot(folder, name, checks['memory'], arena, ram)
  plots.write_error_plot(
    folder, name, model.images, expected, verification.outputs
  )


def _write_overlays(
  folder: str,
  results: list[tuple[str, evaluate.Result | None]],
  model: frozen_model.FrozenModel,
  report: schema.Report,
) -> None:
  """Draws predicted masks over the first validation images."""
  evaluated = [(name, result) for name, result in results if result is not None]
  if evaluated:
    plots.write_overlays(folder, evaluated, model.source.dataset.info)
    report.overlays = True


# --- Report -----------------------------------------------------------------


def _collect_remarks(
  model: frozen_model.FrozenModel, scorer: score.Scorer, origin: str
) -> list[str]:
  """Returns the remarks that do not depend on results."""
  formats = [file_formats.FORMATS[name] for name in model.request.formats]
  return [
    *remarks.general_remarks(model, scorer, origin),
    *remarks.resize_remarks(model),
    *(x.remark for x in formats if x.remark),
  ]


def write_report(folder: str, report: schema.Report) -> dict[str, Any]:
  """Writes report.json, and report.md and report.html made from it.

  Args:
    folder: the export, with the plots in it.
    report: all results.

  Returns:
    The content of report.json.
  """
  report.notes += remarks.padding_remarks(report.to_json())
  path = os.path.join(folder, 'report.json')
  system.write_json(path, report.to_json())
  # Read back, so that the page shows what the file holds.
  with open(path, encoding='utf-8') as f:
    content: dict[str, Any] = json.load(f)
  text = markdown.render_report(content)
  pages = {
    'report.md': text,
    'report.html': html_page.render_page(text, folder),
  }
  for name, page in pages.items():
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
      f.write(page)
  return content
