"""Files of weights find their network; files of other things are refused."""

import numpy as np
from PIL import Image
import pytest

import deeplab
from deeplab.files import config_pages
from deeplab.pretrained import identify
from deeplab.pretrained import merge
from deeplab.pretrained import published_weights
from deeplab.pretrained.readers import safetensors
from deeplab.pretrained.systems import detect
from tests import shared
from tests.pretrained import weight_cases


@pytest.mark.parametrize(
  ('system', 'page', 'num_classes', 'fields', 'wanted'),
  [
    (
      'torchvision',
      'configs/cocoseg21_torchvision.py:lraspp_mnv3',
      21,
      {},
      {
        'encoder.name': 'mobilenet_v3_large',
        'encoder.padding': 'symmetric',
        'encoder.dilation_rule': 'torchvision',
        'head.name': 'lraspp',
        'output_stride': 16,
      },
    ),
    (
      'torchvision',
      'configs/cocoseg21_torchvision.py:deeplabv3_mnv3',
      4,
      {},
      {'head.rates': (12, 24, 36), 'auxiliary.channels': 10},
    ),
    (
      'slim',
      'configs/voc_mnv2.py:dm05',
      21,
      {},
      {
        'encoder.alpha': 0.5,
        'encoder.rounding': 'slim',
        'encoder.padding': 'same',
        'head.name': 'deeplabv3',
        'head.rates': (),
        'head.align_corners': True,
      },
    ),
    (
      'slim',
      'configs/voc_mnv2.py',
      151,
      {'encoder__tap': 'expanded', 'encoder__alpha': 0.75},
      {
        'encoder.alpha': 0.75,
        'encoder.tap': 'expanded',
        'head.name': 'deeplabv3plus',
      },
    ),
    (
      'mmseg',
      'configs/loveda_resnet.py:r18',
      7,
      {},
      {
        'encoder.name': 'resnet_18',
        'encoder.stem': 'v1c',
        'encoder.basic_dilation': 'first',
        'head.channels': 128,
        'output_stride': 8,
      },
    ),
  ],
)
def test_the_network_is_found(
  tmp_path, system, page, num_classes, fields, wanted
):
  path = tmp_path / 'weights.safetensors'
  values = weight_cases.write_network(path, system, page, num_classes, **fields)
  found = identify.load_model(str(path))
  assert found.step is None
  assert found.dataset.info.num_classes == num_classes
  for field, value in wanted.items():
    *sections, name = field.split('.')
    section = found.config.model
    for part in sections:
      section = section[part]
    assert section[name] == value, field
  loaded = merge.flatten_variables(found.variables)
  assert loaded.keys() == values.keys()
  for leaf, value in values.items():
    np.testing.assert_array_equal(loaded[leaf], value, leaf)


def test_names_of_classes_are_known_by_their_number(tmp_path):
  path = tmp_path / 'weights.safetensors'
  weight_cases.write_network(path, 'slim', 'configs/voc_mnv2.py:mobile', 19)
  info = identify.load_model(str(path)).dataset.info
  assert info.class_names[:2] == ('road', 'sidewalk')
  weight_cases.write_network(path, 'slim', 'configs/voc_mnv2.py:mobile', 3)
  info = identify.load_model(str(path)).dataset.info
  assert info.class_names == ('class 0', 'class 1', 'class 2')


def test_a_choice_is_left_to_the_user(tmp_path):
  path = tmp_path / 'weights.safetensors'
  page = 'configs/cityscapes_resnet.py:r18b,crop769,80k'
  weight_cases.write_network(path, 'mmseg', page, 19)
  pages = 'r18b,os8,crop512 or --config=.*r18b,os8,crop769'
  with pytest.raises(ValueError, match=f'fits several networks.*{pages}'):
    identify.load_model(str(path))
  found = identify.load_model(str(path), config=config_pages.load_page(page))
  assert found.config.model.head.align_corners


def test_data_of_another_config_do_not_change_the_network(tmp_path, caplog):
  """The page's network has rates that no tensor contradicts: 3, 6 and 9."""
  path = tmp_path / 'mine_os16.safetensors'
  page = 'configs/folder_torch.py:smp,v3plus,mnv2,os16'
  weight_cases.write_network(path, 'smp', page, 3)
  config = config_pages.load_page('configs/folder_mnv2.py').unlock()
  config.data.num_classes = 3
  found = identify.load_model_for_data(str(path), 'best', config)
  assert found.config.model.head.rates == (12, 24, 36)
  assert 'mine_os16.safetensors runs in the network that it tells' in (
    caplog.text
  )
  assert 'model.head.rates' in caplog.text


def test_a_config_settles_what_weights_leave_open(tmp_path):
  path = tmp_path / 'weights.safetensors'
  page = 'configs/cityscapes_resnet.py:r18b,crop769,80k'
  weight_cases.write_network(path, 'mmseg', page, 19)
  config = config_pages.load_page(page)
  found = identify.load_model_for_data(str(path), 'best', config)
  assert found.config.model.head.align_corners
  other = config_pages.load_page('configs/cityscapes_erfnet.py')
  with pytest.raises(ValueError, match='fits several networks'):
    identify.load_model_for_data(str(path), 'best', other)


def test_what_is_no_segmentation_network_is_refused(tmp_path):
  path = str(tmp_path / 'weights.safetensors')
  safetensors.write_safetensors(path, {'fc.weight': np.zeros((10, 4))}, {})
  with pytest.raises(
    ValueError, match=r'1 tensors \(fc\.weight, .* cannot predict'
  ):
    identify.load_model(path)
  with pytest.raises(
    ValueError, match=r'the encoder resnet_50 alone.*init_from=torchvision:res'
  ):
    identify.load_model('torchvision:resnet50')
  with pytest.raises(
    ValueError,
    match='did you mean torchvision:deeplabv3_resnet50',
  ):
    identify.load_model('torchvision:deeplabv3_resnet5')


def test_a_tensor_too_many_is_refused(tmp_path):
  path = str(tmp_path / 'weights.safetensors')
  weight_cases.write_network(path, 'slim', 'configs/voc_mnv2.py:mobile', 3)
  tensors = dict(safetensors.read_safetensors(path))
  tensors['MobilenetV2/extra/weights'] = np.zeros(3, np.float32)
  safetensors.write_safetensors(path, tensors, {})
  with pytest.raises(
    ValueError, match=r'almost the network of configs/voc_mnv2.*(?s:.)*extra'
  ):
    identify.load_model(path)


def test_every_published_network_has_its_page():
  networks = {
    name: weights
    for name, weights in published_weights.PUBLISHED_WEIGHTS.items()
    if weights.page
  }
  assert len(networks) == 55
  for name, weights in networks.items():
    assert name.partition(':')[0] in detect.SYSTEMS, name
    assert weights.url.startswith('http'), name
    assert weights.licence and weights.score, name
    page = config_pages.load_page(weights.page)
    if name.startswith('mmseg:'):
      digest = weights.filename.removesuffix('.pth').rpartition('-')[2]
      assert weights.digest == f'sha256:{digest}', name
      # The file's name tells what the page must be.
      assert page.model.head.align_corners == ('769x769' in name), name
      assert (page.model.multi_grid == (1, 2, 4)) == ('mg124' in name), name
      depth = page.model.encoder.name.removeprefix('resnet_')
      assert f'r{depth}' in name, name
      assert (page.model.encoder.stem == 'v1') == (f'r{depth}b' in name), name


@pytest.mark.skipif(not shared.SHARED.exists(), reason='no folder shared')
def test_a_published_tflite_file_runs_as_it_is():
  """LiteRT computes it; names of the classes come from its network."""
  models = shared.SHARED / 'models'
  path = models / 'deeplabv3_mnv2_dm05_voc_257_float.tflite'
  model = deeplab.load(f'litert:{path}')
  assert model.class_names[13] == 'horse' and model.config is None
  mask = model.predict(models / 'segmentation_input_rotation0.jpg')
  with Image.open(models / 'segmentation_golden_rotation0.png') as image:
    golden = np.asarray(image)
  assert np.mean(10 * mask == golden) >= 0.99
  with pytest.raises(ValueError, match='an exported file has no weights to'):
    model.save('never')


def test_files_that_run_as_they_are_have_no_weights(tmp_path):
  with pytest.raises(ValueError, match=r'^litert:a\.tflite runs a file as it'):
    identify.load_model('litert:a.tflite')
  (tmp_path / 'int8.tflite').write_bytes(b'')
  (tmp_path / 'int8.json').write_text('{}')
  with pytest.raises(ValueError, match=r'int8\.tflite is an exported file: wh'):
    identify.load_model(str(tmp_path / 'int8.tflite'))
  with pytest.raises(ValueError, match=r'^there is no file .*none\.tflite'):
    deeplab.load(f'litert:{tmp_path / "none.tflite"}')


@pytest.mark.skipif(not shared.SHARED.exists(), reason='no folder shared')
def test_a_published_tflite_file_predicts(tmp_path):
  models = shared.SHARED / 'models'
  model = deeplab.load(models / 'deeplabv3_mnv2_dm05_voc_257_float.tflite')
  assert len(model.class_names) == 21
  assert model.class_names[13] == 'horse'
  assert model.config.model.output_stride == 8
  photo = models / 'segmentation_input_rotation0.jpg'
  mask = model.predict(photo)
  with Image.open(models / 'segmentation_golden_rotation0.png') as image:
    golden = np.asarray(image)
  assert np.mean(10 * mask == golden) >= 0.99
  scores = model.probabilities(photo)
  assert scores.shape == (257, 257, 21)
  np.testing.assert_array_equal(scores.argmax(-1), mask)
  model.save(tmp_path / 'mine')
  again = deeplab.load(tmp_path / 'mine')
  np.testing.assert_array_equal(again.probabilities(photo), scores)


@pytest.mark.parametrize(
  'name',
  [
    'decode_head.conv_seg.bias',
    'classifier.4.bias',
    'logits/semantic/biases',
  ],
)
def test_a_file_without_its_last_layer_is_refused(tmp_path, name):
  system, page, num_classes = {
    'decode_head.conv_seg.bias': ('mmseg', 'configs/loveda_resnet.py:r18', 7),
    'classifier.4.bias': (
      'torchvision',
      'configs/cocoseg21_torchvision.py:deeplabv3_mnv3',
      21,
    ),
    'logits/semantic/biases': ('slim', 'configs/voc_mnv2.py:mobile', 21),
  }[name]
  path = str(tmp_path / 'weights.safetensors')
  weight_cases.write_network(path, system, page, num_classes)
  tensors = dict(safetensors.read_safetensors(path))
  del tensors[name]
  safetensors.write_safetensors(path, tensors, {})
  with pytest.raises(ValueError, match='no segmentation network that is'):
    identify.load_model(path)
