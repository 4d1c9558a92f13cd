"""Published .tflite files in our networks, compared with LiteRT."""

import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from deeplab.inference import interpreters
from deeplab.models import layers
from deeplab.models import resizing
from deeplab.models import segmenter
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.heads import deeplabv3
from deeplab.models.heads import deeplabv3plus
from deeplab.pretrained import merge
from deeplab.pretrained import unfold_batch_norm
from deeplab.pretrained.readers import tflite_weights
from deeplab.pretrained.systems import detect

OPTIONS = layers.Options(depthwise='shifted', pointwise='matmul')
VOC = [
  f'voc/VOCdevkit/VOC2012/JPEGImages/{name}.jpg'
  for name in (
    *('2007_000039', '2007_000346', '2011_000003', '2011_000006'),
    '2011_000025',
  )
]
ADE20K = [f'ADE_val_0000000{i}.jpg' for i in (1, 2, 3)]
COCO = [
  f'coco/images/train2017/000000{i:06}.jpg'
  for i in (
    *(6818, 17627, 37777, 41888, 58636, 87038, 143931, 153299, 174482, 181666),
    *(184321, 184791, 226111, 252219, 289393, 296649, 303818, 308394, 322864),
    331352,
  )
]


def read_image(path, size):
  """Returns a photograph, uint8 [1, size, size, 3], bilinearly resized."""
  image = Image.open(path).convert('RGB')
  return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))[None]


class File:
  """A .tflite file, run by LiteRT."""

  def __init__(self, path):
    self._run = interpreters.open_litert(
      pathlib.Path(path).read_bytes(), num_threads=1
    )

  def __call__(self, x):
    self._run.set_tensor(self._run.get_input_details()[0]['index'], x)
    self._run.invoke()
    return self._run.get_tensor(self._run.get_output_details()[0]['index'])


class Imported:
  """Our network with the weights of a file."""

  def __init__(self, model, variables, tensor_refs):
    self.model, self.variables, self.tensor_refs = model, variables, tensor_refs
    self._apply = jax.jit(lambda v, x: model.apply(v, x).logits)

  def __call__(self, x, variables=None):
    return np.asarray(self._apply(variables or self.variables, x))


def import_tflite(path, model, size):
  """Imports a file into our network, for evaluation."""
  x = jnp.zeros((1, size, size, 3))
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))
  variables = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
  name, match = detect.detect_system(
    tflite_weights.read_tflite(path), model, variables
  )
  assert detect.SYSTEMS[name].batch_norms_folded
  variables = merge.merge_tensors(
    variables, match.tensors, match.tensor_refs, unused=match.unused
  )
  variables = unfold_batch_norm.set_identity_batch_norms(
    model, variables, x, match.tensor_refs
  )
  return Imported(model, variables, match.tensor_refs)


def mobile(path, alpha, output_stride, size):
  """Imports one of TF DeepLab's mobile networks of VOC."""
  model = segmenter.Segmenter(
    mobilenet_v2.MobileNetV2(
      alpha=alpha,
      rounding='slim',
      output_stride=output_stride,
      padding='same',
      options=OPTIONS,
    ),
    deeplabv3.DeepLabV3(
      num_classes=21, rates=(), align_corners=True, options=OPTIONS
    ),
    None,
    21,
  )
  return import_tflite(path, model, size)


@pytest.fixture(scope='module')
def float_voc(published):
  """The float file of VOC, in our network and in LiteRT."""
  path = published / 'models' / 'deeplabv3_mnv2_dm05_voc_257_float.tflite'
  return mobile(path, 0.5, 8, 257), File(path)


def test_float_logits_equal_the_file(published, float_voc):
  ours, file = float_voc
  for name in ('../../models/segmentation_input_rotation0.jpg', *VOC):
    path = published / 'data' / 'samples' / name
    x = read_image(path, 257) / np.float32(127.5) - 1
    wanted, got = file(x), ours(x)
    assert wanted.std() > 1
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-3)
    assert (got.argmax(-1) == wanted.argmax(-1)).mean() >= 0.999


def test_published_mask_is_reproduced(published, float_voc):
  ours, _ = float_voc
  folder = published / 'models'
  x = read_image(folder / 'segmentation_input_rotation0.jpg', 257)
  got = ours(x / np.float32(127.5) - 1)[0].argmax(-1)
  # The mask holds ten times the class: background, horse, person.
  mask = np.asarray(Image.open(folder / 'segmentation_golden_rotation0.png'))
  assert np.unique(mask).tolist() == [0, 130, 150]
  assert (10 * got == mask).mean() >= 0.99


@pytest.mark.full
def test_fine_tuning_starts_from_the_file(published, float_voc):
  ours, _ = float_voc
  folder = published / 'data' / 'camvid' / 'train' / 'images'
  paths = sorted(folder.glob('*.jpg'))[:8]
  assert len(paths) == 8
  x = np.concatenate([read_image(path, 129) for path in paths])
  x = x / np.float32(127.5) - 1
  restored = unfold_batch_norm.restore_batch_norms(
    ours.model, ours.variables, [x], ours.tensor_refs
  )
  wanted = ours(x)
  evaluated = ours(x, restored)
  np.testing.assert_allclose(evaluated, wanted, rtol=0, atol=1e-3)

  @jax.jit
  def train(variables):
    output, _ = ours.model.apply(
      variables, x, train=True, mutable=['batch_stats']
    )
    return output.logits

  # On the measured batch they are the batch's own statistics.
  error = np.std(train(restored) - wanted) / wanted.std()
  ruined = np.std(train(ours.variables) - wanted) / wanted.std()
  print(f'training mode: {error:.5f} restored, {ruined:.3f} as merged')
  assert error < 0.01
  assert ruined > 0.5


@pytest.mark.full
@pytest.mark.parametrize(
  ('name', 'alpha'),
  [
    ('deeplabv3_mnv2_dm05_pascal_quant', 0.5),
    ('deeplabv3_mnv2_pascal_quant', 1.0),
  ],
)
def test_per_tensor_quantized_files(published, name, alpha):
  path = published / 'models' / f'{name}.tflite'
  ours, file = mobile(path, alpha, 16, 513), File(path)
  agreement = []
  for photograph in VOC:
    x = read_image(published / 'data' / 'samples' / photograph, 513)
    got = ours((x - np.float32(128)) / 128).argmax(-1)
    agreement.append((got == file(x)).mean())
  print(name, np.round(agreement, 4))
  # Eight bits for all channels of a tensor.
  assert min(agreement) > 0.95
  assert np.mean(agreement) > 0.98


def asymmetric_resize(x, size, align_corners=False):
  """Resizes as TensorFlow 1 did by default, [B, h, w, C] to [B, H, W, C].

  Row i reads position i * h / H, neither pixel centers nor corners aligned: as
  corners do, with one more row and column at the end.
  """
  del align_corners
  height, width = size
  x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode='edge')
  return RESIZE(x, (height + 1, width + 1), True)[:, :height, :width]


RESIZE = resizing.resize


@pytest.mark.full
def test_per_channel_quantized_file(published, monkeypatch):
  path = published / 'models' / 'deeplabv3plus_mnv2_ade20k32_int8.tflite'
  model = segmenter.Segmenter(
    mobilenet_v2.MobileNetV2(padding='same', tap='expanded', options=OPTIONS),
    deeplabv3plus.DeepLabV3Plus(num_classes=32, rates=(), options=OPTIONS),
    None,
    32,
  )
  ours, file = import_tflite(path, model, 512), File(path)
  agreement = {'half-pixel': [], 'asymmetric': []}
  for kind in agreement:
    if kind == 'asymmetric':  # the file's
      monkeypatch.setattr(resizing, 'resize', asymmetric_resize)
      ours = Imported(model, ours.variables, ours.tensor_refs)
    for name in ADE20K:
      (photograph,) = (published / 'data/samples/ade20k').rglob(name)
      x = read_image(photograph, 512)
      got = ours((x - np.float32(127)) / np.float32(127.5)).argmax(-1)
      agreement[kind].append((got == file(x)).mean())
  print(agreement)
  assert min(agreement['asymmetric']) > 0.97
  # The effect of our sampling grid before any fine-tuning.
  assert min(agreement['half-pixel']) > 0.9


class Backbone(nn.Module):
  """An encoder whose logits are replaced by the mean of its last map."""

  encoder: nn.Module
  head = None
  auxiliary = None

  def __call__(self, images, train=False):
    return segmenter.SegmenterOutput(
      self.encoder(images, train)[-1].mean((1, 2))
    )


def test_imagenet_encoder(published):
  path = published / 'models' / 'mobilenet_v2_1.0_224_imagenet_int8.tflite'
  encoder = mobilenet_v2.MobileNetV2(
    output_stride=32, top_conv=True, padding='same', options=OPTIONS
  )
  ours = import_tflite(path, Backbone(encoder), 224)
  file, tensors = File(path), tflite_weights.read_tflite(path)
  layer = 'MobileNetV2/top/Conv2d_1x1_output'
  kernel = tensors[f'{layer}/weights'][:, 0, 0].T
  same = []
  for name in COCO:
    x = read_image(published / 'data' / 'samples' / name, 224)
    features = ours((x - np.float32(127)) / np.float32(127.5))
    logits = features @ kernel + tensors[f'{layer}/biases']
    same.append(logits.argmax() == file(x).argmax())
  print(f'{sum(same)} of {len(same)} keep their first class')
  assert len(same) == 20
  assert sum(same) >= 18
