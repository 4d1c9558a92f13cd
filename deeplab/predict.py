"""Segments images with a trained model.

    python -m deeplab.predict --workdir=W --images=FILE_OR_FOLDER --output=DIR

W is the work directory of a run; its best checkpoint is used, or the latest one
if none was evaluated. With --tflite=F an exported file (.tflite or .onnx) is
used instead, and --workdir is not needed: the model card beside F has the
classes.

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

    from deeplab import predict
    mask = predict.from_workdir('W').predict('photo.jpg')  # uint8 [H, W]
"""

import collections
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import os
import pathlib

from absl import app
from absl import flags
from absl import logging
import numpy as np
from PIL import ImageOps

from deeplab import cli
from deeplab import evaluate
from deeplab import output_files
from deeplab import system
from deeplab import text
from deeplab import visualize
from deeplab import workdir as workdir_lib
from deeplab.data import image_files
from deeplab.data import image_format
from deeplab.data.preparation import raw_files
from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.inference import views

_SHEET = 'contact_sheet.png'
_RESULTS = ('masks/', 'overlays/', _SHEET)
# Limits of the contact sheet. Of more images, evenly spaced ones are shown.
_SHEET_IMAGES = 48
_CELL_SIZE = (360, 480)  # (H, W) of an image beside its overlay


def read_image(
  path: str | os.PathLike, image_spec: image_format.ImageSpec
) -> np.ndarray:
  """Reads an image file for a model.

  For models of 8-bit RGB, gray, palette and transparent images are converted
  and EXIF orientation is applied. Other images are read as they are stored.

  Args:
    path: the file.
    image_spec: channels and depth that the model takes.

  Returns:
    uint8 or uint16 [H, W, C].

  Raises:
    ValueError: the file is absent, damaged, too large, not an image, or has
      another depth or number of channels.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no image {path}')
  if raw_files.is_read_as_array(path, image_spec):
    return raw_files.read_pixels(path, image_spec)
  _, image = raw_files.decode_image(path)
  with image_files.explain_errors(path):
    ImageOps.exif_transpose(image, in_place=True)
  return image_files.to_rgb_array(image)


@dataclasses.dataclass(frozen=True)
class Segmenter:
  """A trained model that maps images to masks.

  Attributes:
    class_names: one name per class id.
    palette: one RGB color per class id.
    image_spec: channels and depth of the images.
    segment: maps a list of images [H, W, C] to class ids, uint8 [H, W] each.
  """

  class_names: tuple[str, ...]
  palette: tuple[tuple[int, ...], ...]
  image_spec: image_format.ImageSpec
  segment: Callable[[Sequence[np.ndarray]], list[np.ndarray]]

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
    if not isinstance(image, np.ndarray):
      image = read_image(image, self.image_spec)
    channels, dtype = self.image_spec.channels, self.image_spec.dtype
    if image.dtype != dtype or image.ndim != 3 or image.shape[2] != channels:
      raise ValueError(
        f'an image is {dtype} [H, W, {channels}], not {image.dtype} '
        f'{list(image.shape)}'
      )
    return self.segment([image])[0]


def from_workdir(
  workdir: str | os.PathLike,
  which: str = 'best',
  max_pixels: int | None = None,
) -> Segmenter:
  """Loads the model of a run, with the evaluation protocol of its config.

  Args:
    workdir: work directory of the run.
    which: 'best' checkpoint (the latest if none was evaluated) or 'latest'.
    max_pixels: images with more are computed by `views.segment_large_image`, in
      one view and in windows, so that memory is bounded; None for no limit.

  Raises:
    FileNotFoundError: `workdir` holds no run or no checkpoint.
  """
  loaded = workdir_lib.load_trained_model(os.fspath(workdir), which)
  predictor = evaluate.checkpoint_predictor(
    loaded, loaded.config.eval.output_stride
  )
  protocol = loaded.config.eval

  def segment(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    if max_pixels is None:
      return views.segment_images(predictor, images, protocol)
    return [
      views.segment_large_image(predictor, image, protocol, max_pixels)
      if image.shape[0] * image.shape[1] > max_pixels
      else views.segment_images(predictor, [image], protocol)[0]
      for image in images
    ]

  return Segmenter(
    tuple(loaded.dataset.info.class_names),
    tuple(loaded.dataset.info.palette),
    loaded.dataset.spec,
    segment,
  )


def from_tflite(path: str | os.PathLike) -> Segmenter:
  """Loads an exported file, with classes and colors from its model card.

  Args:
    path: .tflite or .onnx file, with its model card beside it.

  Raises:
    ValueError: the file or its card is absent, damaged, or does not fit the
      other.
  """
  file = load.load_predictor(path)
  predictor = predictors.fixed_size_predictor(file, file.input_size)
  logging.info(
    'The file sees every image at %dx%d. A checkpoint follows config.eval of '
    'its run, so its masks may differ.',
    *file.input_size,
  )

  return Segmenter(
    tuple(file.card['classes']),
    tuple(tuple(color) for color in file.card['palette']),
    file.image_spec,
    lambda images: [predictor.segment(image) for image in images],
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
    beside = [path for path in images.parent.iterdir() if _is_image(path)]
    names = _name_results(sorted({*beside, images}), images.parent)
    return {images: names[images]}
  if not images.is_dir():
    raise ValueError(f'--images={images}: there is no such file or folder')
  files = sorted(
    path
    for path in images.rglob('*')
    if _is_image(path) and not _is_result(path, images, results)
  )
  if not files:
    raise ValueError(
      f'--images={images}: no image in this folder '
      f'({", ".join(image_format.IMAGE_AND_ARRAY_SUFFIXES)})'
    )
  return _name_results(files, images)


def _is_image(path: pathlib.Path) -> bool:
  return (
    path.suffix.lower() in image_format.IMAGE_AND_ARRAY_SUFFIXES
    and not path.name.startswith('.')
    and path.is_file()
  )


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
) -> list[str]:
  """Segments a file or a folder; writes masks, overlays and a contact sheet.

  Args:
    segmenter: the model.
    images: an image file, or a folder of images.
    output: folder to write to.
    opacity: of the class colors in overlays, 0 to 1.
    overwrite: files in `output` that no prediction has written may be replaced.

  Returns:
    One error message for each image that could not be read.

  Raises:
    ValueError: there is no image, a result would replace an image or a file of
      the user, `output` is a file, or the opacity is not in 0..1.
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
  tracked = system.track_progress(names.items(), len(names), 'predict')
  for i, (path, name) in enumerate(tracked):
    try:
      image = read_image(path, segmenter.image_spec)
    except ValueError as error:
      failures.append(str(error))
      continue
    ids = segmenter.predict(image)
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


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the command's flags; importing this module defines none."""
  flags.DEFINE_string(
    'workdir',
    None,
    'Work directory of a run; its best checkpoint predicts.',
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
  flags.DEFINE_string(
    'tflite',
    None,
    'Exported file, .tflite or .onnx, that predicts instead of a checkpoint. '
    'Its model card must be beside it.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'opacity',
    0.5,
    'Opacity of the class colors in overlays, 0 to 1.',
    flag_values=values,
  )
  cli.define_overwrite_flag(values)


def _run(values: flags.FlagValues) -> None:
  if not values.images or not values.output:
    raise ValueError('--images and --output are required; see --help')
  if values.tflite:
    segmenter = from_tflite(values.tflite)
  elif values.workdir:
    segmenter = from_workdir(values.workdir)
  else:
    raise ValueError('--workdir or --tflite is required; see --help')
  failures = predict_files(
    segmenter,
    values.images,
    values.output,
    values.opacity,
    values.overwrite,
  )
  if os.path.isdir(values.output):
    print(f'Results are in {values.output}')
  if failures:
    lines = [f'Error: {failure}' for failure in failures]
    summary = f'{text.plural(len(failures), "image")} failed'
    raise SystemExit('\n'.join([*lines, summary]))


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Runs the command; the exit status is 1 if an image failed."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=cli.parse_flags)
