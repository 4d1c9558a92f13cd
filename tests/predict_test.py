"""The prediction command: exact masks, and an error for each bad file."""

import pathlib
import subprocess
import sys
import types

from absl import flags
import cv2
import numpy as np
from PIL import Image
import pytest

from deeplab import evaluate
from deeplab import predict
from deeplab import workdir as workdir_lib
from deeplab.data import image_folder
from deeplab.data import image_format
from deeplab.files import output_files
from tests import evaluate_test
from tests.inference import views_test

PALETTE = evaluate_test.INFO.palette


@pytest.fixture
def segmenter():
  return predict.Segmenter(
    evaluate_test.INFO.class_names,
    PALETTE,
    image_format.RGB,
    lambda images: [x.argmax(-1).astype(np.uint8) for x in images],
    lambda images: [x.astype(np.float32) / 255 for x in images],
  )


def blocks(size, seed=0):
  """Returns an image of 8x8 blocks in pure colors, which JPEG preserves."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, 3, (size[0] // 8, size[1] // 8))
  ids = np.kron(ids, np.ones((8, 8), int))
  return (np.eye(3)[ids] * 250).astype(np.uint8)


def find_images(images, output):
  return predict.find_images(images, output_files.OutputFiles(output))


def test_folder(tmp_path, segmenter):
  images, output = tmp_path / 'images', tmp_path / 'out'
  (images / 'deep').mkdir(parents=True)
  contents = {
    'a.png': blocks((16, 24), 0),
    'b.PNG': blocks((40, 32), 1),
    'deep/c.png': blocks((24, 24), 2),
  }
  for name, content in contents.items():
    Image.fromarray(content).save(images / name)
  (images / 'notes.txt').write_text('no image')
  assert predict.predict_files(segmenter, images, output, 0.5) == []
  for name, content in contents.items():
    stem = name.rsplit('.')[0]
    with Image.open(output / 'masks' / f'{stem}.png') as mask:
      assert mask.mode == 'P'
      np.testing.assert_array_equal(np.asarray(mask), content.argmax(-1))
      assert mask.getpalette()[:12] == [x for rgb in PALETTE for x in rgb]
    with Image.open(output / 'overlays' / f'{stem}.jpg') as overlay:
      assert overlay.size == content.shape[1::-1]
  with Image.open(output / 'contact_sheet.png') as sheet:
    assert sheet.width > 480
  written = {p.name for p in output.rglob('*') if p.is_file()}
  assert written == {
    *('a.png', 'b.png', 'c.png', 'a.jpg', 'b.jpg', 'c.jpg'),
    *('contact_sheet.png', '.deeplab.jsonl'),
  }


def test_images_above_a_limit_are_computed_in_windows(monkeypatch):
  fake = views_test.FakePredictor(views_test.channels)
  loaded = types.SimpleNamespace(
    config=types.SimpleNamespace(eval=views_test.eval_config()),
    dataset=types.SimpleNamespace(
      info=evaluate_test.INFO, spec=image_format.RGB
    ),
  )
  monkeypatch.setattr(evaluate, 'checkpoint_predictor', lambda *_: fake)
  segmenter = predict.from_trained_model(loaded, max_pixels=600)
  for size in ((24, 25), (24, 32)):
    image = blocks((24, 32))[: size[0], : size[1]]
    np.testing.assert_array_equal(segmenter.predict(image), image.argmax(-1))
  # The first one is padded to 24x32, the other has four windows of 16x16.
  assert fake.shapes == [(1, 24, 32, 3), (3, 16, 16, 3), (3, 16, 16, 3)]
  fake.shapes.clear()
  predict.from_trained_model(loaded).predict(image)
  assert fake.shapes == [(1, 24, 32, 3)]


def test_output_in_the_image_folder_is_not_segmented(tmp_path, segmenter):
  Image.fromarray(blocks((16, 16))).save(tmp_path / 'a.png')
  for _ in range(2):
    assert (
      predict.predict_files(segmenter, tmp_path, tmp_path / 'out', 0.5) == []
    )
  assert len(list((tmp_path / 'out' / 'masks').iterdir())) == 1


def test_names_that_differ_in_the_suffix_are_kept_distinct(tmp_path, segmenter):
  names = ('a.png', 'a.bmp', 'b.png', 'C.png', 'c.jpg', 'd.jpg', 'd.png')
  for name in (*names, 'd_png.png'):
    Image.fromarray(blocks((16, 16))).save(tmp_path / name)
  found = find_images(tmp_path, tmp_path / 'out')
  assert {path.name: name for path, name in found.items()} == {
    'a.png': 'a_png',
    'a.bmp': 'a_bmp',
    'b.png': 'b',
    'C.png': 'C_png',
    'c.jpg': 'c_jpg',
    'd.jpg': 'd_jpg',
    'd.png': 'd_png_',
    'd_png.png': 'd_png',
  }
  # One by one they have the same names.
  for path, name in found.items():
    assert find_images(path, tmp_path / 'out') == {path: name}


def test_images_are_never_replaced(tmp_path, segmenter):
  (tmp_path / 'masks').mkdir()
  path = tmp_path / 'masks' / 'a.png'
  Image.fromarray(blocks((16, 16))).save(path)
  before = path.read_bytes()
  for overwrite in (False, True):
    with pytest.raises(ValueError, match=r'masks/a\.png is an input of this'):
      predict.predict_files(segmenter, path, tmp_path, 0.5, overwrite)
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == ['masks']


def test_files_of_the_user_are_not_replaced(tmp_path, segmenter):
  Image.fromarray(blocks((16, 16))).save(tmp_path / 'a.png')
  output = tmp_path / 'out'
  (output / 'masks').mkdir(parents=True)
  (output / 'masks' / 'a.png').write_text('mine')
  with pytest.raises(ValueError, match=r'masks/a\.png exists, .*--overwrite'):
    predict.predict_files(segmenter, tmp_path, output, 0.5)
  assert [str(p.name) for p in output.rglob('*')] == ['masks', 'a.png']
  predict.predict_files(segmenter, tmp_path, output, 0.5, True)
  with Image.open(output / 'masks' / 'a.png') as mask:
    assert mask.size == (16, 16)


@pytest.mark.parametrize('place', ['.', '..'])
def test_results_may_stand_beside_the_images(tmp_path, segmenter, place):
  """Earlier results are not taken for images."""
  images = tmp_path / 'images'
  images.mkdir()
  output = images / place
  for i in range(2):
    Image.fromarray(blocks((16, 16), i)).save(images / f'{i}.png')
    assert predict.predict_files(segmenter, images, output, 0.5) == []
    assert len(list((output / 'masks').iterdir())) == i + 1


def test_output_must_be_a_folder(tmp_path, segmenter):
  Image.fromarray(blocks((64, 64))).save(tmp_path / 'good.png')
  (tmp_path / 'file').write_text('mine')
  with pytest.raises(ValueError, match=r'--output=.*file is a file: name a fo'):
    predict.predict_files(
      segmenter, tmp_path / 'good.png', tmp_path / 'file', 0.5
    )
  assert (tmp_path / 'file').read_text() == 'mine'


def test_a_damaged_image_is_reported_and_the_others_are_segmented(
  tmp_path, segmenter
):
  images, output = tmp_path / 'images', tmp_path / 'out'
  images.mkdir()
  Image.fromarray(blocks((64, 64))).save(images / 'good.jpg')
  Image.fromarray(blocks((64, 64))).save(images / 'whole.png')
  content = (images / 'good.jpg').read_bytes()
  (images / 'cut.jpg').write_bytes(content[: len(content) // 2])
  (images / 'text.png').write_text('hello')
  content = (images / 'whole.png').read_bytes()
  (images / 'cut.png').write_bytes(content[: len(content) // 2])
  (images / 'empty.npy').touch()
  np.save(images / 'none.npy', np.zeros((0, 64, 3), np.uint8))
  failures = predict.predict_files(segmenter, images, output, 0.5)
  assert len(failures) == 5
  reasons = dict(failure.split(': ', 1) for failure in failures)
  without_pixels = reasons.pop(str(images / 'none.npy'))
  assert without_pixels.startswith('an image of 64x0 pixels')
  assert list(reasons) == [
    str(images / name)
    for name in ('cut.jpg', 'cut.png', 'empty.npy', 'text.png')
  ]
  for reason in reasons.values():
    assert reason.startswith('damaged or not an image')
  assert sorted(p.name for p in (output / 'masks').iterdir()) == [
    'good.png',
    'whole.png',
  ]
  assert (output / 'contact_sheet.png').is_file()


def test_exif_orientation_is_applied(tmp_path):
  image = blocks((16, 32))
  exif = Image.Exif()
  exif[0x0112] = 6  # turn a quarter clockwise to see it upright
  Image.fromarray(image).save(tmp_path / 'a.png', exif=exif)
  np.testing.assert_array_equal(
    image_folder.read_image(tmp_path / 'a.png', image_format.RGB),
    np.rot90(image, -1),
  )


def test_gray_and_transparent_images_become_rgb(tmp_path):
  for mode in ('L', 'RGBA', 'P', '1'):
    path = tmp_path / f'{mode}.png'
    Image.new(mode, (5, 4)).save(path)
    assert image_folder.read_image(path, image_format.RGB).shape == (4, 5, 3)
  Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / 'deep.png')
  with pytest.raises(ValueError, match='of 16 bits; convert it'):
    image_folder.read_image(tmp_path / 'deep.png', image_format.RGB)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bit_images_are_never_cut_to_8_bits(tmp_path, suffix):
  path = tmp_path / f'deep.{suffix}'
  pixels = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), np.uint16)
  cv2.imwrite(str(path), pixels[..., ::-1])
  with pytest.raises(ValueError, match=r'of 16 bits; convert it to 8 bits'):
    image_folder.read_image(path, image_format.RGB)
  deep = image_folder.read_image(path, image_format.ImageSpec(3, 16))
  np.testing.assert_array_equal(deep, pixels)


def test_arrays_of_rgb(tmp_path):
  np.save(tmp_path / 'a.npy', blocks((16, 24)))
  np.save(tmp_path / 'grey.npy', blocks((16, 24))[..., 0])
  np.testing.assert_array_equal(
    image_folder.read_image(tmp_path / 'a.npy', image_format.RGB),
    blocks((16, 24)),
  )
  assert image_folder.read_image(
    tmp_path / 'grey.npy', image_format.RGB
  ).shape == (*(16, 24, 3),)
  names = find_images(tmp_path, tmp_path / 'out')
  assert sorted(names.values()) == ['a', 'grey']


def test_images_of_other_channels(tmp_path):
  grey = image_format.ImageSpec(1, 8)
  image = blocks((16, 24))[..., :1]
  Image.fromarray(image[..., 0]).save(tmp_path / 'a.png')
  np.save(tmp_path / 'b.npy', image)
  np.testing.assert_array_equal(
    image_folder.read_image(tmp_path / 'a.png', grey), image
  )
  segmenter = predict.Segmenter(
    evaluate_test.INFO.class_names,
    PALETTE,
    grey,
    lambda images: [(x[..., 0] > 9).astype(np.uint8) for x in images],
    lambda images: [],
  )
  assert predict.predict_files(segmenter, tmp_path, tmp_path / 'out', 0.5) == []
  for name in 'ab':
    with Image.open(tmp_path / f'out/masks/{name}.png') as mask:
      np.testing.assert_array_equal(np.asarray(mask), image[..., 0] > 9)
  with pytest.raises(ValueError, match=r'there is no image .*none\.png'):
    segmenter.predict(tmp_path / 'none.png')


@pytest.mark.parametrize(
  'image', [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_arrays_of_another_type_or_shape_are_rejected(segmenter, image):
  with pytest.raises(ValueError, match='an image is uint8'):
    segmenter.predict(image)


def test_nothing_to_segment(tmp_path, segmenter):
  with pytest.raises(ValueError, match='no such file or folder'):
    predict.predict_files(segmenter, tmp_path / 'none', tmp_path / 'out', 0.5)
  with pytest.raises(ValueError, match='no image in this folder'):
    predict.predict_files(segmenter, tmp_path, tmp_path / 'out', 0.5)
  with pytest.raises(ValueError, match='opacity=2'):
    predict.predict_files(segmenter, tmp_path, tmp_path / 'out', 2.0)
  with pytest.raises(ValueError, match='there is no image'):
    segmenter.predict(tmp_path / 'none.png')


def test_a_run_is_predicted_by_its_evaluation_protocol(monkeypatch, tmp_path):
  config = views_test.ConfigDict(
    {'eval': views_test.eval_config(), 'data': {'mean': (0.0,) * 3}}
  )
  monkeypatch.setattr(
    workdir_lib,
    'load_trained_model',
    lambda workdir, which: workdir_lib.TrainedModel(
      config, evaluate_test.FakeDataset(), {}, 3, 0.5
    ),
  )
  monkeypatch.setattr(
    predict.evaluate,
    'checkpoint_predictor',
    lambda loaded, output_stride: views_test.FakePredictor(views_test.channels),
  )
  image = blocks((21 * 8, 40))[:163]
  Image.fromarray(image).save(tmp_path / 'a.png')
  mask = predict.load_segmenter(tmp_path).predict(tmp_path / 'a.png')
  assert mask.dtype == np.uint8
  np.testing.assert_array_equal(mask, image.argmax(-1))


def _flags(**values):
  result = flags.FlagValues()
  config_flag = predict.define_flags(result)
  result.mark_as_parsed()
  for name, value in values.items():
    setattr(result, name, str(value))
  result.opacity = 0.5
  return config_flag, result


def test_an_exported_file_needs_no_run(monkeypatch, tmp_path, capsys):
  class File(views_test.FakePredictor):
    card = {'classes': ['a', 'b', 'c'], 'palette': PALETTE[:3]}  # noqa: RUF012
    image_spec = image_format.RGB

  monkeypatch.setattr(
    predict.load,
    'load_predictor',
    lambda path: File(views_test.channels, input_size=(16, 16)),
  )
  image = np.zeros((32, 48, 3), np.uint8)
  image[:, :24, 1] = image[:, 24:, 2] = 200
  Image.fromarray(image).save(tmp_path / 'a.png')
  (tmp_path / 'f.json').write_text('{}')  # a card: the file is one of ours
  values = _flags(
    weights=tmp_path / 'f.tflite',
    images=tmp_path / 'a.png',
    output=tmp_path / 'out',
  )
  predict.main(['predict'], *values)
  assert str(tmp_path / 'out') in capsys.readouterr().out
  with Image.open(tmp_path / 'out' / 'masks' / 'a.png') as mask:
    np.testing.assert_array_equal(np.asarray(mask), image.argmax(-1))


def _error(values):
  with pytest.raises(SystemExit) as stopped:
    predict.main(['predict'], *values)
  assert str(stopped.value).startswith('Error: ')
  return str(stopped.value)  # a message as its code is exit status 1


def test_errors_are_one_line_and_status_1(tmp_path, monkeypatch, segmenter):
  assert '--images and --output are required' in _error(_flags())
  values = _flags(images=tmp_path, output=tmp_path / 'out')
  assert '--weights, --images and' in _error(values)
  values = _flags(images=tmp_path, output=tmp_path / 'out', weights=tmp_path)
  assert str(tmp_path) in _error(values)

  (tmp_path / 'bad.png').write_text('hello')
  monkeypatch.setattr(
    predict, 'load_segmenter', lambda weights, config: segmenter
  )
  Image.fromarray(blocks((64, 64))).save(tmp_path / 'good.png')
  (tmp_path / 'worse.npy').touch()
  first, second, last = _error(values).split('\n')
  assert first.startswith(f'Error: {tmp_path}/bad.png: damaged or not an image')
  assert second.startswith(f'Error: {tmp_path}/worse.npy: damaged or not an')
  assert last == '2 images failed'
  assert (tmp_path / 'out/masks/good.png').is_file()


def test_help_shows_usage_and_flags():
  shown = subprocess.run(
    [sys.executable, '-m', 'deeplab.predict', '--help'],
    cwd=pathlib.Path(__file__).resolve().parents[1],
    capture_output=True,
    text=True,
    check=False,
  ).stdout
  for words in (
    '--weights=W',
    'contact_sheet.png',
    'deeplab.load',
    'torchvision:deeplabv3_resnet50',
    '--opacity',
  ):
    assert words in shown


@pytest.mark.full
def test_many_images_are_predicted_as_each_alone(smoke_run):
  segmenter = predict.load_segmenter(smoke_run.workdir)
  images = [blocks((96, 96), 0), blocks((88, 96), 1)[:, :93], blocks((64, 96))]
  masks = list(segmenter.predict_all(images))
  for image, mask in zip(images, masks, strict=True):
    np.testing.assert_array_equal(
      mask, segmenter.probabilities(image).argmax(-1)
    )


@pytest.mark.parametrize('share', [-0.1, 1.5])
def test_padding_is_a_share(segmenter, share):
  with pytest.raises(ValueError, match=rf'max_padding={share} is not in 0..1'):
    list(segmenter.predict_all([blocks((16, 16))], share))


def test_all_images_are_segmented_in_their_order(tmp_path, segmenter):
  images = [blocks((16, 24), 0), blocks((24, 16), 1)]
  Image.fromarray(images[1]).save(tmp_path / 'b.png')
  masks = segmenter.predict_all([images[0], tmp_path / 'b.png'])
  for mask, image in zip(masks, images, strict=True):
    np.testing.assert_array_equal(mask, image.argmax(-1))
