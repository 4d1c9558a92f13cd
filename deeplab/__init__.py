"""DeepLab-style segmentation in JAX, from training to int8 TFLite files.

    import deeplab
    model = deeplab.load('torchvision:deeplabv3_mobilenet_v3_large')
    mask = model.predict('photo.jpg')  # uint8 [H, W]

`deeplab.load` also takes a run, a file of weights, a saved model or an exported
file; `deeplab/api.py` describes it. Importing the package imports neither JAX
nor TensorFlow.
"""

import importlib
import os
from typing import Any

# JAX and TensorFlow read these when they are first imported. Without them their
# C++ code logs cached compilations as errors (a failure that matters is raised
# in Python, too), and TensorFlow announces oneDNN kernels, which are not used.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

_PUBLIC = ('Model', 'load')


def __getattr__(name: str) -> Any:
  """Returns a name of `deeplab.api`, which is imported when it is first used.

  Raises:
    AttributeError: there is no such name.
  """
  if name in _PUBLIC:
    return getattr(importlib.import_module('deeplab.api'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
