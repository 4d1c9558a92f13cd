import ml_dtypes
import numpy as np
import pytest

from deeplab.pretrained import merge


def variables():
  return {
    'params': {
      'encoder': {
        'stem': {'kernel': np.zeros((3, 3, 3, 2), np.float32)},
        'bn': {'scale': np.ones(2, np.float32)},
      },
      'head': {'bias': np.full(4, 7, np.float32)},
    },
    'batch_stats': {'encoder': {'bn': {'mean': np.zeros(2, np.float32)}}},
  }


TENSOR_REFS = {
  'encoder/stem/kernel': merge.TensorRef('conv.weight', 'oihw'),
  'encoder/bn/scale': merge.TensorRef('bn.weight'),
  'encoder/bn/mean': merge.TensorRef('bn.running_mean'),
}


def tensors():
  return {
    'conv.weight': np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3),
    'bn.weight': np.array([2, 3], np.float32),
    'bn.running_mean': np.array([4, 5], np.float32),
  }


def test_tensors_are_merged_and_the_rest_is_unchanged():
  before = variables()
  after = merge.merge_tensors(before, tensors(), TENSOR_REFS)
  kernel = after['params']['encoder']['stem']['kernel']
  # Output 1, input 2, row 0, column 1 of 2 x 3 x 3 x 3.
  assert kernel[0, 1, 2, 1] == 27 + 18 + 1
  assert after['params']['encoder']['bn']['scale'].tolist() == [2, 3]
  assert after['batch_stats']['encoder']['bn']['mean'].tolist() == [4, 5]
  assert after['params']['head']['bias'].tolist() == [7, 7, 7, 7]
  assert before['params']['encoder']['bn']['scale'].tolist() == [1, 1]


@pytest.mark.parametrize(
  ('layout', 'shape', 'ours', 'index'),
  [
    ('same', (2, 3, 5, 7), (2, 3, 5, 7), lambda h, w, i, o: (h, w, i, o)),
    ('hwim', (2, 3, 5, 1), (2, 3, 1, 5), lambda h, w, i, o: (h, w, o, 0)),
    ('oihw', (7, 5, 2, 3), (2, 3, 5, 7), lambda h, w, i, o: (o, i, h, w)),
    ('ohwi', (7, 2, 3, 5), (2, 3, 5, 7), lambda h, w, i, o: (o, h, w, i)),
    ('1hwo', (1, 2, 3, 7), (2, 3, 1, 7), lambda h, w, i, o: (0, h, w, o)),
  ],
)
def test_layouts(layout, shape, ours, index):
  theirs = np.random.default_rng(0).normal(size=shape)
  value = merge.LAYOUTS[layout](theirs)
  assert value.shape == ours
  for place in np.ndindex(ours):
    assert value[place] == theirs[index(*place)]


def test_depthwise_multiplier_groups_outputs_by_input():
  theirs = np.arange(6.0).reshape(1, 1, 3, 2)
  assert merge.LAYOUTS['hwim'](theirs).ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_roll_moves_the_last_input_channels_first():
  names = {'k': merge.TensorRef('k', 'oihw', roll=2)}
  theirs = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)
  start = {'params': {'k': np.zeros((1, 1, 5, 1), np.float32)}}
  after = merge.merge_tensors(start, {'k': theirs}, names)
  assert after['params']['k'].ravel().tolist() == [3, 4, 0, 1, 2]


def test_an_edit_gets_our_layout():
  changed = merge.merge_tensors(
    variables(),
    tensors(),
    TENSOR_REFS,
    edits={'encoder/stem/kernel': lambda kernel: kernel[::-1]},
  )
  kernel = changed['params']['encoder']['stem']['kernel']
  assert kernel[2, 1, 2, 1] == 27 + 18 + 1


@pytest.mark.parametrize(
  'dtype', [np.float16, np.float64, ml_dtypes.bfloat16, '>f4']
)
def test_floats_become_float32(dtype):
  file = tensors() | {'bn.weight': np.array([2, 3]).astype(dtype)}
  scale = merge.merge_tensors(variables(), file, TENSOR_REFS)['params'][
    'encoder'
  ]['bn']
  assert scale['scale'].dtype == np.float32
  assert scale['scale'].tolist() == [2, 3]


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e300])
def test_non_finite_values_fail(value):
  file = tensors() | {'bn.weight': np.array([1, value])}
  with pytest.raises(ValueError, match=r"'bn\.weight'.*not finite"):
    merge.merge_tensors(variables(), file, TENSOR_REFS)


def test_integers_fail():
  file = tensors() | {'bn.weight': np.array([1, 2])}
  with pytest.raises(ValueError, match=r"'bn\.weight' holds int64"):
    merge.merge_tensors(variables(), file, TENSOR_REFS)


def test_one_error_lists_variables_and_tensors():
  file = tensors()
  file['fc.weight'] = np.zeros((5, 2), np.float32)
  file['bn.weight'] = np.zeros(3, np.float32)
  file['conv.weight'] = np.zeros((2, 3), np.float32)
  del file['bn.running_mean']
  with pytest.raises(ValueError) as error:
    merge.merge_tensors(variables(), file, TENSOR_REFS)
  text = str(error.value)
  assert "  encoder/bn/mean, wanted 'bn.running_mean'\n" in text
  assert "  'fc.weight' (5, 2)\n" in text
  assert "  encoder/bn/scale (2,), 'bn.weight' (3,)\n" in text
  assert "  encoder/stem/kernel (3, 3, 3, 2), 'conv.weight' (2, 3)" in text
  assert 'config.init_skip' in text


def test_a_long_error_is_truncated():
  file = tensors() | {f'more.{i}': np.zeros(1) for i in range(23)}
  with pytest.raises(ValueError, match=r'\(23\):') as error:
    merge.merge_tensors(variables(), file, TENSOR_REFS)
  lines = str(error.value).splitlines()
  assert sum(line.startswith("  'more.") for line in lines) == 20
  assert lines[-1] == '  ... and 3 more'


def test_unused_excludes_tensors_only():
  file = tensors() | {'fc.weight': np.zeros((5, 2), np.float32)}
  merge.merge_tensors(variables(), file, TENSOR_REFS, unused='fc.*')
  del file['bn.weight']
  with pytest.raises(ValueError, match='encoder/bn/scale'):
    merge.merge_tensors(variables(), file, TENSOR_REFS, unused='fc.*|.*bn.*')


def test_skip_excludes_variables_and_tensors():
  file = tensors() | {'fc.weight': np.zeros((5, 2), np.float32)}
  file['bn.weight'] = np.zeros(9, np.float32)
  del file['bn.running_mean']
  after = merge.merge_tensors(
    variables(), file, TENSOR_REFS, skip='fc.*|.*/bn/.*'
  )
  assert after['params']['encoder']['bn']['scale'].tolist() == [1, 1]
  assert after['batch_stats']['encoder']['bn']['mean'].tolist() == [0, 0]
  assert after['params']['encoder']['stem']['kernel'].any()


def test_an_invalid_regular_expression_fails():
  with pytest.raises(ValueError, match=r"init_skip='\('"):
    merge.merge_tensors(variables(), tensors(), TENSOR_REFS, skip='(')


def test_adapted_kernel_has_the_same_response_to_grey():
  kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
  kernel = kernel.astype(np.float32)
  response = kernel.sum(axis=2)
  for channels in (1, 3, 4, 7):
    adapted = merge.adapt_input_channels(kernel, channels)
    assert adapted.shape == (3, 3, channels, 4)
    assert adapted.dtype == np.float32
    np.testing.assert_allclose(adapted.sum(axis=2), response, atol=1e-5)
  np.testing.assert_array_equal(merge.adapt_input_channels(kernel, 3), kernel)
  four = merge.adapt_input_channels(kernel, 4)
  np.testing.assert_allclose(four[:, :, :3], 0.75 * kernel, rtol=1e-6)
  np.testing.assert_allclose(
    four[:, :, 3], 0.75 * kernel.mean(axis=2), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(('inputs', 'channels'), [(3, 2), (3, 0), (4, 5)])
def test_adapting_to_two_channels_fails(inputs, channels):
  with pytest.raises(ValueError, match=f'{channels} input channels'):
    merge.adapt_input_channels(np.zeros((3, 3, inputs, 4)), channels)
