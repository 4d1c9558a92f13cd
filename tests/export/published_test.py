"""Arg-max agreement of our int8 files with a published network of VOC.

The weights are imported from the published float file. Calibration uses other
photographs than the comparison.
"""

import functools

import jax
import numpy as np
import pytest

from deeplab.data import image_format
from deeplab.inference import interpreters
from deeplab.models import layers
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding
from deeplab.quantization.ptq import calibration
from deeplab.quantization.ptq import gptq
from export import request as request_lib
from export.convert import saved_model
from export.convert import tflite
from tests.pretrained import converted_test
from tests.shared import SHARED

pytest.importorskip('qwix')
pytestmark = pytest.mark.skipif(
  not (SHARED / 'models').is_dir(), reason='no published models'
)

SIZE = (257, 257)
MEAN = STD = (127.5,) * 3
SAMPLES = SHARED / 'data' / 'samples'
CALIBRATION = converted_test.COCO[:12]
PHOTOGRAPHS = [
  *converted_test.VOC,
  *converted_test.COCO[12:],
  '../../models/segmentation_input_rotation0.jpg',
]


def photographs(names, size=SIZE):
  return [
    converted_test.read_image(SAMPLES / name, size[0])[0] for name in names
  ]


@functools.cache
def imported():
  """Returns (network with plain convolutions, folded variables)."""
  path = SHARED / 'models' / 'deeplabv3_mnv2_dm05_voc_257_float.tflite'
  ours = converted_test.mobile(path, 0.5, 8, SIZE[0])
  options = layers.Options()
  network = ours.model.clone(
    encoder=ours.model.encoder.clone(options=options),
    head=ours.model.head.clone(options=options),
  )
  return network, batch_norm_folding.fold_batch_norms(network, ours.variables)


@functools.cache
def rounded():
  """Returns variables whose kernels are rounded to int8 by GPTQ."""
  network, variables = imported()
  return gptq.round_kernels_gptq(
    network,
    rules_lib.Rules(),
    variables,
    photographs(CALIBRATION),
    mean=MEAN,
    std=STD,
  )


@functools.cache
def expected():
  """Returns the class maps [H, W] of the float network, one per photograph."""
  network, variables = imported()
  compute = jax.jit(lambda x: network.apply(variables, x).logits.argmax(-1))
  return [
    np.asarray(
      compute(image_format.normalize_image(x[None].astype('f4'), MEAN, STD))
    )[0]
    for x in photographs(PHOTOGRAPHS)
  ]


def request(kind):
  return request_lib.make_request(
    formats=(kind,),
    input_size=SIZE,
    num_classes=21,
    input_type='uint8',
    output_type='int8',
  )


def by_tensorflow(tmp_path):
  network, _ = imported()
  int8_request = request('int8')
  compute = saved_model.make_serving_function(
    network, rounded(), int8_request, MEAN, STD
  )
  saved_model.write_saved_model(compute, (*SIZE, 3), str(tmp_path / 'saved'))
  samples = tflite.representative_dataset(
    photographs(CALIBRATION), SIZE, True, MEAN, STD
  )
  return tflite.convert_saved_model(
    str(tmp_path / 'saved'), 'int8', int8_request, samples
  )


def by_litert_converter(method):
  from export.convert import litert_converter

  network, _ = imported()
  rules, variables = rules_lib.Rules(), rounded()
  stats = calibration.calibrate_ranges(
    network,
    rules,
    variables,
    photographs(CALIBRATION),
    mean=MEAN,
    std=STD,
    method=method,
    percentile=99.99,
  )
  return litert_converter.convert_network(
    network,
    {**variables, 'quant_stats': stats},
    rules,
    request('int8_litert'),
    MEAN,
    STD,
  )


def agreement(content):
  """Returns the arg-max agreement with the float network per photograph.

  Files of 513x513 are compared at every second pixel, as corners are aligned.
  """
  run = interpreters.open_litert(content, resolver='reference')
  (into,), (out,) = run.get_input_details(), run.get_output_details()
  size = tuple(into['shape'][1:3])
  step = (size[0] - 1) // (SIZE[0] - 1)
  shares = []
  images = photographs(PHOTOGRAPHS, size)
  for image, classes in zip(images, expected(), strict=True):
    run.set_tensor(into['index'], image[None])
    run.invoke()
    output = run.get_tensor(out['index'])[0]
    output = output.argmax(-1) if output.ndim == 3 else output
    shares.append((output[::step, ::step] == classes).mean())
  return np.array(shares)


@pytest.mark.full
@pytest.mark.parametrize('path', ['int8', 'minmax', 'mse'])
def test_int8_agrees_with_float(tmp_path, path):
  content = (
    by_tensorflow(tmp_path) if path == 'int8' else by_litert_converter(path)
  )
  shares = agreement(content)
  print(path, f'mean {shares.mean():.4f}', np.round(shares, 4))
  assert shares.mean() >= 0.985


@pytest.mark.full
def test_the_published_int8_file_agrees_less():
  """It is another training run of the same network, at 513x513."""
  path = SHARED / 'models' / 'deeplabv3_mnv2_dm05_pascal_quant.tflite'
  shares = agreement(path.read_bytes())
  print('published', f'mean {shares.mean():.4f}', np.round(shares, 4))
  assert 0.8 < shares.mean() < 0.985
