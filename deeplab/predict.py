"""Segments images with a trained model.

    python -m deeplab.predict --workdir=W --images=FILE_OR_FOLDER --output=DIR

W is the work directory of a run; its best checkpoint is used, or the latest if
none was scored. With --tflite=F an exported file does the work instead, and
--workdir may be left out: the model card beside F knows the classes.

DIR then holds, for each image and at the image's own size:

    masks/NAME.png      class ids as pixel values, in the palette of the classes
    overlays/NAME.jpg   the classes' colours over the image (--opacity)
    contact_sheet.png   all of them on one page, with a legend

Images are RGB of 8 bits, or what else the model was trained on: TIFF or NumPy
files (.npy) of any channels, of 8 or 16 bits, whose overlays show the first
three. A folder is searched with all its subfolders, and DIR mirrors them. A
file that is no readable image is named, the others are done all the same, and
the exit status is 1.

In Python:

    from deeplab import predict
    mask = predict.from_workdir('W').predict('photo.jpg')  # uint8 [H, W]
"""

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
from deeplab import system
from deeplab import visualize
from deeplab import workdir as workdir_lib
from deeplab.data import image_format
from deeplab.data.preparation import raw_files
from deeplab.inference import load
from deeplab.inference import predictors
from deeplab.inference import views

# What goes on the contact sheet: at most so many, evenly chosen.
_SHEET_IMAGES = 48
_CELL_SIZE = (360, 480)  # image and overlay side by side, at most


def read_image(
  path: str | os.PathLike, image_spec: image_format.ImageSpec
) -> np.ndarray:
  """Reads an image file as a model takes it.

  Args:
    path: the file.
    image_spec: channels and depth that the model takes.

  Returns:
    [H, W, C] of that depth. RGB of 8 bits is made of what there is, and turned
    as its EXIF says; others are as they are stored.

  Raises:
    ValueError: the file is no image, is cut off, or has other pixels.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f'there is no image {path}')
  if raw_files.is_read_as_array(path, image_spec):
    return raw_files.read_pixels(path, image_spec)
  _, image = raw_files.decode_image(path)
  return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))


@dataclasses.dataclass(frozen=True)
class Segmenter:
  """A trained model that takes images and returns masks.

  Attributes:
    class_names: a name a class id.
    palette: an RGB colour a class id.
    image_spec: channels and depth of the images that it takes.
    segment: maps such images [H, W, C] to ids, uint8 [H, W].
  """

  class_names: tuple[str, ...]
  palette: tuple[tuple[int, ...], ...]
  image_spec: image_format.ImageSpec
  segment: Callable[[Sequence[np.ndarray]], list[np.ndarray]]

  def predict(self, image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """Segments one image.

    Args:
      image: [H, W, C] of `pixels` (uint8 RGB, if nothing else was trained), or
        the path of an image file.

    Returns:
      uint8 [H, W], the class id of each pixel.

    Raises:
      ValueError: the file is no readable image, or the array is none.
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


def from_workdir(workdir: str | os.PathLike, which: str = 'best') -> Segmenter:
  """Loads the model of a run; it predicts as the run's config evaluates.

  Args:
    workdir: the run's work directory.
    which: 'best' (the latest, where none was scored) or 'latest'.

  Raises:
    FileNotFoundError: there is no run, or it has no checkpoint.
  """
  loaded = workdir_lib.load_trained_model(os.fspath(workdir), which)
  predictor = evaluate.checkpoint_predictor(
    loaded, loaded.config.eval.output_stride
  )
  return Segmenter(
    tuple(loaded.dataset.info.class_names),
    tuple(loaded.dataset.info.palette),
    loaded.dataset.spec,
    lambda images: views.segment_images(predictor, images, loaded.config.eval),
  )


def from_tflite(path: str | os.PathLike) -> Segmenter:
  """Loads an exported file; classes and colours are in its model card.

  Raises:
    ValueError: see `files.load`.
  """
  file = load.load_predictor(path)
  predictor = predictors.fixed_size_predictor(file, file.input_size)
  logging.info(
    'the file sees every image at %dx%d; weights of its run see what '
    'config.eval says, so that their masks may differ',
    *file.input_size,
  )

  def segment(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    outputs = [predictor(image[None])[0] for image in images]
    if predictor.output == 'argmax':
      return outputs
    return [predictors.argmax(x) for x in outputs]

  return Segmenter(
    tuple(file.card['classes']),
    tuple(tuple(color) for color in file.card['palette']),
    file.image_spec,
    segment,
  )


def find_images(
  images: pathlib.Path, output: pathlib.Path
) -> dict[pathlib.Path, str]:
  """Returns the name of the results by image file, in order.

  Args:
    images: a file, or a folder with subfolders.
    output: where results go; left out if it is within the folder.

  Raises:
    ValueError: there is no such file or no image in the folder.
  """
  if images.is_file():
    return {images: images.stem}
  if not images.is_dir():
    raise ValueError(f'--images={images}: there is no such file or folder')
  out = output.resolve()
  files = sorted(
    path
    for path in images.rglob('*')
    if path.suffix.lower() in image_format.IMAGE_AND_ARRAY_SUFFIXES
    and path.is_file()
    and not path.name.startswith('.')
    and out not in path.resolve().parents
  )
  if not files:
    raise ValueError(
      f'--images={images}: no image in this folder '
      f'({", ".join(image_format.IMAGE_AND_ARRAY_SUFFIXES)})'
    )
  stems = [str(path.relative_to(images).with_suffix('')) for path in files]
  return {
    # a.jpg and a.png beside each other keep their endings.
    path: stem if stems.count(stem) == 1 else stem + '_' + path.suffix[1:]
    for path, stem in zip(files, stems, strict=True)
  }


def predict_files(
  segmenter: Segmenter,
  images: str | os.PathLike,
  output: str | os.PathLike,
  opacity: float,
) -> list[str]:
  """Segments a file or a folder and writes what the module says.

  Args:
    segmenter: the model.
    images: a file or a folder.
    output: folder to write to.
    opacity: of the overlays, 0 to 1.

  Returns:
    A sentence for each image that could not be read.

  Raises:
    ValueError: there is nothing to segment, the output is no folder, or opacity
      is not in 0..1.
  """
  if not 0 <= opacity <= 1:
    raise ValueError(f'opacity={opacity} is not in 0..1')
  output = pathlib.Path(output)
  if output.exists() and not output.is_dir():
    raise ValueError(f'--output={output} is a file: name a folder')
  names = find_images(pathlib.Path(images), output)
  every = -(-len(names) // _SHEET_IMAGES)
  failures, pictures = [], []
  tracked = system.track_progress(names.items(), len(names), 'predict')
  for i, (path, name) in enumerate(tracked):
    try:
      image = read_image(path, segmenter.image_spec)
    except ValueError as error:
      failures.append(str(error))
      continue
    ids = segmenter.predict(image)
    drawn = visualize.draw_overlay(image, ids, segmenter.palette, opacity)
    visualize.save_image(
      ids, output / 'masks' / f'{name}.png', segmenter.palette
    )
    visualize.save_image(drawn, output / 'overlays' / f'{name}.jpg')
    if i % every == 0:
      pair = np.concatenate([visualize.to_rgb(image), drawn], axis=1)
      pictures.append((name, visualize.thumbnail(pair, _CELL_SIZE)))
  if pictures:
    visualize.save_image(
      _make_contact_sheet(segmenter, pictures), output / 'contact_sheet.png'
    )
  return failures


def _make_contact_sheet(
  segmenter: Segmenter, pictures: Sequence[tuple[str, np.ndarray]]
) -> np.ndarray:
  """Returns the contact sheet, its legend of all classes."""
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
    'workdir', None, 'Work directory of a run.', flag_values=values
  )
  flags.DEFINE_string(
    'images', None, 'Image file, or folder of images.', flag_values=values
  )
  flags.DEFINE_string(
    'output', None, 'Folder for masks and overlays.', flag_values=values
  )
  flags.DEFINE_string(
    'tflite',
    None,
    'Exported file that predicts instead of the checkpoint.',
    flag_values=values,
  )
  flags.DEFINE_float(
    'opacity', 0.5, 'Of the overlays, 0 to 1.', flag_values=values
  )


def _run(values: flags.FlagValues) -> None:
  if not values.images or not values.output:
    raise ValueError('--images and --output are needed; see --help')
  if values.tflite:
    segmenter = from_tflite(values.tflite)
  elif values.workdir:
    segmenter = from_workdir(values.workdir)
  else:
    raise ValueError('--workdir or --tflite is needed; see --help')
  failures = predict_files(
    segmenter, values.images, values.output, values.opacity
  )
  if os.path.isdir(values.output):
    print(f'Results are in {values.output}')
  if failures:
    raise ValueError('; '.join(failures))


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
  """Runs the command; the exit status is 1 if an image failed."""
  cli.run_command(argv, lambda: _run(values))


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=cli.parse_flags)
