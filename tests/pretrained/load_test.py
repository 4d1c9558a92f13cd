import json
import os

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common
from deeplab.files import config_pages
from deeplab.models import layers
from deeplab.models import registry
from deeplab.models import segmenter
from deeplab.models.encoders import resnet
from deeplab.models.heads import fcn
from deeplab.pretrained import fetch
from deeplab.pretrained import load
from deeplab.pretrained import merge
from deeplab.pretrained import published_weights
from deeplab.pretrained import resolve
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.systems import detect
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import slim
from deeplab.pretrained.systems import torchvision
from tests.export import handmade

PUBLISHED_TINY = published_weights.PublishedWeights(
  url='https://download.example/resnet_tiny.safetensors',
  digest='',
  licence='MIT',
  encoder='resnet_tiny',
  normalization=mapping.IMAGENET_NORMALIZATION,
)


def config(**fields):
  """Returns a config with the smallest ResNet and torchvision's padding."""
  c = common.default_config()
  c.model.encoder = ml_collections.ConfigDict(
    {'name': 'resnet_tiny', 'depths': (1, 1, 1, 1)}
  )
  c.model.head = ml_collections.ConfigDict(
    {'name': 'fcn', 'stage': 4, 'channels': 8}
  )
  for path, value in fields.items():
    *sections, name = path.split('__')
    section = c
    for part in sections:
      section = section[part]
    section[name] = value
  return common.finalize_config(c)


_SHAPES = {}


def build(c, channels=3):
  """Returns the network of a config, and zeros for its variables."""
  model = registry.build_model(c.model, 3)
  images = np.zeros((1, 33, 33, channels), np.float32)
  key = (str(c.model), channels)
  if key not in _SHAPES:  # most tests have the same network
    _SHAPES[key] = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
  return model, jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), _SHAPES[key]
  )


def file_tensors(system, seed=0, whole=True, **fields):
  """Returns a file's tensors by the names of a system, and ours."""
  model, variables = build(config(**fields))
  generator = np.random.default_rng(seed)
  ours = {
    path: generator.normal(size=leaf.shape).astype(np.float32)
    for path, leaf in merge.flatten_variables(variables).items()
  }
  parts = [detect.SYSTEMS[system].encoders, detect.SYSTEMS[system].heads]
  tensors = {}
  for known, module in zip(parts, (model.encoder, model.head), strict=True):
    part = mapping.find_mapping(known, module)
    if part is None or (module is model.head and not whole):
      continue
    for path, ref in part.tensor_refs(variables).items():
      value = ours[path]
      if ref.layout == 'oihw':
        value = value.transpose(3, 2, 0, 1)
      prefix = 'backbone.' if whole and path.startswith('encoder') else ''
      tensors[prefix + ref.name] = value
  return tensors, ours


def write(tmp_path, tensors, name='resnet_tiny.safetensors', **texts):
  path = str(tmp_path / name)
  safetensors.write_safetensors(path, tensors, texts)
  return path


def no_batches():
  raise AssertionError('only folded files need images')


def start(c, channels=3, batches=no_batches):
  model, variables = build(c, channels)
  variables, manifest = load.load_initial_variables(
    c, model, variables, batches
  )
  return merge.flatten_variables(variables), manifest


def test_a_classifier_initialises_the_encoder(tmp_path):
  tensors, ours = file_tensors('torchvision', whole=False)
  tensors['fc.weight'] = np.zeros((10, 40), np.float32)
  path = write(tmp_path, tensors)
  after, manifest = start(config(init_from=path))
  for name, value in after.items():
    expected = ours[name] if name.startswith('encoder/') else 0 * value
    np.testing.assert_array_equal(value, expected)
  assert manifest.system == 'torchvision'
  assert manifest.unused == ('fc.weight',)
  assert {name.partition('/')[0] for name in manifest.kept} == {'head'}
  assert manifest.variables == sum(n.startswith('encoder/') for n in after)
  load.write_manifest(str(tmp_path), manifest)
  with open(tmp_path / 'init.json', encoding='utf-8') as f:
    written = json.load(f)
  assert written['path'] == path
  assert written['sha256'] == fetch.sha256(path)
  assert written['mean'] == [123.675, 116.28, 103.53]
  assert written['std'] == [58.395, 57.12, 57.375]
  assert written['padding'] == 'symmetric'
  assert not written['bgr']
  # Another attempt without weights removes the manifest.
  load.write_manifest(str(tmp_path), None)
  assert not (tmp_path / 'init.json').exists()


@pytest.mark.parametrize('system', ['torchvision', 'mmseg'])
def test_a_segmentation_network_initialises_the_head(tmp_path, system):
  tensors, ours = file_tensors(system)
  aux = {'torchvision': 'aux_classifier', 'mmseg': 'auxiliary_head'}[system]
  tensors[f'{aux}.4.bias'] = np.zeros(3, np.float32)
  after, manifest = start(config(init_from=write(tmp_path, tensors)))
  assert manifest.system == system
  for name, value in after.items():
    np.testing.assert_array_equal(value, ours[name])


def test_other_classes_need_init_skip(tmp_path):
  tensors, ours = file_tensors('torchvision')
  tensors['classifier.4.bias'] = np.zeros(21, np.float32)
  path = write(tmp_path, tensors)
  with pytest.raises(
    ValueError, match=r"\(3,\), 'classifier\.4\.bias' \(21,\)"
  ):
    start(config(init_from=path))
  after, manifest = start(
    config(init_from=path, init_skip='head/classifier/.*')
  )
  assert manifest.kept == ('head/classifier/bias', 'head/classifier/kernel')
  assert not after['head/classifier/kernel'].any()
  name = 'head/conv0/conv/kernel'
  np.testing.assert_array_equal(after[name], ours[name])


def test_another_head_needs_init_skip(tmp_path):
  path = write(tmp_path, file_tensors('torchvision')[0])
  other = {'model__head': ml_collections.ConfigDict({'name': 'unet'})}
  with pytest.raises(ValueError, match=r"'classifier\.4\.bias' \(3,\)"):
    start(config(init_from=path, **other))
  skip = r'head/.*|classifier\..*'
  _, manifest = start(config(init_from=path, init_skip=skip, **other))
  assert 'classifier.4.bias' in manifest.unused


def test_the_system_can_be_given(tmp_path):
  path = write(tmp_path, file_tensors('torchvision')[0])
  after, manifest = start(config(init_from=f'torchvision:{path}'))
  assert (manifest.system, manifest.path) == ('torchvision', path)
  assert after['head/classifier/kernel'].any()
  with pytest.raises(ValueError, match="wanted 'encoder/conv2_block1"):
    start(config(init_from=f'deeplab:{path}'))


def test_a_system_without_the_encoder_fails(tmp_path):
  path = write(tmp_path, file_tensors('torchvision')[0])
  with pytest.raises(
    ValueError, match='mmseg has no mapping of the encoder mobilenet'
  ):
    start(
      config(
        init_from=f'mmseg:{path}',
        model__encoder=ml_collections.ConfigDict({'name': 'mobilenet_v2_tiny'}),
      )
    )


def test_an_unknown_file_reports_the_found_share(tmp_path):
  path = write(tmp_path, {'x.weight': np.zeros(3, np.float32)})
  with pytest.raises(ValueError, match=r'ResNetTiny.*torchvision 0%'):
    start(config(init_from=path))


@pytest.fixture
def published(tmp_path, monkeypatch):
  """Published weights whose file is in the cache."""
  monkeypatch.setitem(
    published_weights.PUBLISHED_WEIGHTS, 'torchvision:tiny', PUBLISHED_TINY
  )
  monkeypatch.setenv('DEEPLAB_CACHE', str(tmp_path))
  os.makedirs(tmp_path / 'weights')
  tensors, ours = file_tensors('torchvision', whole=False)
  write(tmp_path / 'weights', tensors)
  return ours


def test_published_weights_by_name(published):
  after, manifest = start(config(init_from='torchvision:tiny'))
  assert (manifest.url, manifest.licence) == (PUBLISHED_TINY.url, 'MIT')
  kernel = 'encoder/stem_1/conv/kernel'
  np.testing.assert_array_equal(after[kernel], published[kernel])
  line = resolve.describe_init_from('torchvision:tiny')
  assert PUBLISHED_TINY.url in line and 'MIT' in line and ', at /' in line


def test_a_file_name_of_published_weights_is_recognized(published, tmp_path):
  path = str(tmp_path / 'weights' / PUBLISHED_TINY.filename)
  _, manifest = start(config(init_from=path))
  assert manifest.url == PUBLISHED_TINY.url


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'data__mean': (127.5, 127.5, 127.5)},
      r'set config\.data\.mean=\(123\.675, 116\.28, 103\.53\)',
    ),
    ({'data__std': (57.0, 57.12, 57.375)}, r'config\.data\.std=\(58\.395'),
    (
      {'model__encoder__padding': 'same'},
      r"set config\.model\.encoder\.padding='symmetric'",
    ),
    (
      {'model__encoder__bn_epsilon': 1e-3},
      r'set config\.model\.encoder\.bn_epsilon=1e-05',
    ),
    (
      {'model__encoder__name': 'resnet_18'},
      r"set config\.model\.encoder\.name='resnet_tiny'",
    ),
  ],
)
def test_a_contradicting_config_fails(published, fields, message):
  with pytest.raises(ValueError, match=message):
    start(config(init_from='torchvision:tiny', **fields))


def test_a_mean_within_one_percent_passes(published):
  start(config(init_from='torchvision:tiny', data__mean=(123.0, 116.0, 104.0)))


def test_bgr_kernels_are_reversed(published, monkeypatch):
  parts = torchvision.SYSTEM.encoders
  turned = parts[resnet.ResNet]._replace(bgr=True)
  monkeypatch.setitem(parts, resnet.ResNet, turned)
  kernel = 'encoder/stem_1/conv/kernel'
  after, manifest = start(config(init_from='torchvision:tiny'))
  np.testing.assert_array_equal(after[kernel], published[kernel][:, :, ::-1])
  assert manifest.bgr


def test_a_grey_image_sums_over_rgb(published):
  c = config(
    init_from='torchvision:tiny', data__mean=(117.0,), data__std=(57.0,)
  )
  after, _ = start(c, channels=1)
  kernel = 'encoder/stem_1/conv/kernel'
  np.testing.assert_allclose(
    after[kernel][:, :, 0], published[kernel].sum(axis=2), rtol=1e-6
  )


def test_an_unknown_name_fails(tmp_path):
  with pytest.raises(ValueError, match=r"'torchvision:resnet19' is neither"):
    start(config(init_from='torchvision:resnet19'))


def test_our_own_weights_check_the_config(tmp_path):
  c = config()
  tensors = flax.traverse_util.flatten_dict(build(c)[1], sep='/')
  ours = {name.partition('/')[2]: x + 1 for name, x in tensors.items()}
  path = write(tmp_path, ours, config=json.dumps(c.to_dict()))
  after, manifest = start(config(init_from=path))
  assert manifest.system == 'deeplab' and not manifest.kept
  assert all((value == 1).all() for value in after.values())
  with pytest.raises(ValueError, match=r'set config\.data\.mean'):
    start(config(init_from=path, data__mean=(0.0, 0.0, 0.0)))
  with pytest.raises(ValueError, match=r"encoder\.padding='symmetric'"):
    start(config(init_from=path, model__encoder__padding='same'))


def folded_file(path, variables, model):
  """Writes a .tflite file with the names of a network's layers, untrained."""
  generator = np.random.default_rng(0)
  refs = {}
  for known, module in (
    (slim.CONVERTED_SYSTEM.encoders, model.encoder),
    (slim.CONVERTED_SYSTEM.heads, model.head),
  ):
    refs |= mapping.find_mapping(known, module).tensor_refs(variables)
  leaves, tensors = merge.flatten_variables(variables), {}
  for ours, ref in refs.items():
    value = generator.normal(size=leaves[ours].shape, scale=0.3)
    tensors[ref.name] = {
      'ohwi': lambda x: x.transpose(3, 0, 1, 2),
      '1hwo': lambda x: x.transpose(2, 0, 1, 3),
      'same': lambda x: x,
    }[ref.layout](value.astype(np.float32))
  constants = [
    handmade.tensor(name, 'float32', value.shape, data=value)
    for name, value in tensors.items()
  ]
  index = {name: i + 1 for i, name in enumerate(tensors)}
  operators = [
    (
      'DEPTHWISE_CONV_2D' if tensors[name].shape[0] == 1 else 'CONV_2D',
      [0, index[name], index[name.replace('/weights', '/biases')]],
      [0],
    )
    for name in tensors
    if name.endswith('/weights')
  ]
  image = handmade.tensor('image', 'float32', (1, 33, 33, 3))
  path.write_bytes(handmade.build([image, *constants], operators, [0], [0]))
  return tensors


def test_batch_norms_of_a_folded_file_are_restored(tmp_path, monkeypatch):
  monkeypatch.setattr(load, 'BATCH_NORM_IMAGES', 12)
  path = tmp_path / 'model.tflite'
  c = config(
    init_from=str(path),
    batch_size=8,
    data__mean=(127.5,) * 3,
    data__std=(127.5,) * 3,
    model__dtype='bfloat16',
    model__encoder={'name': 'mobilenet_v2_tiny', 'padding': 'same'},
    model__head={'name': 'deeplabv3', 'channels': 8, 'rates': ()},
  )
  model, variables = build(c)
  tensors = folded_file(path, variables, model)
  images = np.random.default_rng(1).normal(size=(3, 8, 33, 33, 3))
  images = images.astype(np.float32)
  closed = []

  def batches():
    try:
      for batch in images:
        yield {'image': batch}
    finally:
      closed.append(True)

  after, manifest = start(c, batches=batches)
  assert manifest.system == 'slim_folded' and closed == [True]
  assert manifest.variables == len(tensors) and not manifest.kept
  assert manifest.variables + manifest.measured == len(after)
  bn = {x: after[f'encoder/stem/norm/bn/{x}'] for x in ('scale', 'bias')}
  bn |= {x: after[f'encoder/stem/norm/bn/{x}'] for x in ('mean', 'var')}
  # Twelve images are two batches of eight: the third is not read.
  maps = jax.lax.conv_general_dilated(
    images[:2].reshape(16, 33, 33, 3),
    after['encoder/stem/conv/kernel'],
    (2, 2),
    ((1, 1), (1, 1)),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  np.testing.assert_allclose(bn['mean'], maps.mean((0, 1, 2)), atol=1e-5)
  np.testing.assert_allclose(bn['var'], maps.var((0, 1, 2)), rtol=1e-4)
  np.testing.assert_allclose(
    bn['bias'] - bn['mean'], tensors['MobilenetV2/Conv/biases'], atol=1e-5
  )
  with pytest.raises(ValueError, match=r'set config\.data\.mean=\(127\.5'):
    c.data.mean = (123.7, 116.3, 103.5)
    start(c, batches=batches)


def test_tensorflow_checkpoints_by_every_path(tmp_path):
  index = tmp_path / 'model.ckpt-7.index'
  index.touch()
  for path in (tmp_path, tmp_path / 'model.ckpt-7', index):
    assert resolve.resolve_init_from(str(path)) == resolve.WeightsSpec(
      '', str(index), None
    )
    assert resolve.resolve_init_from(f'slim:{path}') == resolve.WeightsSpec(
      'slim', str(index), None
    )


ENTRIES = published_weights.PUBLISHED_WEIGHTS


def test_published_files_have_names_of_their_own():
  names = [entry.filename for entry in ENTRIES.values()]
  assert len(set(names)) == len(names)
  assert (
    ENTRIES['paddleseg:mobileseg_ghostnet_x1_0_cityscapes'].filename
    == 'mobileseg_ghostnet_cityscapes_1024x512_80k_model.pdparams'
  )


@pytest.mark.parametrize(
  'name', [x for x in sorted(ENTRIES) if ENTRIES[x].page]
)
def test_published_networks_have_importers(name):
  """The system maps the encoder and the heads of the page."""
  entry = ENTRIES[name]
  system = detect.SYSTEMS[name.partition(':')[0]]
  model = config_pages.load_page(entry.page).model
  encoder = registry.ENCODERS[model.encoder.name]()
  assert mapping.find_mapping(system.encoders, encoder) is not None
  head = registry.HEADS[model.head.name](num_classes=2)
  assert mapping.find_mapping(system.heads, head) is not None
  required = resolve._requirements_of_published(entry)
  assert required.model['encoder.name'] == model.encoder.name
  assert required.model['head.name'] == model.head.name
  assert entry.url.startswith('http') and entry.licence


@pytest.mark.parametrize(
  'name', [x for x in sorted(ENTRIES) if not ENTRIES[x].page]
)
def test_published_weights_fit_our_classes(name):
  """Every required field of published weights and systems is in our class."""
  entry = ENTRIES[name]
  system = detect.SYSTEMS[name.partition(':')[0]]
  encoder = registry.ENCODERS[entry.encoder]
  part = mapping.find_mapping(system.encoders, encoder())
  assert part is not None
  required = {f'encoder.{field}' for field in part.fields} | set(entry.model)
  allowed = {f'encoder.{field}' for field in registry.config_fields(encoder)}
  if entry.head:
    head = registry.HEADS[entry.head]
    allowed |= {f'head.{field}' for field in registry.config_fields(head)}
    assert mapping.find_mapping(system.heads, head(num_classes=2)) is not None
  required |= set(entry.trained) - {'output_stride'}
  assert required <= allowed
  assert entry.url.startswith('https://') and entry.licence


def test_a_wrong_normalization_fails_before_the_download(tmp_path, monkeypatch):
  monkeypatch.setitem(
    published_weights.PUBLISHED_WEIGHTS, 'torchvision:tiny', PUBLISHED_TINY
  )
  monkeypatch.setenv('DEEPLAB_CACHE', str(tmp_path))
  fetched = []
  monkeypatch.setattr(fetch, 'fetch_weights', fetched.append)
  with pytest.raises(ValueError, match=r'set config\.data\.mean'):
    start(config(init_from='torchvision:tiny', data__mean=(1.0, 1.0, 1.0)))
  assert not fetched


def test_other_channels_or_bits_are_not_checked(published):
  """The right normalization of such images is unknown."""
  kernel = 'encoder/stem_1/conv/kernel'
  c = config(init_from='torchvision:tiny').unlock()
  c.data.mean, c.data.std = (9.0,) * 4, (3.0,) * 4
  after, _ = start(c, channels=4)
  expected = 0.75 * published[kernel].mean(axis=2)
  np.testing.assert_allclose(after[kernel][:, :, 3], expected, rtol=1e-5)
  c.data.mean, c.data.std, c.data.depth = (9000.0,) * 3, (3000.0,) * 3, 16
  after, _ = start(c)
  np.testing.assert_array_equal(after[kernel], published[kernel])


@pytest.mark.parametrize(
  'name', [name for name in registry.ENCODERS if name.endswith('_tiny')]
)
def test_the_first_kernel_of_each_encoder_is_found(name):
  encoder = registry.ENCODERS[name]()
  paths = []
  for channels in (3, 4):
    images = np.zeros((1, 65, 65, channels), np.float32)
    shapes = jax.eval_shape(
      lambda: encoder.init(jax.random.key(0), images, False)  # noqa: B023
    )
    leaves = merge.flatten_variables({'params': {'encoder': shapes['params']}})
    paths.append({path: leaf.shape for path, leaf in leaves.items()})
  three, four = paths
  changed = {path for path in three if three[path] != four[path]}
  if name.startswith('erfnet'):  # whose pooled image is a second output
    changed -= {'encoder/down1/conv/bias'}
  (path,) = changed
  head = fcn.FCN(num_classes=2)
  model = segmenter.Segmenter(encoder, head, None, 2)
  assert f'{segmenter.find_first_conv(model, 4)}/kernel' == path
  assert four[path][2] == 4


def test_bgr_and_channels_change_a_first_kernel_of_any_name():
  class Renamed(nn.Module):
    """An encoder whose first layer is not called stem."""

    @nn.compact
    def __call__(self, images, train):
      x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
      x = layers.Conv(4, kernel=3, stride=2, name='entry')(x)
      return (layers.Conv(4, name='second')(x),)

  model = segmenter.Segmenter(Renamed(), fcn.FCN(num_classes=2), None, 2)
  assert segmenter.find_first_conv(model, 3) == 'encoder/entry'
  kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
  ((path, edit),) = merge.first_kernel_edits(True, model, 3).items()
  assert path == 'encoder/entry/kernel'
  np.testing.assert_array_equal(edit(kernel), kernel[:, :, ::-1])
  ((_, edit),) = merge.first_kernel_edits(False, model, 4).items()
  assert edit(kernel).shape == (3, 3, 4, 4)
