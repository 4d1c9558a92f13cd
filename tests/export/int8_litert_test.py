"""Every encoder and head by litert-converter equals its simulation in JAX."""

import jax
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import common
from deeplab import networks
from deeplab.inference import interpreters
from deeplab.models import registry
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding
from export import request as request_lib
from export import source as source_lib
from export.graph import tflite_graph
from export.verify import parity
from tests.export import heads_test
from tests.export import running
from tests.export import weights
from tests.quantization import nets

providers = pytest.importorskip('deeplab.quantization.simulator.providers')
litert_converter = pytest.importorskip('export.convert.litert_converter')

CLASSES = 3
RULES = rules_lib.Rules()
MEAN, STD = running.MEAN, running.STD
# (output stride, the finest stage that all layers go into), where not (16, 4).
ENCODERS = {
  'erfnet_tiny': (8, 2),
  'ghostnet_tiny': (16, 4),
  'lite_hrnet_tiny': (32, 1),
  'mobilenet_v2_tiny': (16, 4),
  'mobilenet_v3_tiny': (16, 4),
  'regnetx_tiny': (16, 4),
  'resnet_tiny': (16, 4),
  'shufflenet_v2_tiny': (16, 4),
  'xception_keras_tiny': (16, 4),
  'xception_tiny': (16, 4),
}
OPERATORS = {
  *('ADD', 'AVERAGE_POOL_2D', 'CONCATENATION', 'CONV_2D', 'DEPTHWISE_CONV_2D'),
  *(
    'HARD_SWISH',
    'LOGISTIC',
    'MAXIMUM',
    'MAX_POOL_2D',
    'MUL',
    'PAD',
    'QUANTIZE',
    'RELU',
  ),
  *('RESHAPE', 'RESIZE_BILINEAR', 'SLICE', 'SPLIT'),
}
# Networks without an int8 form, and their error.
REFUSED = {
  'erfnet': 'transposed convolution head/up0 has no int8 form',
  'lite_hrnet_tiny': 'litert-converter cannot convert the model',
}


def build(encoder=None, head=None):
  """Returns (network, variables, (H, W) of images)."""
  config = common.default_config().model
  size = (80, 80)
  if encoder:
    size = (64, 64)
    config.encoder = ConfigDict({'name': encoder})
    config.output_stride, stage = ENCODERS[encoder]
    config.head = ConfigDict(
      {'name': 'fcn', 'stage': stage, 'channels': 8, 'convs': 0}
    )
  else:
    config.encoder = ConfigDict({'name': 'mobilenet_v2_tiny'})
    config.head = ConfigDict(heads_test.CASES[head])
  network = registry.build_model(config, CLASSES, **networks.PLAIN_CONV_OPTIONS)
  return (
    network,
    batch_norm_folding.fold_batch_norms(network, weights.draw(network, size)),
    size,
  )


def quantize(network, variables, images, rules=RULES):
  return nets.calibrated(network, rules, variables, images, MEAN, STD)


def simulate(network, variables, request, images):
  net, variables, pixels = litert_converter.add_input_normalization(
    network, variables, request, MEAN, STD
  )
  net = providers.simulate_int8(
    net, request.rules, pixels, int8_output=request.needs_int8_output
  )
  with jax.enable_x64(True):
    run = jax.jit(lambda v, x: net.apply(v, x).logits)
    return np.asarray(run(variables, np.stack(images).astype(np.float32)))


def invoke(content, images):
  """Returns logits of the reference kernels, and their scale."""
  run = interpreters.open_litert(content, resolver='reference')
  (into,), (out,) = run.get_input_details(), run.get_output_details()
  scale, zero_point = out['quantization']
  found = []
  for image in images:
    image = (image.astype(np.int16) - 128).astype(np.int8)
    run.set_tensor(into['index'], image[None])
    run.invoke()
    x = run.get_tensor(out['index'])[0].astype(np.float32)
    found.append((x - zero_point) * np.float32(scale or 1.0))
  return found, scale


def measure(network, variables, size, images):
  """Returns (`parity.compare_in_lsb`, the file's logits, the file)."""
  request = request_lib.make_request(
    formats=('int8_litert',),
    input_size=size,
    num_classes=CLASSES,
    input_type='int8',
    output_type='int8',
    rules=RULES,
  )
  variables = quantize(network, variables, images[:4])
  content = litert_converter.convert_network(
    network, variables, RULES, request, MEAN, STD
  )
  found, scale = invoke(content, images[4:])
  assert np.stack(found).std() > 10 * scale  # logits are not constant
  simulated = simulate(network, variables, request, images[4:])
  return parity.compare_in_lsb(list(simulated), found, scale), found, content


def compare(network, variables, size):
  """Returns the LSB differences of file and simulation, and the operators."""
  images = source_lib.draw_synthetic_images(6, size, 3)
  result, _, content = measure(network, variables, size, images)
  return result, tflite_graph.count_operators(tflite_graph.read_tflite(content))


@pytest.mark.full
@pytest.mark.parametrize('encoder', [x for x in ENCODERS if x not in REFUSED])
def test_encoder(encoder):
  result, operators = compare(*build(encoder=encoder))
  print(encoder, result, operators)
  assert set(operators) <= OPERATORS
  assert result['same'] == 1.0  # bit by bit


@pytest.mark.full
@pytest.mark.parametrize(
  'head', [x for x in heads_test.CASES if x not in REFUSED]
)
def test_head(head):
  result, operators = compare(*build(head=head))
  print(head, result, operators)
  assert set(operators) <= OPERATORS
  assert result['same'] == 1.0  # bit by bit


@pytest.mark.full
@pytest.mark.parametrize(
  ('name', 'wide'),
  [
    ('unet', 'head.*'),
    ('st_aspp', 'head.*'),
    ('mobilenet_v2_tiny', r'encoder/block_[23]/.*'),
    ('resnet_tiny', '.*'),
    ('xception_tiny', '.*'),
  ],
)
def test_layers_with_16_bit_activations(name, wide):
  kind = 'encoder' if name in ENCODERS else 'head'
  network, variables, size = build(**{kind: name})
  rules = rules_lib.Rules(wide_layers=wide)
  images = source_lib.draw_synthetic_images(6, size, 3)
  request = request_lib.make_request(
    formats=('int8_litert',),
    input_size=size,
    num_classes=CLASSES,
    input_type='int8',
    output_type='float32',
    rules=rules,
  )
  variables = quantize(network, variables, images[:4], rules)
  content = litert_converter.convert_network(
    network, variables, rules, request, MEAN, STD
  )
  found, _ = invoke(content, images[4:])
  simulated = simulate(network, variables, request, images[4:])
  graph = tflite_graph.read_tflite(content)
  step = tflite_graph.output_scale(graph)
  result = parity.compare_in_lsb(list(simulated), found, step)
  print(name, wide, result, tflite_graph.count_operator_dtypes(graph))
  assert result['same'] == 1.0
  assert tflite_graph.count_operator_dtypes(graph)['CONV_2D']['int16'] >= 4


@pytest.mark.full
def test_hard_swish_has_no_16_bit_form():
  network, variables, size = build(encoder='mobilenet_v3_tiny')
  rules = rules_lib.Rules(wide_layers='encoder.*')
  images = source_lib.draw_synthetic_images(2, size, 3)
  with pytest.raises(
    ValueError, match='hard_swish in encoder/stem/norm has no form with 16-bit'
  ):
    quantize(network, variables, images, rules)


@pytest.mark.full
@pytest.mark.parametrize('name', REFUSED)
def test_refused(name):
  kind = 'encoder' if name in ENCODERS else 'head'
  with pytest.raises(ValueError, match=REFUSED[name]):
    compare(*build(**{kind: name}))


@pytest.mark.full
def test_a_whole_network():
  """DeepLabV3+ MobileNetV2 of 79 layers, also on TFLite Micro."""
  config = common.default_config().model
  config.encoder = ConfigDict({'name': 'mobilenet_v2', 'alpha': 0.35})
  config.head = ConfigDict({'name': 'deeplabv3plus', 'channels': 64})
  size = (128, 128)
  network = registry.build_model(config, CLASSES, **networks.PLAIN_CONV_OPTIONS)
  variables = batch_norm_folding.fold_batch_norms(
    network, weights.draw(network, size)
  )
  images = source_lib.draw_synthetic_images(12, size, 3)
  result, found, content = measure(network, variables, size, images)
  print(result)
  assert result['images'] == 8
  assert result['same'] == 1.0
  if not interpreters.has_tflm():
    pytest.skip('no tflite-micro')
  runner = interpreters.open_tflm(content)
  agreement = []
  for image, wanted in zip(images[4:], found, strict=True):
    runner.set_input((image.astype(np.int16) - 128).astype(np.int8)[None], 0)
    runner.invoke()
    ids = runner.get_output(0)[0].argmax(-1)
    agreement.append((ids == wanted.argmax(-1)).mean())
  print(f'TFLite Micro: arg-max equal on {np.mean(agreement):.5f}')
  assert np.mean(agreement) >= 0.995


def test_every_family_is_tested():
  tiny = {name for name in registry.ENCODERS if name.endswith('_tiny')}
  assert set(ENCODERS) == tiny
  assert set(REFUSED) <= {*ENCODERS, *registry.HEADS}
