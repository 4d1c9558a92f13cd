"""Files of litert-converter, compared with their simulation in JAX."""

import dataclasses
import functools

import flax.traverse_util
import jax
import numpy as np
import pytest

from deeplab.inference import interpreters
from deeplab.quantization import rules as rules_lib
from deeplab.quantization.ptq import batch_norm_folding
from export import request as request_lib
from export.devices import tflm
from export.graph import memory
from export.graph import tflite_graph
from export.verify import parity
from tests.quantization import nets

providers = pytest.importorskip('deeplab.quantization.simulator.providers')
litert_converter = pytest.importorskip('export.convert.litert_converter')

SIZE = (33, 40)


@functools.cache
def _small():
  small = nets.small(SIZE)
  return dataclasses.replace(
    small,
    variables=batch_norm_folding.fold_batch_norms(small.model, small.variables),
  )


@functools.cache
def _quantized(rules):
  """Returns the variables with calibrated ranges."""
  small = _small()
  return nets.calibrated(small.model, rules, small.variables, small.calibration)


def _request(rules, **fields):
  return request_lib.make_request(
    formats=('int8_litert',),
    input_size=SIZE,
    num_classes=nets.CLASSES,
    **{'input_type': 'int8', 'output_type': 'int8', **fields},
    rules=rules,
  )


@functools.cache
def _file(rules, **fields):
  return litert_converter.convert_network(
    _small().model,
    _quantized(rules),
    rules,
    _request(rules, **fields),
    nets.MEAN,
    nets.STD,
  )


def _simulated(rules, request):
  """Returns the logits [8, H, W, K] of the simulation."""
  small = _small()
  net, variables, pixels = litert_converter.add_input_normalization(
    small.model, _quantized(rules), request, nets.MEAN, nets.STD
  )
  images = np.stack(small.images).astype(np.float32)
  if pixels is None:
    images = (images - np.float32(nets.MEAN)) / np.float32(nets.STD)
  net = providers.simulate_int8(
    net, rules, pixels, int8_output=request.needs_int8_output
  )
  with jax.enable_x64(True):
    run = jax.jit(lambda v, x: net.apply(v, x).logits)
    return np.asarray(run(variables, images))


def _invoke(data, feed):
  """Returns outputs of LiteRT's reference kernels and the output's scale."""
  run = interpreters.open_litert(data, resolver='reference')
  (into,), (out,) = run.get_input_details(), run.get_output_details()
  scale, zero_point = out['quantization']
  results = []
  for image in _small().images:
    run.set_tensor(into['index'], feed(image)[None])
    run.invoke()
    x = run.get_tensor(out['index'])[0].astype(np.float32)
    results.append((x - zero_point) * np.float32(scale or 1.0))
  return results, scale


def _int8(image):
  return (image.astype(np.int16) - 128).astype(np.int8)


RULES = {
  'default': rules_lib.Rules(),
  'one scale a tensor': rules_lib.Rules(weights='tensor'),
  'powers of two': rules_lib.Rules(power_of_two=True),
}


@pytest.mark.parametrize('name', RULES)
def test_the_file_computes_what_is_simulated(name):
  rules = RULES[name]
  data = _file(rules)
  found, scale = _invoke(data, _int8)
  result = parity.compare_in_lsb(
    list(_simulated(rules, _request(rules))), found, scale
  )
  assert result['images'] == 8
  assert result['same'] == 1.0  # bit by bit
  assert np.stack(found).std() > 10 * scale  # there is something to compare


def test_every_operator_is_int8():
  graph = tflite_graph.read_tflite(_file(RULES['default']))
  dtypes = tflite_graph.count_operator_dtypes(graph)
  assert {d for counts in dtypes.values() for d in counts} == {'int8'}
  assert set(dtypes) == {
    *('CONV_2D', 'DEPTHWISE_CONV_2D', 'ADD', 'CONCATENATION', 'QUANTIZE'),
    *('RESIZE_BILINEAR', 'AVERAGE_POOL_2D'),
  }
  (first,) = graph.inputs
  assert tflite_graph.tensor_qparams(graph.tensors[first]) == {
    'scale': 1.0,
    'zero_point': -128,
  }


@pytest.mark.parametrize('ends', ['float32', 'int8', 'uint8'])
def test_no_unused_tensor_is_left(ends):
  """TFLite Micro would reserve arena memory for it."""
  data = _file(RULES['default'], input_type=ends, output_type=ends)
  graph = tflite_graph.read_tflite(data)
  used = {i for op in graph.operators for i in (*op.inputs, *op.outputs)}
  assert {*range(len(graph.tensors))} == used - {-1}
  if interpreters.has_tflm() and ends == 'int8':
    planned = memory.plan_arena(memory.activation_lifetimes(graph))
    assert tflm.measure_arena(data).head <= 1.3 * planned


def test_scales_are_powers_of_two():
  graph = tflite_graph.read_tflite(_file(RULES['powers of two']))
  checked = 0
  for tensor in graph.tensors:
    if tensor.dtype == 'int8' and tensor.scales:
      exponents = np.log2(np.float64(tensor.scales))
      np.testing.assert_array_equal(exponents, np.round(exponents))
      assert set(tensor.zero_points) <= {0, -128}  # -128: pixels
      checked += 1
  assert checked > 30


def test_weights_have_one_scale_a_tensor():
  graph = tflite_graph.read_tflite(_file(RULES['one scale a tensor']))
  for op in graph.operators:
    if op.name == 'CONV_2D':
      assert len(graph.tensors[op.inputs[1]].scales) == 1


@pytest.mark.parametrize(
  ('input_type', 'output_type', 'feed'),
  [
    ('float32', 'float32', lambda x: x.astype(np.float32)),
    ('uint8', 'uint8', lambda x: x),
  ],
)
def test_other_io_types_change_no_output(input_type, output_type, feed):
  rules = RULES['default']
  expected, _ = _invoke(_file(rules), _int8)
  data = _file(rules, input_type=input_type, output_type=output_type)
  found, _ = _invoke(data, feed)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('dtype', ['int32', 'uint8'])
def test_class_ids(dtype):
  """They are the arg-max of the int8 logits, the first of equal ones."""
  rules = RULES['default']
  expected, _ = _invoke(_file(rules), _int8)
  data = _file(rules, output='argmax', output_type=dtype)
  graph = tflite_graph.read_tflite(data)
  counts = tflite_graph.count_operators(graph)
  assert 'DEQUANTIZE' not in counts
  assert (counts['ARG_MAX'], counts.get('CAST', 0)) == (1, dtype == 'uint8')
  assert graph.tensors[graph.outputs[0]].shape == (1, *SIZE)
  found, _ = _invoke(data, _int8)
  np.testing.assert_array_equal(found, np.argmax(expected, axis=-1))
  if dtype == 'int32' and interpreters.has_tflm():  # it has no CAST to uint8
    runner = interpreters.open_tflm(data)
    runner.set_input(_int8(_small().images[0])[None], 0)
    runner.invoke()
    agreement = np.mean(runner.get_output(0)[0] == found[0])
    assert agreement > 0.99


@pytest.mark.parametrize(
  'fields', [{'float_layers': 'head/classifier'}, {'wide_layers': 'head.*'}]
)
def test_class_ids_of_float_and_int16_logits(fields):
  """int16 logits are requantized to int8 first: devices compare int8."""
  rules = rules_lib.Rules(**fields)
  kind = 'int8' if rules.wide_layers else 'float32'
  expected, _ = _invoke(_file(rules, output_type=kind), _int8)
  data = _file(rules, output='argmax', output_type='int32')
  found, _ = _invoke(data, _int8)
  np.testing.assert_array_equal(found, np.argmax(expected, axis=-1))


def test_a_float_layer():
  rules = rules_lib.Rules(float_layers='head/classifier')
  with pytest.raises(tflite_graph.BadGraph, match='DEQUANTIZE'):
    _file(rules)  # asked for in int8
  data = _file(rules, output_type='float32')
  dtypes = tflite_graph.count_operator_dtypes(tflite_graph.read_tflite(data))
  assert dtypes['CONV_2D']['float32'] == 1
  assert dtypes['CONV_2D']['int8'] > 5
  found, _ = _invoke(data, _int8)
  request = _request(rules, output_type='float32')
  np.testing.assert_allclose(
    found, _simulated(rules, request), atol=0.02 * np.abs(found).max()
  )


WIDE = {
  # Pattern -> number of int16 concatenations. The head with its logits and both
  # concatenations; only the layers inside it; neither input nor output; all.
  'head.*': 2,
  'head/.*': 1,
  'encoder/(down|block)/.*': 0,
  '.*': 2,
}


@pytest.mark.parametrize('wide', WIDE)
def test_int16_layers(wide):
  rules = rules_lib.Rules(wide_layers=wide)
  data = _file(rules, output_type='float32')
  graph = tflite_graph.read_tflite(data)
  found, _ = _invoke(data, _int8)
  simulated = _simulated(rules, _request(rules, output_type='float32'))
  result = parity.compare_in_lsb(
    list(simulated), found, tflite_graph.output_scale(graph)
  )
  assert result['same'] == 1.0  # bit by bit
  assert np.stack(found).std() > 0.5
  maps = lambda op: [
    graph.tensors[i].dtype
    for i in (*op.inputs, *op.outputs)
    if not graph.is_constant(i)
  ]
  joined = [maps(op) for op in graph.operators if op.name == 'CONCATENATION']
  assert sum(set(x) == {'int16'} for x in joined) == WIDE[wide]
  biases = {'int8': 'int32', 'int16': 'int64'}
  convs = [op for op in graph.operators if 'CONV_2D' in op.name]
  for op in convs:
    read, written = maps(op)
    assert written == read
    assert graph.tensors[op.inputs[2]].dtype == biases[read]
  assert len({maps(op)[0] for op in convs}) == 2  # pixels have 8 bits
  assert {
    op.name for op in graph.operators if {'int8', 'int16'} <= set(maps(op))
  } == {'QUANTIZE'}
  assert 'FLOOR' not in tflite_graph.count_operators(graph)
  floats = [op.name for op in graph.operators if 'float32' in maps(op)]
  assert floats == ['DEQUANTIZE']


def test_int16_is_closer_to_float():
  small = _small()
  images = np.stack(small.images).astype(np.float32)
  normal = (images - np.float32(nets.MEAN)) / np.float32(nets.STD)
  variables = {k: small.variables[k] for k in ('params', 'batch_stats')}
  expected = small.model.apply(variables, normal.astype(np.float32)).logits
  errors = []
  for wide in ('', 'head.*', '.*'):
    rules = rules_lib.Rules(wide_layers=wide)
    request = _request(rules, output_type='float32')
    errors.append(np.abs(_simulated(rules, request) - expected).mean())
  # The error that remains comes from the weights, which have 8 bits.
  assert errors[1] < 0.9 * errors[0]
  assert errors[2] < 0.6 * errors[0]


@pytest.mark.parametrize(
  ('rules', 'fields'),
  [
    ({}, {'output_type': 'int8'}),
    ({}, {'normalization': 'caller', 'input_type': 'float32'}),
    ({'weights': 'tensor'}, {}),
    ({'float_layers': 'head/decoder.*'}, {}),
  ],
)
def test_int16_layers_with_other_options(rules, fields):
  rules = rules_lib.Rules(wide_layers='.*', **rules)
  fields = {'output_type': 'float32', **fields}
  data = _file(rules, **fields)

  def feed(image):
    if fields.get('normalization') != 'caller':
      return _int8(image)
    return (np.float32(image) - np.float32(nets.MEAN)) / np.float32(nets.STD)

  found, _ = _invoke(data, feed)
  simulated = _simulated(rules, _request(rules, **fields))
  step = tflite_graph.output_scale(tflite_graph.read_tflite(data))
  result = parity.compare_in_lsb(list(simulated), found, step)
  if rules.float_layers:  # their sums are rounded in float32
    assert result['within_one'] >= 0.999
  else:
    assert result['same'] == 1.0
  if fields['output_type'] == 'int8':
    dtypes = tflite_graph.count_operator_dtypes(tflite_graph.read_tflite(data))
    assert 'DEQUANTIZE' not in dtypes


def test_the_input_of_an_int16_network_is_int8():
  """Even if the first layer has int16 activations."""
  rules = rules_lib.Rules(wide_layers='.*')
  request = {'normalization': 'caller', 'input_type': 'uint8'}
  graph = tflite_graph.read_tflite(
    _file(rules, **request, output_type='float32')
  )
  (first,) = graph.inputs
  low, high = (
    graph.tensors[first].scales[0] * (n - graph.tensors[first].zero_points[0])
    for n in (0, 255)
  )
  assert low < -1 and high > 1  # of normalized images


def test_gradients_through_int16_layers():
  rules = rules_lib.Rules(wide_layers='head.*')
  small = _small()
  variables = _quantized(rules)
  net = providers.simulate_int8(small.model, rules)
  x = (np.stack(small.images[:2]) - np.float32(nets.MEAN)) / nets.STD

  def loss(params, x):
    logits = net.apply({**variables, 'params': params}, x).logits
    return jax.numpy.square(logits).mean()

  gradient = jax.jit(jax.grad(loss))
  found = gradient(variables['params'], x.astype(np.float32))
  found = jax.tree.leaves(found)
  assert all(np.isfinite(g).all() for g in found)
  assert np.mean([np.any(g != 0) for g in found]) > 0.9


def test_ranges_of_an_int16_concatenation_can_grow():
  """The range is observed before clipping, and only once."""
  rules = rules_lib.Rules(wide_layers='.*')
  small = _small()
  variables = _quantized(rules)
  x = (np.stack(small.images[:2]) - np.float32(nets.MEAN)) / nets.STD
  x = jax.numpy.asarray(x, jax.numpy.float32)
  halved = jax.tree.map(lambda y: y / 2, variables['quant_stats'])
  net = providers.simulate_int8(small.model, rules)

  def see(stats):
    given = {**variables, 'quant_stats': stats}
    seen = net.apply(given, x, mutable=['observed'])[1]['observed']
    assert jax.tree.structure(seen) == jax.tree.structure(stats)
    return jax.tree.map(np.asarray, seen)

  whole, cut = see(variables['quant_stats']), see(halved)
  joined = [
    path
    for path in flax.traverse_util.flatten_dict(whole)
    if path[-2].startswith('concatenate')
  ]
  assert len(joined) == 4  # extremes of two
  for path in joined:
    given, seen = (
      flax.traverse_util.flatten_dict(tree)[path] for tree in (halved, cut)
    )
    assert abs(seen) > 1.01 * abs(given) or given == 0


def test_normalization_by_the_caller():
  rules = RULES['default']
  request = {'normalization': 'caller', 'input_type': 'float32'}
  data = _file(rules, **request)

  def feed(image):
    return (np.float32(image) - np.float32(nets.MEAN)) / np.float32(nets.STD)

  found, scale = _invoke(data, feed)
  simulated = _simulated(rules, _request(rules, **request))
  result = parity.compare_in_lsb(list(simulated), found, scale)
  assert result['within_one'] >= 0.998
  assert result['argmax_agreement'] >= 0.999
