import re

import pytest

from configs import shapes_mnv2
from deeplab import networks
from deeplab.quantization import pixel_input
from deeplab.quantization import rules
from deeplab.training import limits
from tests.quantization import nets


def config(**fields):
  c = shapes_mnv2.get_config('smoke').unlock()
  c.quantization.name = 'int8'
  c.init_from = 'runs/float'
  c.update_from_flattened_dict(fields)
  return c.lock()


def test_a_float_run_is_none():
  assert not networks.is_int8(shapes_mnv2.get_config('smoke'))
  assert networks.is_int8(config())
  networks.check_config(config())


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'init_from': ''}, 'trains on from float weights: set config.init_from'),
    ({'quantization.name': 'int4'}, "name='int4' is not one of"),
    ({'quantization.weights': 'tensor'}, 'training keeps one scale a channel'),
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
    ({'model.remat': 2}, 'remat=2: int8 is simulated without it'),
  ],
)
def test_refusals(fields, message):
  with pytest.raises(ValueError, match=message):
    networks.check_config(config(**fields))


def test_it_is_evaluated_at_another_output_stride():
  pytest.importorskip('qwix')
  for c in (config(), shapes_mnv2.get_config('smoke')):
    stride = c.model.output_stride // 2
    network = networks.build_model(c, 3, output_stride=stride)
    assert network.encoder.output_stride == stride
    assert networks.build_model(c, 3).encoder.output_stride == 2 * stride


def test_what_only_training_runs_stays_float():
  stays = re.compile(rules.Rules(float_layers='head/classifier').float_pattern)
  found = [
    bool(stays.fullmatch(path))
    for path in (
      *('auxiliary/conv', 'head/auxiliary_1/conv', 'head/classifier'),
      *('head', 'encoder/stem/conv'),
    )
  ]
  assert found == [True, True, True, False, False]


def test_norms_are_frozen_where_the_config_says():
  def frozen(c):
    assert networks.build_model(c, 3).encoder.options.frozen_norms == (
      limits.has_frozen_batch_norm(c)
    )
    return limits.has_frozen_batch_norm(c)

  c = shapes_mnv2.get_config('smoke').unlock()
  assert not frozen(c)
  c.model.frozen_norms = True
  assert frozen(c)
  pytest.importorskip('qwix')
  assert frozen(config())
  c = config(**{'quantization.frozen_norms': False, 'model.frozen_norms': True})
  assert not limits.has_frozen_batch_norm(c)


def test_a_first_layer_in_float_is_refused():
  """What normalises pixels would have no range."""
  model = nets.build()
  kept = rules.Rules(float_layers='encoder/stem.*')
  with pytest.raises(ValueError, match='encoder/stem/conv in float32'):
    pixel_input.with_input_normalization(model, kept, 3)
  pixel_input.with_input_normalization(
    model, rules.Rules(float_layers='head/.*'), 3
  )
