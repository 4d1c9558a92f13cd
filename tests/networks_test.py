import re

import pytest

from configs import shapes_mnv2
from deeplab import networks
from deeplab.quantization import pixel_input
from deeplab.quantization import rules
from tests import helpers
from tests.quantization import nets


def config(**fields):
  c = shapes_mnv2.get_config('smoke').unlock()
  c.quantization.name = 'int8'
  c.init_from = 'runs/float'
  c.update_from_flattened_dict(fields)
  return c.lock()


def test_the_config_chooses_the_kind():
  float_network = helpers.network(shapes_mnv2.get_config('smoke'), 3)
  assert type(float_network) is networks.Network
  assert not float_network.has_trained_ranges
  assert float_network.range_tracking(None) is None
  variables = {'params': {}}
  for method in ('start_from', 'export_variables', 'eval_variables'):
    assert getattr(float_network, method)(variables) is variables
  int8_network = helpers.network(config(), 3)
  assert isinstance(int8_network, networks.Network)
  assert int8_network.has_trained_ranges
  assert int8_network.range_tracking(None).decay == (
    config().quantization.range_decay
  )
  networks.check_config(config())


def test_configs_without_quantization_are_float():
  c = shapes_mnv2.get_config('smoke').unlock()
  del c.quantization
  assert not helpers.network(c, 3).has_trained_ranges


def test_files_hold_plain_convolutions_in_float32():
  c = shapes_mnv2.get_config('smoke').unlock()
  c.model.dtype = 'bfloat16'
  c.model.remat = 2
  network = helpers.network(c, 3)
  options = network.export_model(2).encoder.options
  assert (options.dtype, options.depthwise, options.remat) == (
    *('float32', 'conv'),
    0,
  )
  assert options.resize_ratio == 2
  same = network.export_model().encoder.options
  assert same.resize_ratio == c.model.resize_ratio == 0
  assert c.model.dtype == 'bfloat16'


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'init_from': ''}, 'continues from float weights: set config.init_from'),
    ({'quantization.name': 'int4'}, "name='int4' is not one of"),
    (
      {'quantization.weights': 'tensor'},
      'training has one scale for each output',
    ),
    ({'quantization.weights': 'row'}, "weights='row' is not one of"),
    ({'quantization.float_layers': '('}, 'is no regular expression'),
    ({'quantization.wide_layers': '('}, r"wide_layers='\(' is no regular"),
    (
      {'quantization.wide_layers': 'head', 'quantization.power_of_two': True},
      'power_of_two is for networks of 8 bits',
    ),
    (
      {'quantization.range_decay': 1.0},
      r'range_decay=1.0 must lie in \[0, 1\)',
    ),
    ({'model.dtype': 'bfloat16'}, 'int8 is simulated in float32'),
    ({'model.remat': 2}, 'remat=2: int8 is simulated without remat'),
  ],
)
def test_unsupported_configs_raise(fields, message):
  with pytest.raises(ValueError, match=message):
    networks.check_config(config(**fields))


def test_evaluation_at_another_output_stride():
  pytest.importorskip('qwix')
  for c in (config(), shapes_mnv2.get_config('smoke')):
    stride = c.model.output_stride // 2
    network = helpers.network(c, 3)
    assert network.eval_model(stride).encoder.output_stride == stride
    assert network.eval_model().encoder.output_stride == 2 * stride


def test_training_only_layers_stay_float():
  stays = re.compile(rules.Rules(float_layers='head/classifier').float_pattern)
  found = [
    bool(stays.fullmatch(path))
    for path in (
      *('auxiliary/conv', 'head/auxiliary_1/conv', 'head/classifier'),
      *('head', 'encoder/stem/conv'),
    )
  ]
  assert found == [True, True, True, False, False]


def test_batch_norm_is_frozen_as_configured():
  def frozen(c):
    network = helpers.network(c, 3)
    options = network.train_model().encoder.options
    assert options.frozen_norms == network.has_frozen_batch_norm
    return network.has_frozen_batch_norm

  c = shapes_mnv2.get_config('smoke').unlock()
  assert not frozen(c)
  c.model.frozen_norms = True
  assert frozen(c)
  pytest.importorskip('qwix')
  assert frozen(config())
  c = config(**{'quantization.frozen_norms': False, 'model.frozen_norms': True})
  assert not helpers.network(c, 3).has_frozen_batch_norm


def test_a_first_layer_in_float_raises():
  """Normalized images would have no int8 range."""
  model = nets.build()
  kept = rules.Rules(float_layers='encoder/stem.*')
  with pytest.raises(ValueError, match='encoder/stem/conv in float32'):
    pixel_input.with_input_normalization(model, kept, 3)
  pixel_input.with_input_normalization(
    model, rules.Rules(float_layers='head/.*'), 3
  )
