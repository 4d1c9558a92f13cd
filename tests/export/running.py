"""Runs an exported file with the predictor of the evaluator."""

import json

from deeplab.inference import litert

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def run(data, image, classes, folder):
  """Returns the logits [1, H, W, K] of a file.

  Args:
    data: bytes of the file, which takes images of the size of `image`,
      normalized by `MEAN` and `STD` in the graph, and returns logits.
    image: [H, W, 3].
    classes: how many.
    folder: for temporary files.
  """
  card = {
    'input_size': list(image.shape[:2]),
    'value_range': [0, 255],
    'mean': MEAN,
    'std': STD,
    'normalization_in_graph': True,
    'output': 'logits',
    'classes': [str(i) for i in range(classes)],
    'palette': [[0, 0, 0]] * classes,
  }
  (folder / 'x.json').write_text(json.dumps(card))
  (folder / 'x.tflite').write_bytes(data)
  return litert.TFLitePredictor(folder / 'x.tflite')(image[None])
