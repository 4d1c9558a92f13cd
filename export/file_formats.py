"""The file formats that an export can write, in one table.

A format is one entry of `FORMATS`; `export/README.md` shows how to add one.
Converters are imported when they run: TensorFlow takes seconds to load, and
litert-converter may not be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import hashlib
import os
import shutil
from typing import TYPE_CHECKING
from typing import Any

from deeplab import system

if TYPE_CHECKING:
  from deeplab.inference import predictors
  from export import frozen_model
  from export import request as request_lib


@dataclasses.dataclass(frozen=True)
class File:
  """One exported file, or folder.

  Attributes:
    format: its format.
    path: where it is written.
    base: the .tflite file that it is derived from; None for a format that is
      converted from the network.
    seconds: time that the conversion took.
  """

  format: Format
  path: str
  base: File | None = None
  seconds: float = 0.0

  @property
  def name(self) -> str:
    """File name within the export's folder."""
    return os.path.basename(self.path)

  def content(self) -> bytes:
    """Reads the bytes of the file."""
    with open(self.path, 'rb') as f:
      return f.read()

  def digest(self) -> str | None:
    """Returns the SHA-256 of the file, in hexadecimal; None for a folder."""
    if os.path.isdir(self.path):
      return None
    return hashlib.sha256(self.content()).hexdigest()


Convert = Callable[['frozen_model.FrozenModel', File], None]
Summarize = Callable[['frozen_model.FrozenModel', File], dict[str, Any]]
OpenPredictor = Callable[
  ['frozen_model.FrozenModel', File], 'predictors.Predictor'
]
Simulate = Callable[['frozen_model.FrozenModel'], 'predictors.Predictor']
Check = Callable[['request_lib.Request', str], None]


def _open_file(
  model: frozen_model.FrozenModel, file: File
) -> predictors.Predictor:
  """Opens a .tflite or .onnx file."""
  from deeplab.inference import load

  del model
  return load.load_predictor(file.path)


@dataclasses.dataclass(frozen=True)
class Format:
  """One format: how its file is made, described, run and refused.

  Attributes:
    name: value of --formats, and name of the file.
    suffix: suffix of the file; '' for a folder.
    convert: writes `file.path`.
    summarize: reads sizes, operators and I/O tensors from the file, for its
      model card and its row in the report. None for a format that nothing here
      can run: it has neither card nor row, and is not compared with JAX.
    open: opens the file as a predictor.
    simulate: returns the JAX simulation that the file is compared with, LSB by
      LSB; None for no simulation.
    base: format of the .tflite file that this one is derived from; '' for
      formats that are converted from the network.
    replaces: base in whose place derived formats take this format, where that
      base is not exported itself.
    group: value of --formats that selects all formats of the group.
    calibrated: activation ranges come from calibration images.
    integer_io: input and output may be int8 or uint8, and the file is checked
      against --target.
    per_tensor_weights: kernels may have one scale for all channels.
    check: raises ValueError for a request that the format cannot hold. It gets
      the request and the name of the requested format: its own, or that of one
      derived from it.
    max_depth: the most bits per channel of images that the format can read.
    remark: a sentence for users of the file, shown in the report.
  """

  name: str
  suffix: str
  convert: Convert
  summarize: Summarize | None = None
  open: OpenPredictor = _open_file
  simulate: Simulate | None = None
  base: str = ''
  replaces: str = ''
  group: str = ''
  calibrated: bool = False
  integer_io: bool = False
  per_tensor_weights: bool = True
  check: Check | None = None
  max_depth: int = 16
  remark: str = ''


def _write(path: str, content: bytes) -> None:
  with open(path, 'wb') as f:
    f.write(content)


# --- SavedModel -------------------------------------------------------------


def _copy_saved_model(model: frozen_model.FrozenModel, file: File) -> None:
  shutil.copytree(model.saved_model, file.path)


def _summarize_saved_model(
  model: frozen_model.FrozenModel, file: File
) -> dict[str, Any]:
  from export.report import contents

  del file
  return contents.summarize_saved_model(
    model.serving_function, model.input_shape, model.cost.macs
  )


def _open_saved_model(
  model: frozen_model.FrozenModel, file: File
) -> predictors.Predictor:
  from export.convert import saved_model

  return saved_model.SavedModelPredictor(
    file.path, model.request, model.mean, model.std
  )


# --- TFLite by TensorFlow's converter ---------------------------------------


def _convert_float(model: frozen_model.FrozenModel, file: File) -> None:
  from export.convert import tflite

  content = tflite.convert_saved_model(
    model.saved_model, file.format.name, model.request
  )
  _write(file.path, content)


def _convert_integer(model: frozen_model.FrozenModel, file: File) -> None:
  from export.convert import tflite

  images = model.calibration_images
  samples = tflite.representative_dataset(
    system.track_progress(images, len(images), 'calibrate'),
    model.request.input_size,
    model.request.normalization_in_graph,
    model.mean,
    model.std,
    model.max_value,
  )
  content = tflite.convert_saved_model(
    model.integer_saved_model, file.format.name, model.request, samples
  )
  _write(file.path, content)


def _summarize_tflite(
  model: frozen_model.FrozenModel, file: File
) -> dict[str, Any]:
  from export.report import contents

  del model
  return contents.summarize_tflite(file.content())


def _check_uniform_layers(request: request_lib.Request, name: str) -> None:
  """Refuses the layer rules that TensorFlow's converter does not have."""
  rules = request.rules
  if rules.float_layers or rules.wide_layers or rules.power_of_two:
    raise ValueError(
      f'--formats={name} has neither layers in float or 16 bits nor scales '
      'that are powers of two (--float_layers, --wide_layers, '
      '--power_of_two): pass --formats=int8_litert for those'
    )


# --- TFLite by litert-converter ---------------------------------------------


def _convert_by_litert(model: frozen_model.FrozenModel, file: File) -> None:
  from export.convert import litert_converter

  content = litert_converter.convert_network(
    model.network,
    model.simulation_variables,
    model.request.rules,
    model.request,
    model.mean,
    model.std,
    model.max_value,
  )
  _write(file.path, content)


def _simulate_int8(model: frozen_model.FrozenModel) -> predictors.Predictor:
  from export.verify import simulation

  return simulation.make_simulated_predictor(model)


def _check_int8_litert(request: request_lib.Request, name: str) -> None:
  """Refuses what the simulation of a whole network does not have."""
  del name
  if request.output == 'softmax':
    raise ValueError(
      '--output_kind=softmax: the int8_litert file returns logits or class '
      'ids; pass --output_kind=logits, or --formats=int8'
    )
  if request.resize == 'host':
    raise ValueError(
      '--resize=host: the int8_litert file holds the whole network; pass '
      '--resize=trained, or --formats=int8'
    )


# --- ONNX -------------------------------------------------------------------


def _convert_to_onnx(model: frozen_model.FrozenModel, file: File) -> None:
  from export.convert import onnx

  del model
  assert file.base is not None
  _write(file.path, onnx.convert_tflite(file.base.content()))


def _summarize_onnx(
  model: frozen_model.FrozenModel, file: File
) -> dict[str, Any]:
  from export.report import contents

  del model
  assert file.base is not None
  return contents.summarize_onnx(file.content(), file.base.content())


def _check_onnx_int8(request: request_lib.Request, name: str) -> None:
  del name
  if request.rules.wide_layers:
    raise ValueError(
      '--formats=onnx_int8: ONNX Runtime does not support the 64-bit biases of '
      'layers with 16-bit activations; leave out that format or '
      f'--wide_layers={request.rules.wide_layers!r}'
    )


# --- C ----------------------------------------------------------------------


def _convert_to_c(model: frozen_model.FrozenModel, file: File) -> None:
  """Writes a CMake project with the base file as an array.

  The sample in it is the first image on which files are compared with JAX.
  """
  from export.convert import c_source
  from export.devices import tflm
  from export.report import contents
  from export.report import model_card

  assert file.base is not None
  content = file.base.content()
  card = model_card.make_card(
    model,
    file.name,
    file.format.name,
    contents.summarize_tflite(content),
    file.base.digest(),
  )
  c_source.write_c_project(
    file.path,
    content,
    card,
    model.images[0],
    tflm.recommend_arena_bytes(content),
  )


_ALL = (
  Format(
    'saved_model',
    '',
    _copy_saved_model,
    summarize=_summarize_saved_model,
    open=_open_saved_model,
  ),
  Format('float32', '.tflite', _convert_float, summarize=_summarize_tflite),
  Format('float16', '.tflite', _convert_float, summarize=_summarize_tflite),
  Format(
    'int8',
    '.tflite',
    _convert_integer,
    summarize=_summarize_tflite,
    calibrated=True,
    integer_io=True,
    check=_check_uniform_layers,
  ),
  Format(
    'int16x8',
    '.tflite',
    _convert_integer,
    summarize=_summarize_tflite,
    calibrated=True,
    per_tensor_weights=False,
    check=_check_uniform_layers,
  ),
  Format(
    'int8_litert',
    '.tflite',
    _convert_by_litert,
    summarize=_summarize_tflite,
    simulate=_simulate_int8,
    replaces='int8',
    calibrated=True,
    integer_io=True,
    check=_check_int8_litert,
  ),
  Format(
    'onnx_float32',
    '.onnx',
    _convert_to_onnx,
    summarize=_summarize_onnx,
    base='float32',
    group='onnx',
  ),
  Format(
    'onnx_int8',
    '.onnx',
    _convert_to_onnx,
    summarize=_summarize_onnx,
    base='int8',
    group='onnx',
    check=_check_onnx_int8,
    remark=(
      'On x86 processors without VNNI, ONNX Runtime adds int8 products in 16 '
      'bits, which saturate. Open onnx_int8.onnx with the session option '
      '`session.x64quantprecision` = `1`, as was done here: '
      "`options.add_session_config_entry('session.x64quantprecision', '1')`."
    ),
  ),
  Format('c', '', _convert_to_c, base='int8', max_depth=8),
)
FORMATS = {x.name: x for x in _ALL}
DEFAULT_FORMATS = ('saved_model', 'float32', 'float16', 'int8')


def expand_groups(names: Sequence[str]) -> tuple[str, ...]:
  """Replaces each group, such as 'onnx', by the formats in it."""
  expanded: list[str] = []
  for name in names:
    members = [x.name for x in _ALL if x.group == name != '']
    expanded += members or [name]
  return tuple(expanded)


def single_file_format(path: str, calibrated: bool) -> str:
  """Returns the format of one file to export, by its name.

  A stem that is a format, as in int8_litert.tflite, names it. Other files are
  int8 where there are calibration images, and float32 otherwise.

  Args:
    path: the file.
    calibrated: True if there are calibration images.

  Raises:
    ValueError: no file of the suffix is a format.
  """
  stem, suffix = os.path.splitext(os.path.basename(path))
  formats = [x for x in _ALL if suffix and x.suffix == suffix]
  if not formats:
    suffixes = ' or '.join(sorted({x.suffix for x in _ALL if x.suffix}))
    raise ValueError(f'{path}: the name of an exported file ends in {suffixes}')
  names = [x.name for x in formats]
  if stem in names:
    return stem
  return next(
    name for name in names if base_format(name, ()).calibrated == calibrated
  )


def base_format(name: str, exported: Sequence[str]) -> Format:
  """Returns the format of the .tflite file that a format is derived from.

  That is the format itself where it is converted from the network. ONNX and C
  hold the file of litert-converter where it is the only int8 file, as for runs
  trained in simulated int8: TensorFlow's file would have other ranges.

  Args:
    name: key of `FORMATS`.
    exported: all formats of the export.
  """
  base = FORMATS[name].base or name
  if base != name and base not in exported:
    for other in exported:
      if FORMATS[other].replaces == base:
        return FORMATS[other]
  return FORMATS[base]
