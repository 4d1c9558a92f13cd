"""Requests: defaults, and refusals in one sentence."""

import pytest

from deeplab.quantization import rules
from export import request

ALL = ('saved_model', 'float32', 'float16', 'int8')


def make(**kwargs):
  return request.make_request(
    **{'formats': ALL, 'input_size': (33, 65), 'num_classes': 5, **kwargs}
  )


def test_defaults():
  assert make() == request.Request(
    ALL, (33, 65), True, 'uint8', 'logits', 'float32'
  )
  assert make(output='argmax').output_type == 'int32'


@pytest.mark.parametrize(
  ('kind', 'types'),
  [('float32', ('float32', 'float32')), ('int8', ('int8', 'uint8'))],
)
def test_io_types_of_scores(kind, types):
  made = make(input_type='int8', output='softmax', output_type='uint8')
  assert made.io_types(kind) == types


def test_onnx_is_two_files():
  made = make(formats=('onnx',))
  assert made.formats == ('onnx_float32', 'onnx_int8')
  assert made.needs_calibration
  assert made.io_types('onnx_int8') == ('uint8', 'float32')
  assert not make(formats=('float32', 'onnx_float32')).needs_calibration
  assert make(formats=('int16x8',)).needs_calibration


def test_defaults_of_a_target():
  made = make(target='ethos-u55-128')
  assert (made.input_type, made.output_type) == ('int8', 'int8')
  assert made.resize == 'steps'
  made = make(
    target='ethos-u55-128', output='argmax', input_type='uint8', resize='host'
  )
  assert (made.input_type, made.output_type) == ('uint8', 'int32')
  assert made.resize == 'host'


def test_base_of_onnx_and_c():
  """The only int8 file; that of TensorFlow if there are both or none."""
  for formats, base in (
    (('int8_litert', 'onnx_int8', 'c'), 'int8_litert'),
    (('int8_litert', 'int8', 'onnx_int8', 'c'), 'int8'),
    (('onnx_int8', 'c'), 'int8'),
  ):
    made = make(formats=formats, input_type='int8')
    assert {made.base_format(kind) for kind in ('onnx_int8', 'c')} == {base}
    assert made.base_format('int8_litert') == 'int8_litert'
    assert made.io_types('onnx_int8') == ('int8', 'float32')
  assert make(formats=('onnx',)).base_format('onnx_float32') == 'float32'


@pytest.mark.parametrize(
  ('target', 'formats', 'weights'),
  [
    ('tda4vm', ('int8',), 'tensor'),
    ('stm32mp2', ('int8_litert', 'c'), 'tensor'),
    ('tda4vm', ('int8', 'int16x8'), None),
    ('cortex-m7', ('int8',), None),
  ],
)
def test_weight_granularity_of_a_target(target, formats, weights):
  assert request.target_weight_granularity(target, formats) == weights


def test_class_ids_have_the_same_type_in_all_formats():
  made = make(output='argmax', output_type='uint8')
  assert made.io_types('float32') == ('float32', 'uint8')
  assert made.io_types('int8') == ('uint8', 'uint8')
  assert make(formats=('int16x8',)).io_types('int16x8') == (
    'float32',
    'float32',
  )


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'formats': ()}, 'formats is empty'),
    ({'formats': ('pth',)}, 'formats=pth is not one of saved_model'),
    ({'formats': ('int8', 'int8')}, 'names a format twice'),
    ({'input_size': (65,)}, 'input_size=65 is not a height and a width'),
    ({'input_size': (0, 65)}, 'input_size=0,65 is not a height and a width'),
    ({'input_type': 'int16'}, 'input_type=int16 is not one of'),
    ({'target': 'npu'}, 'target=npu is not one of'),
    (
      {'formats': ('float32',), 'target': 'stm32n6'},
      'target=stm32n6 needs int8 or int8_litert among --formats',
    ),
    (
      {'target': 'cortex-m7', 'output': 'argmax', 'output_type': 'uint8'},
      'output_type=uint8: cortex-m7 cannot compute class ids of that type',
    ),
    ({'resize': 'steps'}, 'resize=steps needs --target'),
    ({'ram_kib': 3}, 'need --target'),
    (
      {'formats': ('float32',), 'input_type': 'uint8'},
      'input_type=uint8 needs int8 or int8_litert among',
    ),
    (
      {'formats': ('float16',), 'output_type': 'int8'},
      'output_type=int8 needs int8 or int8_litert among',
    ),
    (
      {'output': 'argmax', 'output_type': 'int8'},
      'output_type=int8 is not a type for the class ids',
    ),
    (
      {'output': 'argmax', 'output_type': 'float32'},
      'output_type=float32 is not a type for the class ids',
    ),
    (
      {'output': 'argmax', 'output_type': 'uint8', 'num_classes': 257},
      'cannot hold the ids of 257 classes',
    ),
    (
      {'formats': ('int8_litert',), 'output': 'softmax'},
      'the int8_litert file returns logits or class ids',
    ),
    (
      {'formats': ('int8_litert',), 'resize': 'host'},
      'resize=host: the int8_litert file holds the whole network',
    ),
    (
      {'formats': ('onnx_int8',), 'rules': rules.Rules(power_of_two=True)},
      'formats=onnx_int8 has neither layers in float',
    ),
    (
      {'formats': ('c',), 'rules': rules.Rules(power_of_two=True)},
      'formats=c has neither layers in float',
    ),
    (
      {
        'formats': ('int8_litert', 'onnx_int8'),
        'rules': rules.Rules(wide_layers='head.*'),
      },
      'ONNX Runtime does not support the 64-bit biases',
    ),
    (
      {'rules': rules.Rules(wide_layers='head.*')},
      'formats=int8 has neither layers in float or 16 bits',
    ),
    (
      {'rules': rules.Rules(float_layers='head/.*')},
      'formats=int8 has neither layers in float',
    ),
    (
      {'formats': ('int16x8',), 'rules': rules.Rules(weights='tensor')},
      'weight_granularity=tensor is for int8 and int8_litert',
    ),
    ({'output_type': 'int32'}, 'output_type=int32 is for --output_kind=argmax'),
    ({'output': 'mask'}, 'output_kind=mask is not one of'),
    ({'normalization': 'no'}, 'normalization=no is not one of'),
  ],
)
def test_refusals(kwargs, message):
  with pytest.raises(ValueError, match=message):
    make(**kwargs)


@pytest.mark.parametrize(
  ('given', 'labels', 'evaluates', 'message'),
  [
    ({'output'}, False, False, 'pass --weights'),
    ({'weights'}, True, True, 'output is missing'),
    (
      {'config', 'output', 'eval'},
      False,
      True,
      'eval needs --weights: an untr',
    ),
    (
      {'config', 'output', 'checkpoint'},
      False,
      False,
      'checkpoint needs --wei',
    ),
    (
      {'config', 'output', 'calibration_images'},
      False,
      False,
      'calibration_images needs --weights: .* calibrates on synthetic images',
    ),
    ({'config', 'output', 'data_root'}, False, False, 'alone reads no data'),
    (
      {'weights', 'config', 'output', 'data_root'},
      True,
      True,
      'with --config, pass --config.data.root',
    ),
    (
      {'weights', 'output', 'eval'},
      False,
      True,
      'eval needs labeled images: .*--config.data.root=ROOT',
    ),
    (
      {'config', 'output', 'baseline'},
      False,
      False,
      'baseline has no effect without',
    ),
    (
      {'weights', 'output', 'eval_limit'},
      True,
      False,
      'eval_limit has no effect',
    ),
  ],
)
def test_contradicting_flags(given, labels, evaluates, message):
  with pytest.raises(ValueError, match=message):
    request.check_flags(given, labels, evaluates)


@pytest.mark.parametrize(
  ('flag', 'formats', 'message'),
  [
    ('calibration_method', ('int8',), 'needs int8_litert among --formats'),
    ('calibration_images', ('float32',), 'needs an integer format'),
    ('num_calibration_images', ('float32',), 'needs an integer format'),
    ('calibration_rounding', ('float16',), 'needs an integer format'),
  ],
)
def test_calibration_flags_that_nothing_reads(flag, formats, message):
  with pytest.raises(ValueError, match=message):
    request.check_calibration_flags({flag}, make(formats=formats))
  every = make(formats=('int8_litert',))
  request.check_calibration_flags({flag}, every)


@pytest.mark.parametrize(
  ('kwargs', 'depth', 'trained', 'message'),
  [
    ({'formats': ('c',)}, 16, False, 'formats=c: the example reads .* 8 bits'),
    ({'resize': 'host'}, 8, True, 'resize=host is for float runs'),
  ],
)
def test_models_that_a_request_does_not_suit(kwargs, depth, trained, message):
  with pytest.raises(ValueError, match=message):
    request.check_source(make(**kwargs), depth, trained, True)
  request.check_source(make(), depth, trained, True)


def test_integer_files_need_images_to_calibrate_on():
  message = (
    '^int8, onnx_int8: there are no images to calibrate on; pass '
    '--calibration_images=FOLDER, .* such as --formats=float32'
  )
  formats = ('float32', 'int8', 'onnx_int8')
  with pytest.raises(ValueError, match=message):
    request.check_source(make(formats=formats), 8, False, False)
  request.check_source(make(formats=('float32',)), 8, False, False)
