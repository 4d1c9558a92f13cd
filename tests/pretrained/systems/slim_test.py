"""Checkpoints with TF-slim's names are imported into our networks, completely.

The names are spelt here a second time, from the other side: scope by scope as
the original builds them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from deeplab.models import segmenter
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import resnet
from deeplab.models.encoders import xception
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.models.heads import lraspp
from deeplab.pretrained import merge
from deeplab.pretrained.readers import tf_checkpoint
from deeplab.pretrained.systems import detect
from deeplab.pretrained.systems import slim


def network(encoder, head):
  """Returns a network and its variables, all zeros."""
  model = segmenter.Segmenter(encoder, head, None, 7)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 33, 33, 3)))
  )
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  return model, zeros


def tensor_refs(encoder, head, system=slim.SYSTEM, file=('logits/semantic/x',)):
  """Returns the tensor references of a network."""
  return detect.match_system(
    system, dict.fromkeys(file), *network(encoder, head)
  ).tensor_refs


class Scopes:
  """Tensors as TF-slim names and shapes them, random."""

  def __init__(self):
    self.tensors = {}
    self._rng = np.random.default_rng(0)

  def add(self, name, *shape):
    self.tensors[name] = self._rng.normal(size=shape).astype(np.float32)

  def norm(self, scope, channels):
    for name in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
      self.add(f'{scope}/BatchNorm/{name}', channels)

  def conv(self, scope, kernel, cin, out):
    self.add(f'{scope}/weights', kernel, kernel, cin, out)
    self.norm(scope, out)

  def depthwise(self, scope, kernel, channels):
    self.add(f'{scope}/depthwise_weights', kernel, kernel, channels, 1)
    self.norm(scope, channels)

  def separable(self, scope, cin, out):
    self.depthwise(f'{scope}_depthwise', 3, cin)
    self.conv(f'{scope}_pointwise', 1, cin, out)

  def biased(self, scope, cin, out):
    self.add(f'{scope}/weights', 1, 1, cin, out)
    self.add(f'{scope}/biases', out)


def save(path, tensors):
  """Writes a checkpoint, with the other variables of a training run."""
  names = sorted(tensors)
  slots = {
    'global_step': np.int64(30000),
    f'{names[0]}/Momentum': tensors[names[0]],
    f'{names[0]}/ExponentialMovingAverage': tensors[names[0]],
  }
  every = {**tensors, **slots}
  tf.raw_ops.SaveV2(
    prefix=str(path),
    tensor_names=list(every),
    shape_and_slices=[''] * len(every),
    tensors=list(every.values()),
  )


def import_checkpoint(tmp_path, encoder, head, scopes):
  """Imports the tensors through a file, and checks that none is missing."""
  save(tmp_path / 'model.ckpt-30000', scopes.tensors)
  tensors = tf_checkpoint.read_tf_checkpoint(tmp_path)
  model, before = network(encoder, head)
  name, match = detect.detect_system(tensors, model, before)
  assert name == 'slim'
  after = merge.merge_tensors(
    before, match.tensors, match.tensor_refs, unused=match.unused
  )
  leaves = {
    path: value
    for path, value in merge.flatten_variables(after).items()
    if path in match.tensor_refs
  }
  assert len(leaves) == len(scopes.tensors)
  # Layouts move values within a tensor: sums identify them.
  ours = sorted(value.sum(dtype=np.float64) for value in leaves.values())
  theirs = sorted(x.sum(dtype=np.float64) for x in scopes.tensors.values())
  np.testing.assert_allclose(ours, theirs, rtol=1e-6)
  return leaves


def same(ours, theirs):
  np.testing.assert_array_equal(ours, theirs)


def mobilenet_v2_scopes():
  """MobileNetV2, alpha 0.25 of Keras' rounding, two blocks twice."""
  scopes = Scopes()
  scopes.conv('MobilenetV2/Conv', 3, 3, 8)
  cin, blocks = 8, [(1, 8), (6, 8), (6, 8), (6, 8), (6, 16), (6, 24)]
  for i, (expansion, out) in enumerate([*blocks, (6, 40), (6, 40), (6, 80)]):
    scope = (
      f'MobilenetV2/expanded_conv_{i}' if i else ('MobilenetV2/expanded_conv')
    )
    if i:
      scopes.conv(f'{scope}/expand', 1, cin, expansion * cin)
    scopes.depthwise(f'{scope}/depthwise', 3, expansion * cin)
    scopes.conv(f'{scope}/project', 1, expansion * cin, out)
    cin = out
  return scopes


def test_mobilenet_v2_and_the_deeplabv3plus_head(tmp_path):
  scopes = mobilenet_v2_scopes()
  scopes.conv('image_pooling', 1, 80, 12)
  scopes.conv('aspp0', 1, 80, 12)
  scopes.separable('aspp1', 80, 12)
  scopes.separable('aspp2', 80, 12)
  scopes.conv('concat_projection', 1, 4 * 12, 12)
  scopes.conv('decoder/feature_projection0', 1, 8, 5)
  scopes.separable('decoder/decoder_conv0', 17, 10)
  scopes.separable('decoder/decoder_conv1', 10, 10)
  scopes.biased('logits/semantic', 10, 7)
  ours = import_checkpoint(
    tmp_path,
    mobilenet_v2.MobileNetV2Tiny(),
    deeplabv3plus.DeepLabV3Plus(
      num_classes=7,
      channels=12,
      rates=(6, 12),
      low_level_channels=5,
      decoder_channels=10,
    ),
    scopes,
  )
  theirs = scopes.tensors
  scope = 'MobilenetV2/expanded_conv_3'
  same(
    ours['encoder/block_3/depthwise/conv/kernel'][:, :, 0],
    theirs[f'{scope}/depthwise/depthwise_weights'][..., 0],
  )
  for name, theirs_name in (
    ('scale', 'gamma'),
    ('bias', 'beta'),
    ('mean', 'moving_mean'),
    ('var', 'moving_variance'),
  ):
    same(
      ours[f'encoder/block_3/expand/norm/bn/{name}'],
      theirs[f'{scope}/expand/BatchNorm/{theirs_name}'],
    )
  same(
    ours['encoder/block_0/project/conv/kernel'],
    theirs['MobilenetV2/expanded_conv/project/weights'],
  )
  same(
    ours['head/aspp/atrous1/pointwise/conv/kernel'],
    theirs['aspp2_pointwise/weights'],
  )
  same(ours['head/classifier/bias'], theirs['logits/semantic/biases'])


def test_imagenet_encoder(tmp_path):
  scopes = mobilenet_v2_scopes()
  encoder, head = mobilenet_v2.MobileNetV2Tiny(), deeplabv3.DeepLabV3(7)
  classifier = Scopes()
  classifier.conv('MobilenetV2/Conv_1', 1, 80, 1280)
  classifier.biased('MobilenetV2/Logits/Conv2d_1c_1x1', 1280, 1001)
  tensors = scopes.tensors | classifier.tensors
  model, before = network(encoder, head)
  match = detect.match_system(slim.SYSTEM, tensors, model, before)
  merge.merge_tensors(before, tensors, match.tensor_refs, unused=match.unused)
  # What a file holds besides is not passed over in silence.
  tensors['MobilenetV2/Conv_9/weights'] = np.zeros(1, np.float32)
  with pytest.raises(ValueError, match='MobilenetV2/Conv_9/weights'):
    merge.merge_tensors(before, tensors, match.tensor_refs, unused=match.unused)
  # The layer before the classifier has its place in an encoder with `top`.
  scopes.conv('MobilenetV2/Conv_1', 1, 80, 1280)
  encoder = mobilenet_v2.MobileNetV2Tiny(top_conv=True)
  ours = import_checkpoint(tmp_path, encoder, head, scopes)
  same(
    ours['encoder/top/norm/bn/bias'],
    scopes.tensors['MobilenetV2/Conv_1/BatchNorm/beta'],
  )


def test_mobilenet_v3(tmp_path):
  scopes = Scopes()
  root = 'MobilenetV3'
  scopes.conv(f'{root}/Conv', 3, 3, 8)
  rows = [  # kernel, expanded, out, squeezed
    *((3, 8, 8, 0), (3, 16, 16, 0), (5, 24, 24, 8), (5, 32, 24, 8)),
    *((3, 40, 32, 0), (3, 48, 40, 16), (5, 48, 48, 16), (5, 64, 48, 16)),
  ]
  cin = 8
  for i, (kernel, expanded, out, squeezed) in enumerate(rows):
    scope = f'{root}/expanded_conv' + (f'_{i}' if i else '')
    if expanded != cin:
      scopes.conv(f'{scope}/expand', 1, cin, expanded)
    scopes.depthwise(f'{scope}/depthwise', kernel, expanded)
    if squeezed:
      scopes.biased(f'{scope}/squeeze_excite/Conv', expanded, squeezed)
      scopes.biased(f'{scope}/squeeze_excite/Conv_1', squeezed, expanded)
    scopes.conv(f'{scope}/project', 1, expanded, out)
    cin = out
  scopes.conv(f'{root}/Conv_1', 1, 48, 288)
  ours = import_checkpoint(
    tmp_path,
    mobilenet_v3.MobileNetV3Tiny(),
    deeplabv3.DeepLabV3(num_classes=7),
    scopes,
  )
  same(
    ours['encoder/block_5/squeeze_excite/expand/bias'],
    scopes.tensors[f'{root}/expanded_conv_5/squeeze_excite/Conv_1/biases'],
  )


def test_xception_and_dense_rates(tmp_path):
  scopes = Scopes()
  flow = 'xception_65/entry_flow'
  scopes.conv(f'{flow}/conv1_1', 3, 3, 4)
  scopes.conv(f'{flow}/conv1_2', 3, 4, 8)
  cin = 8
  units = [
    *((f'{flow}/block{i}/unit_1', (c,) * 3) for i, c in ((1, 8), (2, 12))),
    (f'{flow}/block3/unit_1', (16, 16, 16)),
    ('xception_65/middle_flow/block1/unit_1', (16, 16, 16)),
    ('xception_65/exit_flow/block1/unit_1', (16, 16, 24)),
    ('xception_65/exit_flow/block2/unit_1', (24, 24, 32)),
  ]
  for unit, channels in units:
    scope = f'{unit}/xception_module'
    if 'middle' not in unit and 'exit_flow/block2' not in unit:
      scopes.conv(f'{scope}/shortcut', 1, cin, channels[-1])
    for i, out in enumerate(channels, start=1):
      scopes.separable(f'{scope}/separable_conv{i}', cin, out)
      cin = out
  scopes.conv('image_pooling', 1, 32, 12)
  scopes.conv('aspp0', 1, 32, 12)
  scopes.conv('aspp1', 3, 32, 12)
  scopes.conv('concat_projection', 1, 36, 12)
  scopes.biased('logits/semantic', 12, 7)
  ours = import_checkpoint(
    tmp_path,
    xception.XceptionTiny(),
    deeplabv3.DeepLabV3(num_classes=7, channels=12, rates=(6,)),
    scopes,
  )
  same(
    ours['encoder/middle_1/separable_2/pointwise/norm/bn/mean'],
    scopes.tensors[
      'xception_65/middle_flow/block1/unit_1/xception_module/'
      'separable_conv2_pointwise/BatchNorm/moving_mean'
    ],
  )
  same(ours['head/aspp/atrous0/conv/kernel'], scopes.tensors['aspp1/weights'])


@pytest.mark.parametrize(
  ('entry', 'middle', 'name'),
  [(3, 8, 'xception_41'), (3, 16, 'xception_65'), (5, 16, 'xception_71')],
)
def test_xception_by_its_depth(entry, middle, name):
  leaf = {'separable_1': {'depthwise': {'conv': {'kernel': np.zeros(1)}}}}
  blocks = [f'entry_{i + 1}' for i in range(entry)]
  blocks += [f'middle_{i + 1}' for i in range(middle)]
  model = segmenter.Segmenter(xception.Xception(), None, None, 7)
  found = detect.match_system(
    slim.SYSTEM, {}, model, {'params': {'encoder': dict.fromkeys(blocks, leaf)}}
  ).tensor_refs
  path = 'encoder/entry_2/separable_1/depthwise/conv/kernel'
  assert found[path].name == (
    f'{name}/entry_flow/block2/unit_1/xception_module/'
    'separable_conv1_depthwise/depthwise_weights'
  )


@pytest.mark.parametrize('stem', ['v1', 'beta'])
def test_resnet(tmp_path, stem):
  scopes = Scopes()
  root = 'resnet_v1_50'
  if stem == 'v1':
    scopes.conv(f'{root}/conv1', 7, 3, 4)
    cin = 4
  else:
    scopes.conv(f'{root}/conv1_1', 3, 3, 4)
    scopes.conv(f'{root}/conv1_2', 3, 4, 4)
    scopes.conv(f'{root}/conv1_3', 3, 4, 8)
    cin = 8
  for block, (units, width) in enumerate(
    ((2, 4), (2, 6), (2, 8), (3, 10)), start=1
  ):
    for unit in range(1, units + 1):
      scope = f'{root}/block{block}/unit_{unit}/bottleneck_v1'
      if cin != 4 * width:
        scopes.conv(f'{scope}/shortcut', 1, cin, 4 * width)
      scopes.conv(f'{scope}/conv1', 1, cin, width)
      scopes.conv(f'{scope}/conv2', 3, width, width)
      scopes.conv(f'{scope}/conv3', 1, width, 4 * width)
      cin = 4 * width
  ours = import_checkpoint(
    tmp_path,
    resnet.ResNetTiny(stem=stem),
    deeplabv3.DeepLabV3(num_classes=7),
    scopes,
  )
  same(
    ours['encoder/conv3_block2/conv_1/conv/kernel'],
    scopes.tensors[f'{root}/block2/unit_2/bottleneck_v1/conv1/weights'],
  )


def test_resnet_101_by_its_depth():
  encoder = resnet.ResNetTiny(depths=(2, 2, 23, 3))
  path = 'encoder/conv4_block23/conv_3/conv/kernel'
  assert tensor_refs(encoder, deeplabv3.DeepLabV3(7))[path].name == (
    'resnet_v1_101/block3/unit_23/bottleneck_v1/conv3/weights'
  )


def test_layers_without_a_counterpart_have_no_tensor():
  encoder = mobilenet_v2.MobileNetV2Tiny()
  for head in (lraspp.LRASPP(7), deeplabv3.DeepLabV3(7, refine='dense')):
    found = tensor_refs(encoder, head)
    nowhere = {path for path, source in found.items() if not source.name}
    assert {path.split('/')[0] for path in nowhere} == {'head'}
    if isinstance(head, deeplabv3.DeepLabV3):
      assert {path.split('/')[2] for path in nowhere} == {'refine'}
      assert found['head/classifier/bias'].name == 'logits/semantic/biases'


def test_names_in_converted_files():
  parts = (
    mobilenet_v2.MobileNetV2Tiny(top_conv=True),
    deeplabv3.DeepLabV3(7, rates=()),
  )
  found = tensor_refs(*parts, slim.CONVERTED_SYSTEM)
  wanted = {
    'encoder/stem/conv/kernel': ('MobilenetV2/Conv/weights', 'ohwi', 0),
    'encoder/block_0/depthwise/conv/kernel': (
      *('MobilenetV2/expanded_conv/depthwise/weights', '1hwo', 0),
    ),
    'encoder/block_2/project/norm/bn/bias': (
      *('MobilenetV2/expanded_conv_2/project/biases', 'same', 0),
    ),
    'head/classifier/bias': ('logits/semantic/biases', 'same', 0),
  }
  assert wanted.items() <= found.items()
  # Kernels and biases alone.
  assert {path.rsplit('/', 1)[1] for path in found} == {'kernel', 'bias'}
  found = tensor_refs(*parts, slim.OFFICIAL_SYSTEM)
  wanted = {
    'encoder/stem/conv/kernel': ('MobileNetV2/Conv2d_0_0/weights', 'ohwi', 0),
    'encoder/block_0/depthwise/norm/bn/bias': (
      *('MobileNetV2/expanded_conv_1/depthwise/biases', 'same', 0),
    ),
    'encoder/top/norm/bn/bias': (
      *('MobileNetV2/Conv2d_18_1/biases', 'same', 0),
    ),
  }
  assert wanted.items() <= found.items()
