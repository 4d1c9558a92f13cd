"""The public face in Python: `deeplab.load` and the model that it returns.

import deeplab
model = deeplab.load('torchvision:deeplabv3_mobilenet_v3_large')
mask = model.predict('photo.jpg')  # uint8 [H, W]
masks = model.predict_all(['a.jpg', 'b.jpg'])  # one after the other
scores = model.probabilities('photo.jpg')  # float32 [H, W, K]
model.save('models/mine')  # and deeplab.load('models/mine') elsewhere
model.export('int8.tflite', calibration='FOLDER')  # and its card, int8.json

It is the one module of this package above `export`, which it calls; no module
of the library imports it.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import os
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from deeplab import predict
from deeplab.files import config_pages
from deeplab.pretrained import identify
from deeplab.pretrained import model_folder
from deeplab.quantization import rules as rules_lib

Image = np.ndarray | str | os.PathLike
_MAX_PADDING = predict.MAX_PADDING


class Model:
  """A trained model.

  Several threads may call `predict` and `probabilities`, each with its own
  image.

  Attributes:
    class_names: one name per class id.
    palette: one RGB color per class id, 0..255.
    config: the experiment; None for an exported file.
  """

  def __init__(self, segmenter: predict.Segmenter, weights: str):
    """Wraps a segmenter; `load` makes one.

    Args:
      segmenter: as `predict.load_segmenter` returns it.
      weights: where it was loaded from.
    """
    self._segmenter = segmenter
    self._weights = weights
    self.class_names: tuple[str, ...] = segmenter.class_names
    self.palette: tuple[tuple[int, ...], ...] = segmenter.palette
    trained = segmenter.trained
    self.config: ConfigDict | None = None if trained is None else trained.config

  def predict(self, image: Image) -> np.ndarray:
    """Segments one image.

    Args:
      image: the path of an image file, or [H, W, C] with the channels and depth
        that the model takes (uint8 RGB for most models).

    Returns:
      uint8 [H, W], the class id of each pixel.

    Raises:
      ValueError: the file cannot be read, or the array has another type, depth
        or number of channels.
    """
    return self._segmenter.predict(image)

  def predict_all(
    self, images: Sequence[Image], max_padding: float = _MAX_PADDING
  ) -> Iterator[np.ndarray]:
    """Segments many images, of mixed sizes, in their order.

    A network is compiled for each size, which takes seconds: here in a thread,
    while other images are computed.

    Args:
      images: each as for `predict`.
      max_padding: largest share of pixels that padding adds, of those of all
        images, so that fewer sizes are compiled; with 0 the result is that of
        `predict`. Image pooling sees the padding, which costs accuracy.

    Yields:
      uint8 [H, W], the class id of each pixel, for each image.

    Raises:
      ValueError: as `predict` does, or `max_padding` is not in 0..1.
    """
    return self._segmenter.predict_all(images, max_padding)

  def probabilities(self, image: Image) -> np.ndarray:
    """Computes the class probabilities of one image.

    Args:
      image: as for `predict`.

    Returns:
      float32 [H, W, K]; the argmax is `predict(image)`.

    Raises:
      ValueError: as `predict` does, or the model is an exported file that
        returns class ids only.
    """
    return self._segmenter.probabilities(image)

  def save(self, folder: str | os.PathLike) -> None:
    """Writes the model as a folder that `load` reads, here or elsewhere.

    Args:
      folder: a new folder, or that of a model that was saved before, which is
        replaced.

    Raises:
      ValueError: the model is an exported file, or the folder holds files of
        the same names that the project did not write.
    """
    if self._segmenter.trained is None:
      raise ValueError(
        'an exported file has no weights to save: copy it with its model card'
      )
    model_folder.write_model_folder(self._segmenter.trained, folder)

  def export(
    self,
    path: str | os.PathLike,
    *,
    calibration: str | os.PathLike | None = None,
    num_calibration_images: int = 100,
    input_size: tuple[int, int] | None = None,
    overwrite: bool = False,
    **request: Any,
  ) -> dict[str, Any]:
    """Exports the model as one checked file, with its model card beside it.

    The file is compared with JAX, and refused if it holds operators that a
    device lacks, as `python -m export.main` does. `load` reads it again.

    Args:
      path: NAME.tflite or NAME.onnx. A name that is a format (float32, float16,
        int8, int8_litert, int16x8, onnx_float32, onnx_int8) selects it; other
        files are int8 with `calibration` and float32 without.
      calibration: folder of images, without labels, that int8 ranges are
        estimated on; None for the training images of a run.
      num_calibration_images: number of images to calibrate on.
      input_size: (H, W) of the file; None for `config.eval.static_size`.
      overwrite: files that no export has written may be replaced.
      **request: further arguments of `export.request.make_request`, such as
        output='argmax' or target='ethos-u55-128'.

    Returns:
      The content of the report: sizes, operators, differences from JAX.

    Raises:
      ValueError: the model is an exported file, the request is impossible, or
        int8 has no images to calibrate on.
    """
    # Here, because loading and predicting need no converter.
    from export import file_formats
    from export import pipeline
    from export import request as request_lib
    from export import source as source_lib

    trained = self._segmenter.trained
    if trained is None:
      raise ValueError(
        f'{self._weights} is an exported file already: export the weights that '
        'it was made from'
      )
    path = os.fspath(path)
    name = file_formats.single_file_format(path, calibration is not None)
    made = request_lib.make_request(
      formats=(name,),
      input_size=input_size or trained.config.eval.static_size,
      num_classes=trained.dataset.info.num_classes,
      rules=rules_lib.from_config(trained.config.quantization),
      **request,
    )
    if calibration is not None and not made.needs_calibration:
      raise ValueError(
        f'calibration={os.fspath(calibration)} has no effect on {name}: name '
        'the file int8.tflite, or leave calibration out'
      )
    source = source_lib.source_of(
      trained,
      self._weights,
      calibration_folder=os.fspath(calibration or ''),
      has_labels=identify.is_run(self._weights),
    )
    return pipeline.export_file(
      source,
      made,
      path,
      num_calibration_images=num_calibration_images,
      overwrite=overwrite,
    )


def load(
  weights: str | os.PathLike,
  *,
  checkpoint: str = 'best',
  config: str | ConfigDict | None = None,
) -> Model:
  """Loads a trained model, wherever it comes from.

  Args:
    weights: a published name ('torchvision:deeplabv3_resnet50'), a file of
      weights of this or another framework, the work directory of a run, the
      folder of a saved model, 'hf:USER/MODEL' for one of the Hugging Face Hub,
      a .tflite or .onnx file that was exported here, with its model card beside
      it, or 'litert:FILE.tflite', which LiteRT runs as it is.
    checkpoint: 'best' (the latest if none was evaluated) or 'latest', of a run.
    config: the experiment that a file of weights belongs to, where its tensors
      do not tell: a config, or a page such as
      'configs/cityscapes_resnet.py:r50,80k'.

  Raises:
    ValueError: there is no such model, it is damaged, has no segmentation head,
      or fits several networks; the message lists their pages.
    OSError: the weights cannot be read or downloaded.
  """
  if isinstance(config, str):
    config = config_pages.load_page(config)
  weights = os.fspath(weights)
  return Model(predict.load_segmenter(weights, checkpoint, config), weights)
