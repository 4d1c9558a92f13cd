"""Padding, resizing, windows and views leave every pixel in its place."""

from concurrent import futures
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from configs import shapes_mnv2
from deeplab.data import image_format
from deeplab.inference import predictors
from deeplab.inference import views
from deeplab.models import registry
from tests.inference import predictors_test


def eval_config(**changes):
  """Returns a complete `config.eval`."""
  config = ConfigDict(
    {
      'batch_size': 3,
      'mode': 'whole',
      'window': (16, 16),
      'stride': (10, 10),
      'static_size': (16, 16),
      'fit': (),
      'resize_labels': False,
      'loss': False,
      'scales': (1.0,),
      'flip': False,
      'output_stride': 0,
      'boundary_share': 0.02,
      'pad_multiple': 8,
      'pad_offset': 0,
      'pad_size': (),
      'max_padding': 0.0,
    }
  )
  config.update(changes)
  return config


class FakePredictor:
  """A predictor that applies a function and records the shapes of batches."""

  batch_size = None
  mean = (10.4, 20.0, 30.0)

  def __init__(self, logits, output='logits', input_size=None, shapes=None):
    self.logits = logits
    self.output = output
    self.input_size = input_size
    self.shapes = [] if shapes is None else shapes

  def with_output(self, output):
    return FakePredictor(self.logits, output, self.input_size, self.shapes)

  def __call__(self, images):
    self.shapes.append(images.shape)
    logits = self.logits(np.asarray(images, np.float32))
    if self.output == 'logits':
      return logits
    if self.output == 'softmax':
      return predictors.softmax(logits)
    return predictors.argmax(logits)


def channels(images):
  """Returns the pixels as logits: the class is the brightest channel."""
  return images


def random_images(sizes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


SIZES = ((20, 31), (8, 8), (17, 26), (23, 25), (5, 40))


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'pad_multiple': 1},
    {'pad_offset': 1},
    {'mode': 'slide'},
    {'mode': 'slide', 'window': (7, 9), 'stride': (7, 5)},
    {'flip': True},
    {'mode': 'slide', 'flip': True},
  ],
)
def test_pixelwise_predictions_are_equal_in_every_protocol(changes):
  images = random_images(SIZES)
  results = views.segment_images(
    FakePredictor(channels), images, eval_config(**changes)
  )
  for image, ids in zip(images, results, strict=True):
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, image.argmax(-1))


@pytest.mark.parametrize(
  ('size', 'offset', 'padded'),
  [
    ((500, 375), 0, (512, 384)),
    ((512, 32), 0, (512, 32)),
    ((500, 375), 1, (513, 385)),
    ((513, 1), 1, (513, 1)),
  ],
)
def test_padded_sizes(size, offset, padded):
  config = eval_config(pad_multiple=32, pad_offset=offset)
  assert views.padded_size(size, config) == padded


def test_batches_hold_images_of_one_padded_size():
  fake = FakePredictor(channels)
  views.segment_images(fake, random_images(SIZES), eval_config())
  # 20x31, 17x26 and 23x25 all become 24x32.
  assert sorted(fake.shapes) == [
    (1, 8, 8, 3),
    (1, 8, 40, 3),
    (3, 24, 32, 3),
  ]


def test_windows_of_all_images_share_batches_and_cover_everything():
  fake = FakePredictor(channels)
  images = random_images([(16, 36), (30, 10)])
  config = eval_config(mode='slide', batch_size=4)
  views.segment_images(fake, images, config)
  # 3 windows, and 3 of the second image, which is padded to 30x16.
  assert fake.shapes == [(4, 16, 16, 3), (2, 16, 16, 3)]


@pytest.mark.parametrize(
  ('length', 'window', 'stride', 'starts'),
  [
    (10, 10, 5, [0]),
    (6, 10, 5, [0]),
    (11, 10, 5, [0, 1]),
    (20, 10, 5, [0, 5, 10]),
    (21, 10, 5, [0, 5, 10, 11]),
    (21, 7, 7, [0, 7, 14]),
  ],
)
def test_window_starts(length, window, stride, starts):
  assert views.window_starts(length, window, stride) == starts


def test_overlapping_windows_are_averaged():
  # Class 1's logit is the column within the window, class 0's is 4.2. On a
  # row of 12, windows of 8 at 0 and 4: columns 4..7 average (c + c - 4) / 2.
  def ramp(images):
    columns = np.broadcast_to(np.arange(8.0), images.shape[:3])
    return np.stack([np.full(images.shape[:3], 4.2), columns], -1)

  config = eval_config(mode='slide', window=(8, 8), stride=(8, 4))
  ids = views.segment_images(
    FakePredictor(ramp), random_images([(8, 12)]), config
  )[0]
  np.testing.assert_array_equal(ids[0], [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 1])


def blur(images):
  """Returns logits that depend on neighbors and on the image border."""
  result = []
  for image in np.asarray(images, np.float32):
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    shifts = [
      padded[y : y + len(image), x : x + image.shape[1]]
      for y in range(7)
      for x in range(7)
    ]
    result.append(np.mean(shifts, 0))
  return np.stack(result)


@pytest.mark.parametrize('window', [(24, 40), (64, 64), (17, 35)])
def test_one_window_over_an_image_is_the_whole_image_exactly(window):
  images = random_images([(20, 31), (24, 40), (17, 34)])
  whole = views.whole_inference(FakePredictor(blur), images, eval_config())
  config = eval_config(mode='slide', window=window, stride=(10, 10))
  for one, other in zip(
    views.sliding_window_inference(FakePredictor(blur), images, config),
    whole,
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)


def test_one_window_of_a_network_is_the_whole_image_exactly():
  config = shapes_mnv2.get_config('smoke')
  model = registry.build_model(
    config.model, 3, depthwise='conv', pointwise='conv'
  )
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  predictor = predictors.FlaxPredictor(
    model, variables, config.data.mean, config.data.std
  )
  images = random_images([(60, 90)])
  section = eval_config(pad_multiple=32, window=(64, 96), stride=(32, 32))
  (whole,) = views.whole_inference(predictor, images, section)
  (one,) = views.sliding_window_inference(predictor, images, section)
  np.testing.assert_array_equal(one, whole)
  assert np.ptp(whole) > 0
  # Windows of 57x90 would be computed on another grid: they grow to 64x96.
  section.window = (57, 90)
  (grown,) = views.sliding_window_inference(predictor, images, section)
  np.testing.assert_array_equal(grown, whole)


def test_windows_equal_a_loop_over_crops():
  (image,) = random_images([(37, 45)])
  config = eval_config(
    mode='slide', window=(16, 24), stride=(9, 10), pad_multiple=1, batch_size=4
  )
  (got,) = views.sliding_window_inference(FakePredictor(blur), [image], config)
  total, times = np.zeros((37, 45, 3)), np.zeros((37, 45, 1))
  for y in (0, 9, 18, 21):
    for x in (0, 10, 20, 21):
      total[y : y + 16, x : x + 24] += blur(
        image[None, y : y + 16, x : x + 24]
      )[0]
      times[y : y + 16, x : x + 24] += 1
  np.testing.assert_allclose(got, total / times, rtol=0, atol=1e-4)


def test_windows_off_the_grid_grow_with_pixels_of_the_image():
  (image,) = random_images([(37, 45)])
  config = eval_config(mode='slide', window=(15, 18), stride=(9, 17))
  fake = FakePredictor(blur)
  (got,) = views.sliding_window_inference(fake, [image], config)
  total, times = np.zeros((37, 45, 3)), np.zeros((37, 45, 1))
  for y in (0, 9, 18, 21):  # 16 rows, to 37
    for x in (0, 17, 21):  # 24 columns, to 45
      crop = image[None, y : y + 16, x : x + 24]
      total[y : y + 16, x : x + 24] += blur(crop)[0]
      times[y : y + 16, x : x + 24] += 1
  np.testing.assert_allclose(got, total / times, rtol=0, atol=1e-4)
  (ids,) = views.segment_images(fake, [image], config)
  assert ids.dtype == np.uint8
  np.testing.assert_array_equal(ids, got.argmax(-1))
  assert {shape[1:3] for shape in fake.shapes} == {(16, 24)}


@pytest.mark.parametrize(
  ('changes', 'shapes'),
  [
    # Windows for what is above the limit, and the whole below it.
    ({}, {(16, 16)}),
    ({'scales': (0.5, 1.0), 'flip': True}, {(16, 16)}),
    ({'mode': 'slide', 'window': (24, 40), 'stride': (24, 40)}, {(24, 40)}),
    ({'mode': 'static', 'static_size': (20, 10)}, {(20, 10)}),
    # Fitted into 24x20, which may be computed whole; 48x39 may not.
    ({'fit': (24, 24)}, {(24, 24)}),
    ({'fit': (48, 48)}, {(16, 16)}),
  ],
)
def test_large_images_are_computed_in_parts(changes, shapes):
  fake = FakePredictor(channels)
  image = np.zeros((64, 52, 3), np.uint8)
  image[:31, :25, 1] = image[31:, 25:, 2] = 60
  config = eval_config(**changes)
  ids = views.segment_large_image(fake, image, config, max_pixels=600)
  assert ids.shape == (64, 52) and ids.dtype == np.uint8
  sharp = np.ones((64, 52), bool)  # resizing blurs the edges of the squares
  sharp[26:36] = sharp[:, 20:30] = False
  np.testing.assert_array_equal(ids[sharp], image.argmax(-1)[sharp])
  assert {shape[1:3] for shape in fake.shapes} == shapes


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('scales', [(1.0,), (0.75, 1.0, 1.25)])
@pytest.mark.parametrize(
  ('window', 'stride'),
  [
    ((16, 16), (16, 16)),
    ((17, 17), (1, 5)),
    ((15, 23), (15, 7)),
    ((97, 9), (97, 9)),
  ],
)
def test_all_that_is_computed_has_a_size_of_the_grid(
  window, stride, scales, offset
):
  fake = FakePredictor(channels)
  images = [
    np.tile(np.eye(3, dtype=np.uint8)[i % 3] * 99, (*size, 1))
    for i, size in enumerate(SIZES)
  ]
  config = eval_config(
    mode='slide',
    window=window,
    stride=stride,
    scales=scales,
    pad_offset=offset,
  )
  results = views.segment_images(fake, images, config)
  for i, (ids, size) in enumerate(zip(results, SIZES, strict=True)):
    np.testing.assert_array_equal(ids, np.full(size, i % 3))
  computed = {n for shape in fake.shapes for n in shape[1:3]}
  assert {(n - offset) % 8 for n in computed} == {0}


_TILE = """
import resource
import numpy as np
from configs import potsdam_resnet
from deeplab.inference import predictors
from deeplab.inference import views
from deeplab.models import registry
import jax, jax.numpy as jnp

config = potsdam_resnet.get_config('smoke').unlock()
config.eval.mode, config.eval.batch_size = 'slide', 4
config.eval.window, config.eval.stride = (512, 512), (341, 341)
model = registry.build_model(
  config.model, 6, depthwise='conv', pointwise='conv'
)
variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
predictor = predictors.FlaxPredictor(
  model, variables, config.data.mean, config.data.std
)
tile = np.random.default_rng(0).integers(0, 256, (6000, 6000, 3), np.uint8)
(ids,) = views.segment_images(predictor, [tile], config.eval)
assert ids.shape == (6000, 6000) and len(np.unique(ids)) > 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss is in KiB there')
def test_an_aerial_tile_takes_less_than_two_gib():
  done = subprocess.run(
    [sys.executable, '-c', _TILE], capture_output=True, text=True, check=True
  )
  peak = int(done.stdout.split()[-1]) / 2**20
  print(f'peak {peak:.2f} GiB')
  assert peak < 2


def test_padding_has_the_mean_color_and_is_cut_off():
  batches = []

  def record(images):
    batches.append(images)
    return images

  image = np.full((3, 5, 3), 200, np.uint8)
  ids = views.segment_images(FakePredictor(record), [image], eval_config())[0]
  assert ids.shape == (3, 5)
  assert batches[0].shape == (1, 8, 8, 3)
  assert batches[0][0, 2, 4].tolist() == [200, 200, 200]
  assert batches[0][0, 3, 0].tolist() == [10, 20, 30]
  assert batches[0][0, 0, 5].tolist() == [10, 20, 30]


def test_a_canvas_is_filled_with_the_mean_color_before_everything_else():
  batches = []

  def record(images):
    batches.append(images)
    return images

  image = np.full((5, 7, 3), 200, np.uint8)
  config = eval_config(pad_size=(17, 9), pad_offset=1)
  (ids,) = views.segment_images(FakePredictor(record), [image], config)
  assert ids.shape == (5, 7)
  assert [x.shape for x in batches] == [(1, 17, 9, 3)]
  np.testing.assert_array_equal(batches[0][0, :5, :7], 200)
  np.testing.assert_array_equal(batches[0][0, 5:], [[[10, 20, 30]] * 9] * 12)
  np.testing.assert_array_equal(batches[0][0, :5, 7:], [[[10, 20, 30]] * 2] * 5)
  # Views scale and mirror all of it.
  batches.clear()
  config.scales, config.flip = (1.0, 1.5), True
  views.segment_images(FakePredictor(record), [image], config)
  shapes = [(1, 17, 9, 3), (1, 17, 9, 3), (1, 25, 17, 3), (1, 25, 17, 3)]
  assert [x.shape for x in batches] == shapes  # 13 columns, a multiple of 8 + 1
  np.testing.assert_array_equal(batches[1], batches[0][:, :, ::-1])


@pytest.mark.parametrize(
  'changes',
  [{}, {'scales': (0.5, 1.0), 'flip': True}, {'mode': 'slide'}],
)
def test_pixels_stay_in_place_on_a_canvas(changes):
  images = [
    np.kron(np.eye(3, dtype=np.uint8)[ids] * 99, np.ones((8, 8, 1), np.uint8))
    for ids in ([[0, 1, 2], [2, 2, 1]], [[1, 0], [0, 2], [1, 2]])
  ]
  config = eval_config(pad_size=(32, 24), **changes)
  results = views.segment_images(FakePredictor(channels), images, config)
  for image, ids in zip(images, results, strict=True):
    expected = image.argmax(-1)
    assert ids.shape == expected.shape
    inside = (np.indices(ids.shape) % 8 >= 2) & (np.indices(ids.shape) % 8 < 6)
    inside = inside.all(axis=0)  # scaled views blur the edges
    np.testing.assert_array_equal(ids[inside], expected[inside])


def test_images_beyond_the_canvas_are_padded_as_without_one():
  fake = FakePredictor(channels)
  config = eval_config(pad_size=(17, 17), pad_offset=1)
  views.segment_images(fake, random_images([(20, 10)]), config)
  assert fake.shapes == [(1, 25, 17, 3)]


def test_flip_averages_probabilities_of_mirrored_images():
  # The left half is class 1 and the right half class 2, whatever the image
  # shows; class 1 is the surer one.
  def left(images):
    b, h, w, _ = images.shape
    logits = np.zeros((b, h, w, 3), np.float32)
    logits[:, :, : w // 2, 1] = 3.0
    logits[:, :, w // 2 :, 2] = 2.0
    return logits

  image = random_images([(8, 16)])[0]
  plain = views.segment_images(FakePredictor(left), [image], eval_config())[0]
  flipped = views.segment_images(
    FakePredictor(left), [image], eval_config(flip=True)
  )[0]
  assert np.unique(plain[:, :8]).tolist() == [1]
  assert np.unique(plain[:, 8:]).tolist() == [2]
  # Mean probabilities, by hand: class 1 (e^3/(e^3+2) + 1/(e^2+2)) / 2 = .508,
  # class 2 (1/(e^3+2) + e^2/(e^2+2)) / 2 = .416, on both sides.
  assert np.unique(flipped).tolist() == [1]


def test_scales_average_probabilities_not_logits():
  # At two sizes class 1 leads by 2 (softmax .88), at one class 0 leads by 10:
  # the mean probability of class 1 is .59, the mean logits say class 0.
  def by_size(images):
    logits = np.zeros((*images.shape[:3], 2), np.float32)
    if images.shape[2] == 16:
      logits[..., 0] = 10.0
    else:
      logits[..., 1] = 2.0
    return logits

  config = eval_config(scales=(1.0, 0.5, 1.5))
  image = random_images([(16, 16)])[0]
  fake = FakePredictor(by_size)
  assert np.unique(views.segment_images(fake, [image], config)[0]) == [1]
  assert fake.shapes == [(1, 16, 16, 3), (1, 8, 8, 3), (1, 24, 24, 3)]


def test_scaled_views_are_aligned():
  image = np.zeros((24, 40, 3), np.uint8)
  image[:, :20, 1] = 60
  image[:, 20:, 2] = 60
  config = eval_config(scales=(0.5, 1.0, 1.5), flip=True)
  ids = views.segment_images(FakePredictor(channels), [image], config)[0]
  np.testing.assert_array_equal(ids[:, :20], 1)
  np.testing.assert_array_equal(ids[:, 20:], 2)


@pytest.mark.parametrize(
  ('size', 'frame', 'scale', 'expected'),
  [
    # Cityscapes by mmsegmentation's scales; halves are rounded up.
    ((1024, 2048), (), 0.75, (768, 1536)),
    ((1025, 2049), (), 0.5, (513, 1025)),
    ((375, 500), (), 1.25, (469, 625)),
    ((375, 500), (), 1.75, (656, 875)),
    # ADE20K and VOC: the shorter side is 512, unless the longer one is 2048.
    ((375, 500), (2048, 512), 1.0, (512, 683)),
    ((500, 375), (2048, 512), 1.0, (683, 512)),
    ((100, 1000), (2048, 512), 1.0, (205, 2048)),
    ((375, 500), (520, 520), 1.0, (390, 520)),
  ],
)
def test_view_sizes(size, frame, scale, expected):
  assert views.view_size(size, frame, scale) == expected


@pytest.mark.parametrize('mode', ['whole', 'slide'])
def test_images_are_fitted_into_a_frame_and_back(mode):
  fake = FakePredictor(channels)
  image = np.zeros((12, 20, 3), np.uint8)
  image[:, :10, 1] = image[:, 10:, 2] = 60
  config = eval_config(fit=(80, 24), mode=mode, window=(24, 40))
  ids = views.segment_images(fake, [image], config)[0]
  np.testing.assert_array_equal(ids[:, :10], 1)
  np.testing.assert_array_equal(ids[:, 10:], 2)
  assert fake.shapes == [(1, 24, 40, 3)]


def test_logits_are_resized_before_the_softmax():
  # Halfway between logits (8, 0) and (0, 1) class 0 leads; the mean of the
  # probabilities (1, 0) and (.27, .73) says so too, but a quarter of the way
  # from the second, (2, .75) against (.45, .55), they differ.
  def slope(images):
    logits = np.zeros((*images.shape[:3], 2), np.float32)
    logits[:, :, 0, 0], logits[:, :, 1, 1] = 8.0, 1.0
    return logits

  image = np.zeros((2, 4, 3), np.uint8)
  config = eval_config(scales=(0.5,), pad_multiple=1)
  ids = views.segment_images(FakePredictor(slope), [image], config)[0]
  np.testing.assert_array_equal(ids, [[0, 0, 0, 1]] * 2)
  softmax = FakePredictor(slope, 'softmax')
  softmax.with_output = lambda output: softmax  # a file that has no logits
  ids = views.segment_images(softmax, [image], config)[0]
  np.testing.assert_array_equal(ids, [[0, 0, 1, 1]] * 2)


def test_a_single_scale_other_than_one():
  fake = FakePredictor(channels)
  image = random_images([(16, 24)])[0]
  ids = views.segment_images(fake, [image], eval_config(scales=(2.0,)))[0]
  assert ids.shape == (16, 24)
  assert fake.shapes == [(1, 32, 48, 3)]


def test_resized_images_share_batches_across_image_sizes():
  fake = FakePredictor(channels, input_size=(16, 16))
  results = views.segment_images(fake, random_images(SIZES), eval_config())
  assert [x.shape for x in results] == list(SIZES)
  assert fake.shapes == [(3, 16, 16, 3), (2, 16, 16, 3)]


def test_static_mode_equals_a_file_of_that_size():
  images = random_images(SIZES)
  fake = FakePredictor(channels)
  got = views.segment_images(fake, images, eval_config(mode='static'))
  assert fake.shapes == [(3, 16, 16, 3), (2, 16, 16, 3)]
  file = FakePredictor(channels, input_size=(16, 16))
  for one, other in zip(
    got, views.segment_images(file, images, eval_config()), strict=True
  ):
    np.testing.assert_array_equal(one, other)


def test_a_predictor_of_one_size_slides_windows_of_that_size():
  fake = FakePredictor(channels, input_size=(16, 16))
  images = random_images(SIZES)
  results = views.segment_images(fake, images, eval_config(mode='slide'))
  for image, ids in zip(images, results, strict=True):
    np.testing.assert_array_equal(ids, image.argmax(-1))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mode': 'tiles'}, "mode='tiles'"),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'scales': ()}, 'scales'),
    ({'scales': (1.0, -1.0)}, 'scales'),
    ({'fit': (512,)}, 'fit='),
    ({'fit': (512, 0)}, 'fit='),
    ({'pad_size': (513,)}, 'pad_size='),
    ({'pad_size': (513, 0)}, 'pad_size='),
    ({'pad_size': (513, 513), 'fit': (64, 32)}, 'use \\(\\) for one'),
    ({'mode': 'static', 'flip': True, 'scales': (0.5, 1.0)}, 'static size'),
    ({'mode': 'static', 'fit': (64, 32)}, 'static size'),
    ({'mode': 'slide', 'stride': (10, 17)}, 'leaves gaps'),
    ({'mode': 'slide', 'stride': (0, 4)}, 'leaves gaps'),
  ],
)
def test_invalid_protocols_are_rejected(changes, message):
  with pytest.raises(ValueError, match=message):
    views.segment_images(FakePredictor(channels), [], eval_config(**changes))


@pytest.mark.parametrize(
  ('size', 'changes', 'nearest'),
  [
    ((17, 16), {}, '(16, 16) and (24, 16)'),
    ((16, 15), {'pad_offset': 1}, '(9, 9) and (17, 17)'),
    ((5, 20), {}, '(8, 24)'),
  ],
)
def test_windows_of_a_file_off_the_grid_are_rejected(size, changes, nearest):
  fake = FakePredictor(channels, input_size=size)
  config = eval_config(mode='slide', window=size, stride=(4, 4), **changes)
  with pytest.raises(
    ValueError, match=re.escape(f'the nearest are {nearest}; export it')
  ):
    views.segment_images(fake, [], config)


@pytest.mark.parametrize(
  'changes',
  [
    {'scales': (1.0, 0.5)},
    {'fit': (64, 32)},
    {'mode': 'slide', 'window': (8, 8)},
  ],
)
def test_a_predictor_of_one_size_rejects_other_protocols(changes):
  fake = FakePredictor(channels, input_size=(16, 16))
  config = eval_config(stride=(4, 4), **changes)
  with pytest.raises(ValueError, match='static size'):
    views.check_eval_config(fake, config)
  with pytest.raises(ValueError, match='static size'):
    views.check_eval_config(predictors.ResizedPredictor(fake, (16, 16)), config)


@pytest.mark.parametrize(
  'changes', [{}, {'scales': (0.5, 1.0), 'flip': True}, {'fit': (64, 32)}]
)
def test_images_of_many_sizes_run_in_few_canvases(changes):
  """A pointwise network computes the same in any canvas."""
  images = random_images([(40, 50), (39, 47), (40, 44), (33, 50), (20, 21)])
  config = eval_config(pad_multiple=1, **changes)
  exact, few = FakePredictor(channels), FakePredictor(channels)
  expected = segment_one_by_one(exact, images, config)
  canvases = views.plan_canvases(
    few, [x.shape[:2] for x in images], config, 0.15
  )
  results = segment_one_by_one(few, images, config, canvases)
  for got, want in zip(results, expected, strict=True):
    np.testing.assert_array_equal(got, want)
  assert len(set(few.shapes)) < len(set(exact.shapes))
  assert {shape[1:3] for shape in few.shapes} == set(canvases)


def test_padding_reaches_no_further_than_the_network_sees():
  """Of a blur over 7x7 pixels only the three along padded borders change."""
  images = random_images([(40, 50), (37, 46)])
  config = eval_config(pad_multiple=1)
  exact = views.predict_probabilities(FakePredictor(blur), images, config)
  results = views.predict_probabilities(
    FakePredictor(blur), images, config, canvases=[(40, 50)]
  )
  np.testing.assert_array_equal(results[0], exact[0])
  inside = slice(37 - 3), slice(46 - 3)
  np.testing.assert_allclose(
    results[1][inside], exact[1][inside], atol=1e-4, rtol=0
  )
  assert np.abs(results[1] - exact[1])[34:].max() > 0.01
  assert results[1].shape == exact[1].shape


def segment_one_by_one(predictor, images, config, canvases=()):
  return [
    views.segment_images(predictor, [image], config, canvases)[0]
    for image in images
  ]


@pytest.mark.parametrize(
  ('predictor', 'changes', 'max_padding'),
  [
    (FakePredictor(channels), {'mode': 'slide'}, 0.15),
    (FakePredictor(channels, input_size=(16, 16)), {}, 0.15),
    (FakePredictor(channels), {}, 0.0),
  ],
)
def test_what_has_one_size_or_is_exact_has_no_canvases(
  predictor, changes, max_padding
):
  config = eval_config(**changes)
  assert views.plan_canvases(predictor, SIZES, config, max_padding) == ()


@pytest.mark.parametrize(
  ('changes', 'shapes'),
  # At half size views are floats: one canvas has both types.
  [({}, 2), ({'scales': (0.5, 1.0)}, 4)],
)
def test_what_is_compiled_ahead_is_what_runs(changes, shapes):
  predictor = predictors_test.flax_predictor()
  images = random_images([(40, 50), (39, 47), (20, 21)])
  sizes = [x.shape[:2] for x in images]
  config = eval_config(pad_multiple=1, **changes)
  canvases = views.plan_canvases(predictor, sizes, config, 0.15)
  before = predictors_test.Pointwise.traces
  with futures.ThreadPoolExecutor(1) as executor:
    views.compile_ahead(
      predictor, sizes, config, canvases, image_format.RGB, executor
    )
  compiled = predictors_test.Pointwise.traces
  assert compiled - before == shapes
  segment_one_by_one(predictor, images, config, canvases)
  assert predictors_test.Pointwise.traces == compiled
