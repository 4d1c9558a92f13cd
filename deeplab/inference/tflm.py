"""Exported .tflite files, run by TensorFlow Lite Micro on this machine.

The kernels are the portable ones for microcontrollers, without CMSIS-NN or
other device-specific instructions: slow, but what such a device computes. The
package `tflite-micro` exists for Linux only.
"""

import numpy as np

from deeplab.inference import file_predictor
from deeplab.inference import interpreters
from deeplab.inference import litert


class TFLMPredictor(file_predictor.FilePredictor):
  """A .tflite file with its model card, run by TFLM's portable kernels.

  Construction raises ValueError if the package `tflite-micro` is not installed,
  TFLM cannot load the file, or the card does not belong to it.
  """

  resolver = 'tflm'

  def _check_format(self, content: bytes) -> None:
    litert.check_tflite_format(self.path, content)

  def _open(self, content: bytes) -> file_predictor.InputsAndOutputs:
    self._interpreter = interpreters.open_tflm(content, name=str(self.path))
    return (
      [_tensor_detail(self._interpreter.get_input_details(0))],
      [_tensor_detail(self._interpreter.get_output_details(0))],
    )

  def _run(self, values: np.ndarray) -> np.ndarray:
    self._interpreter.set_input(values, 0)
    try:
      self._interpreter.invoke()
    except RuntimeError as error:
      raise ValueError(
        f'TensorFlow Lite Micro cannot run {self.path} ({error}); the operator '
        'is named in its output on stderr'
      ) from error
    return self._interpreter.get_output(0)


def _tensor_detail(detail: dict) -> file_predictor.TensorDetail:
  """Converts TFLM's description of an input or output."""
  parameters = detail['quantization_parameters']
  scales, zero_points = parameters['scales'], parameters['zero_points']
  if len(scales) != 1:
    return file_predictor.TensorDetail(
      detail['dtype'], tuple(detail['shape']), 0.0, 0
    )
  return file_predictor.TensorDetail(
    detail['dtype'],
    tuple(detail['shape']),
    float(scales[0]),
    int(zero_points[0]),
  )
