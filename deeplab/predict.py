"""Segments images with a trained model.

    python -m deeplab.predict --weights=W --images=FILE_OR_FOLDER --output=DIR

W is any trained model:

    runs/mine                          a run: its best checkpoint, or the latest
                                       one if none was evaluated
    exports/mine/int8.tflite           an exported file, .tflite or .onnx, with
                                       its model card beside it
    torchvision:deeplabv3_resnet50     published weights, by name
    checkpoint.pth                     a file of weights of another framework,
                                       or a .tflite file without a card, whose
                                       weights run in JAX
    litert:theirs.tflite               the same file as it is, run by LiteRT
    models/mine, hf:USER/MODEL         a saved model

For each image, at its own size, DIR then holds

    masks/NAME.png      class ids as pixel values, with a palette of the classes
    overlays/NAME.jpg   class colors over the image (--opacity)

and contact_sheet.png, up to 48 of the images on one page, with a legend.

Images are 8-bit RGB, unless the model was trained on others: TIFF or NumPy
files (.npy) with any number of channels of 8 or 16 bits, whose overlays show
the first three channels. A folder is searched recursively, and DIR has the same
subfolders; a.jpg and a.png of one folder give a_jpg.png and a_png.png. A file
that cannot be read is reported, the other images are still segmented, and the
exit status is 1. Results that are in DIR from an earlier prediction are
replaced; other files are not, unless --overwrite says so, and images never.

In Python:

    import deeplab
    mask = deeplab.load('W').predict('photo.jpg')  # uint8 [H, W]
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import os
import pathlib

from absl import app
from absl import flags
from absl import logging
from ml_collections import ConfigDict
from ml_collections import config_flags
import numpy as np

from deeplab import cli
from deeplab import evaluate
from deeplab import system
from deeplab import text
from deeplab import visualize
from deeplab import workdir as workdir_lib
from deeplab.data import datasets
from deeplab.data import image_folder
from deeplab.data import image_format
from deeplab.files import output_files
from deeplab.inference import file_predictor
from deeplab.inference import litert
from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.inference import views
from deeplab.pretrained import identify

_SHEET = 'contact_sheet.png'
_RESULTS = ('masks/', 'overlays/', _SHEET)
# A config describes the network, classes and protocol of a file of weights.
_READ_FIELDS = cli.ReadFields(
  (*cli.DATASET_FIELDS, 'data.mean', 'data.std', 'data.depth', 'model', 'eval'),
  but=('eval.every_epochs',),
)
# Limits of the contact sheet. Of more images, evenly spaced ones are shown.
_SHEET_IMAGES = 48
_CELL_SIZE = (360, 480)  # (H, W) of an image beside its overlay


# Share of pixels that padding may add to the images of a folder. None: padding
# costs accuracy, 3 to 7 points on small images that it makes a third larger.
MAX_PADDING = 0.0

Size = tuple[int, int]
_PlannedSegmenter = contextlib.AbstractContextManager['Segmenter']


@dataclasses.dataclass(frozen=True)
class Segmenter:
  """A trained model that maps images to masks.

  Attributes:
    class_names: one name per class id.
    palette: one RGB color per class id.
    image_spec: channels and depth of the images.
    segment: maps a list of images [H, W, C] to class ids, uint8 [H, W] each.
    score: maps a list of images to probabilities, float32 [H, W, K] each.
    trained: the network and its weights; None for an exported file.
    plan: makes a segmenter for images of given sizes (H, W), which adds at most
      a given share of pixels so that few sizes are compiled; None for an
      exported file, which has one size.
  """

  class_names: tuple[str, ...]
  palette: tuple[tuple[int, ...], ...]
  image_spec: image_format.ImageSpec
  segment: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
  score: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
  trained: workdir_lib.TrainedModel | None = None
  plan: Callable[[Sequence[Size], float], _PlannedSegmenter] | None = None

  def planned(
    self, sizes: Sequence[Size], max_padding: float
  ) -> _PlannedSegmenter:
    """Returns a context of a segmenter for many images of few canvases.

    In the context a thread compiles the canvases while images are computed.

    Args:
      sizes: (H, W) of the images, in their order.
      max_padding: largest share of pixels that padding adds, of those of all
        images; with 0 every image is computed as in evaluation.

    Raises:
      ValueError: `max_padding` is not in 0..1.
    """
    if not 0 <= max_padding <= 1:
      raise ValueError(
        f'max_padding={max_padding} is not in 0..1: 0.15 adds up to 15% of the '
        'pixels'
      )
    if self.plan is None:
      return contextlib.nullcontext(self)
    return self.plan(sizes, max_padding)

  def predict_all(
    self,
    images: Sequence[np.ndarray | str | os.PathLike],
    max_padding: float = MAX_PADDING,
  ) -> Iterator[np.ndarray]:
    """Segments many images, of mixed sizes, in their order.

    Args:
      images: each as for `predict`.
      max_padding: as for `planned`.

    Yields:
      uint8 [H, W], the class id of each pixel, for each image.

    Raises:
      ValueError: as `predict` and `planned` do.
    """
    sizes = [
      image.shape[:2]
      if isinstance(image, np.ndarray)
      else image_folder.read_size(image)
      for image in images
    ]
    known = [size for size in sizes if size is not None]
    with self.planned(known, max_padding) as segmenter:
      for image in images:
        yield segmenter.predict(image)

  def predict(self, image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """Segments one image; several threads may call it, each with its own.

    Args:
      image: [H, W, C] with the channels and depth of `image_spec` (uint8 RGB
        for most models), or the path of an image file.

    Returns:
      uint8 [H, W], the class id of each pixel.

    Raises:
      ValueError: the file cannot be read, or the array has another type, depth
        or number of channels.
    """
    return self.segment([self._read(image)])[0]

  def probabilities(self, image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """Computes the class probabilities of one image.

    Args:
      image: as for `predict`.

    Returns:
      float32 [H, W, K].

    Raises:
      ValueError: as `predict` does, or the model is a file that returns class
        ids only.
    """
    return self.score([self._read(image)])[0]

  def _read(self, image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """Returns an image [H, W, C] of the type that the model takes."""
    if not isinstance(image, np.ndarray):
      image = image_folder.read_image(image, self.image_spec)
    channels, dtype = self.image_spec.channels, self.image_spec.dtype
    if image.dtype != dtype or image.ndim != 3 or image.shape[2] != channels:
      raise ValueError(
        f'an image is {dtype} [H, W, {channels}], not {image.dtype} '
        f'{list(image.shape)}'
      )
    return image


def load_segmenter(
  weights: str | os.PathLike,
  checkpoint: str = 'best',
  config: ConfigDict | None = None,
  max_pixels: int | None = None,
) -> Segmenter:
  """Loads a model, wherever it comes from.

  Args:
    weights: a published name ('torchvision:deeplabv3_resnet50'), a file of
      weights, the work directory of a run, the folder of a saved model,
      'hf:USER/MODEL', 'litert:FILE.tflite' for a file of another program that
      LiteRT runs, or a .tflite or .onnx file that was exported here, with its
      model card beside it.
    checkpoint: 'best' (the latest if none was evaluated) or 'latest', of a run.
    config: the experiment that a file of weights belongs to, where its tensors
      do not tell.
    max_pixels: images with more are computed by `views.segment_large_image`, in
      one view and in windows, so that memory is bounded; None for no limit.

  Raises:
    ValueError: there is no such model, it is damaged, has no segmentation head,
      or fits several networks.
    OSError: the weights cannot be read or downloaded, or a run has no
      checkpoint.
  """
  weights = os.fspath(weights)
  if weights.startswith(identify.LITERT_PREFIX):
    path = weights.removeprefix(identify.LITERT_PREFIX)
    return from_foreign_tflite(path, config)
  if load.is_exported_file(weights):
    return from_tflite(weights)
  trained = identify.load_model(weights, checkpoint, config)
  return from_trained_model(trained, max_pixels)


def from_trained_model(
  trained: workdir_lib.TrainedModel, max_pixels: int | None = None
) -> Segmenter:
  """Returns a segmenter that follows the evaluation protocol of a model.

  Args:
    trained: the network, its weights and its config.
    max_pixels: as for `load_segmenter`.
  """
  protocol, info = trained.config.eval, trained.dataset.info
  predictor = evaluate.checkpoint_predictor(trained, protocol.output_stride)

  def is_large(size: Sequence[int]) -> bool:
    return max_pixels is not None and size[0] * size[1] > max_pixels

  def make_segmenter(canvases: Sequence[Size]) -> Segmenter:
    def segment_image(image: np.ndarray) -> np.ndarray:
      if max_pixels is not None and is_large(image.shape):
        return views.segment_large_image(predictor, image, protocol, max_pixels)
      return views.segment_images(predictor, [image], protocol, canvases)[0]

    return Segmenter(
      tuple(info.class_names),
      tuple(info.palette),
      trained.dataset.spec,
      lambda images: [segment_image(image) for image in images],
      lambda images: views.predict_probabilities(
        predictor, images, protocol, canvases
      ),
      trained,
      plan,
    )

  @contextlib.contextmanager
  def plan(sizes: Sequence[Size], max_padding: float) -> Iterator[Segmenter]:
    whole = [size for size in sizes if not is_large(size)]
    canvases = views.plan_canvases(predictor, whole, protocol, max_padding)
    if canvases:
      logging.info(
        'Images of %s run in %s',
        text.plural(len(set(whole)), 'size'),
        text.plural(len(canvases), 'canvas', 'canvases'),
      )
    executor = futures.ThreadPoolExecutor(1)
    try:
      views.compile_ahead(
        predictor, whole, protocol, canvases, trained.dataset.spec, executor
      )
      yield make_segmenter(canvases)
    finally:
      executor.shutdown(wait=False, cancel_futures=True)

  return make_segmenter(())


def from_tflite(path: str | os.PathLike) -> Segmenter:
  """Loads an exported file, with classes and colors from its model card.

  Args:
    path: .tflite or .onnx file, with its model card beside it.

  Raises:
    ValueError: the file or its card is absent, damaged, or does not fit the
      other.
  """
  return _from_file(load.load_predictor(path))


def from_foreign_tflite(
  path: str | os.PathLike, config: ConfigDict | None = None
) -> Segmenter:
  """Runs a .tflite file of another program, without a card, by LiteRT.

  Args:
    path: the file.
    config: a config of its classes and normalization; None where the names of
      its tensors tell the network.

  Raises:
    ValueError: the file is absent, damaged, of no network that is known, or of
      other classes than the config.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise ValueError(f'there is no file {path}')
  if load.is_exported_file(path):
    return from_tflite(path)
  if config is None:
    trained = identify.load_model(path)
    config, dataset = trained.config, trained.dataset
  else:
    dataset = datasets.Dataset(config.data)
  return _from_file(
    litert.open_without_card(
      path, dataset.info, dataset.spec, config.data.mean, config.data.std
    )
  )


def _from_file(file: file_predictor.FilePredictor) -> Segmenter:
  """Returns a segmenter that resizes images to the one size of a file."""
  predictor = predictors.fixed_size_predictor(file, file.input_size)
  logging.info(
    'The file sees every image at %dx%d. A checkpoint follows config.eval of '
    'its run, so its masks may differ.',
    *file.input_size,
  )

  def score(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    outputs = [predictor(image[None])[0] for image in images]
    if predictor.output == 'argmax':
      raise ValueError(
        f'{file.path} returns class ids and no probabilities: export it with '
        '--output_kind=logits'
      )
    if predictor.output == 'softmax':
      return outputs
    return [predictors.softmax(x) for x in outputs]

  return Segmenter(
    tuple(file.card['classes']),
    tuple(tuple(color) for color in file.card['palette']),
    file.image_spec,
    lambda images: [predictor.segment(image) for image in images],
    score,
  )


def find_images(
  images: pathlib.Path, results: output_files.OutputFiles
) -> dict[pathlib.Path, str]:
  """Finds the images to segment and names their results.

  Args:
    images: a file, or a folder that is searched recursively.
    results: files of the folder of the results. If it lies in `images`, it is
      not searched; if `images` is in it, or the same, earlier results are left
      out.

  Returns:
    The name of the results by image file, in the order of the files: its path
    in the folder without the suffix.

  Raises:
    ValueError: `images` does not exist or holds no image.
  """
  if images.is_file():
    # Named as in a prediction of its whole folder.
    beside = [
      path for path in images.parent.iterdir() if image_folder.is_image(path)
    ]
    names = _name_results(sorted({*beside, images}), images.parent)
    return {images: names[images]}
  if not images.exists():
    raise ValueError(f'--images={images}: there is no such file or folder')
  files = [
    path
    for path in image_folder.list_images(images, '--images')
    if not _is_result(path, images, results)
  ]
  if not files:
    raise ValueError(f'--images={images}: only results of earlier predictions')
  return _name_results(files, images)


def _is_result(
  path: pathlib.Path, images: pathlib.Path, results: output_files.OutputFiles
) -> bool:
  """Returns True for a file that an earlier prediction has written."""
  folder = pathlib.Path(results.folder).resolve()
  path = path.resolve()
  if folder not in path.parents:
    return False
  if images.resolve() in folder.parents:
    return True
  name = path.relative_to(folder).as_posix()
  return name in results.known and name.startswith(_RESULTS)


def _name_results(
  files: Sequence[pathlib.Path], folder: pathlib.Path
) -> dict[pathlib.Path, str]:
  """Returns a distinct name for each file, also where case does not count."""
  stems = {
    path: path.relative_to(folder).with_suffix('').as_posix() for path in files
  }
  counts = collections.Counter(stem.casefold() for stem in stems.values())
  taken = {stem for stem, count in counts.items() if count == 1}
  names = {}
  for path, stem in stems.items():
    name = stem
    if counts[stem.casefold()] > 1:
      # a.jpg and a.png beside each other become a_jpg and a_png.
      name = f'{stem}_{path.suffix[1:]}'
      while name.casefold() in taken:
        name += '_'
      taken.add(name.casefold())
    names[path] = name
  return names


def predict_files(
  segmenter: Segmenter,
  images: str | os.PathLike,
  output: str | os.PathLike,
  opacity: float,
  overwrite: bool = False,
  max_padding: float = MAX_PADDING,
) -> list[str]:
  """Segments a file or a folder; writes masks, overlays and a contact sheet.

  Args:
    segmenter: the model.
    images: an image file, or a folder of images.
    output: folder to write to.
    opacity: of the class colors in overlays, 0 to 1.
    overwrite: files in `output` that no prediction has written may be replaced.
    max_padding: as for `Segmenter.planned`.

  Returns:
    One error message for each image that could not be read.

  Raises:
    ValueError: there is no image, a result would replace an image or a file of
      the user, `output` is a file, or the opacity or `max_padding` is not in
      0..1.
  """
  if not 0 <= opacity <= 1:
    raise ValueError(f'opacity={opacity} is not in 0..1')
  images = pathlib.Path(images)
  names = find_images(images, output_files.OutputFiles(output))
  results = output_files.OutputFiles(output, inputs=names, overwrite=overwrite)
  results.check(
    [_SHEET]
    + [
      result
      for name in names.values()
      for result in (_mask_name(name), _overlay_name(name))
    ]
  )
  sheet_stride = -(-len(names) // _SHEET_IMAGES)
  failures, pictures = [], []
  sizes = [image_folder.read_size(path) for path in names]
  tracked = system.track_progress(names.items(), len(names), 'predict')
  with segmenter.planned([x for x in sizes if x], max_padding) as planned:
    for i, (path, name) in enumerate(tracked):
      try:
        image = image_folder.read_image(path, segmenter.image_spec)
      except ValueError as error:
        failures.append(str(error))
        continue
      ids = planned.predict(image)
      overlay = visualize.draw_overlay(image, ids, segmenter.palette, opacity)
      with results.replace(_mask_name(name)) as temporary:
        visualize.save_image(ids, temporary, segmenter.palette)
      with results.replace(_overlay_name(name)) as temporary:
        visualize.save_image(overlay, temporary)
      if i % sheet_stride == 0:
        pair = np.concatenate([visualize.to_rgb(image), overlay], axis=1)
        pictures.append((name, visualize.thumbnail(pair, _CELL_SIZE)))
  if pictures:
    with results.replace(_SHEET) as temporary:
      visualize.save_image(_make_contact_sheet(segmenter, pictures), temporary)
  return failures


def _mask_name(name: str) -> str:
  return f'masks/{name}.png'


def _overlay_name(name: str) -> str:
  return f'overlays/{name}.jpg'


def _make_contact_sheet(
  segmenter: Segmenter, pictures: Sequence[tuple[str, np.ndarray]]
) -> np.ndarray:
  """Draws the contact sheet, with a legend of all classes below.

  Args:
    segmenter: for the names and colors of the classes.
    pictures: (caption, uint8 [H, W, 3]) each, within `_CELL_SIZE`.

  Returns:
    uint8 [H, W, 3].
  """
  columns = min(4, max(1, round(len(pictures) ** 0.5)))
  footer = visualize.draw_legend(
    segmenter.class_names,
    segmenter.palette,
    width=columns * (_CELL_SIZE[1] + 8) + 8,
  )
  height = max(picture.shape[0] for _, picture in pictures)
  return visualize.contact_sheet(
    pictures, columns, (height, _CELL_SIZE[1]), footer
  )


def define_flags(values: flags.FlagValues = flags.FLAGS) -> flags.FlagHolder:
  """Defines the command's flags; importing this module defines none.

  Returns:
    The flag --config.
  """
  flags.DEFINE_string(
    'weights',
    None,
    'Model that predicts: the work directory of a run, the folder of a saved '
    'model, a published name (python -m deeplab.main --list), a file of '
    'weights, an exported .tflite or .onnx file, or hf:USER/MODEL. A .tflite '
    'file of another program runs in JAX, and as litert:FILE in LiteRT.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'images',
    None,
    'Image file, or folder of images that is searched recursively.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'output',
    None,
    'Folder that masks, overlays and the contact sheet are written to.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'opacity',
    0.5,
    'Opacity of the class colors in overlays, 0 to 1.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'max_padding',
    MAX_PADDING,
    'Share of pixels that padding may add, so that images of many sizes run in '
    'few that are compiled, such as 0.15; costs accuracy. 0 computes images '
    'as evaluation does.',
    flag_values=values,
  )
  cli.define_overwrite_flag(values)
  return config_flags.DEFINE_config_file(
    'config',
    None,
    'Config page of a file of weights, where its tensors do not tell the '
    'network; the error then lists the pages that fit.',
    flag_values=values,
  )


def _run(values: flags.FlagValues, config_flag: flags.FlagHolder) -> None:
  if not values.weights or not values.images or not values.output:
    raise ValueError(
      '--weights, --images and --output are required; see --help'
    )
  config = cli.config_from_flag(config_flag, values, _READ_FIELDS)
  segmenter = load_segmenter(values.weights, config=config)
  failures = predict_files(
    segmenter,
    values.images,
    values.output,
    values.opacity,
    values.overwrite,
    values.max_padding,
  )
  if os.path.isdir(values.output):
    print(f'Results are in {values.output}')
  if failures:
    lines = [f'Error: {failure}' for failure in failures]
    summary = f'{text.plural(len(failures), "image")} failed'
    raise SystemExit('\n'.join([*lines, summary]))


def main(
  argv: Sequence[str],
  config_flag: flags.FlagHolder,
  values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Runs the command; the exit status is 1 if an image failed."""
  cli.run_command(argv, lambda: _run(values, config_flag))


if __name__ == '__main__':
  _config_flag = define_flags()
  app.run(lambda argv: main(argv, _config_flag), flags_parser=cli.parse_flags)
