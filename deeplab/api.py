"""The public face in Python: `deeplab.load` and the model that it returns.

import deeplab
model = deeplab.load('torchvision:deeplabv3_mobilenet_v3_large')
mask = model.predict('photo.jpg')  # uint8 [H, W]
scores = model.probabilities('photo.jpg')  # float32 [H, W, K]
model.save('models/mine')  # and deeplab.load('models/mine') elsewhere
"""

import os

from ml_collections import ConfigDict
import numpy as np

from deeplab import predict
from deeplab.files import config_pages
from deeplab.pretrained import model_folder

Image = np.ndarray | str | os.PathLike


class Model:
  """A trained model.

  Several threads may call `predict` and `probabilities`, each with its own
  image.

  Attributes:
    class_names: one name per class id.
    palette: one RGB color per class id, 0..255.
    config: the experiment; None for an exported file.
  """

  def __init__(self, segmenter: predict.Segmenter):
    """Wraps a segmenter; `load` makes one.

    Args:
      segmenter: as `predict.load_segmenter` returns it.
    """
    self._segmenter = segmenter
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
      or a .tflite or .onnx file that was exported here, with its model card
      beside it.
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
  return Model(predict.load_segmenter(weights, checkpoint, config))
