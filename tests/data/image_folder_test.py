"""Images of plain folders."""

import pathlib

import numpy as np
from PIL import Image
import pytest

from deeplab.data import image_folder
from deeplab.data import image_format


def write(path, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, pixels)
  else:
    Image.fromarray(pixels).save(path)


def test_folders_are_searched_for_every_kind_of_image(tmp_path):
  names = ['a.JPG', 'b.png', 'deep/er/c.tif', 'deep/d.npy', 'e.webp']
  for name in names:
    write(tmp_path / name)
  write(tmp_path / '.hidden.png')
  (tmp_path / 'notes.txt').write_text('no image')
  (tmp_path / 'folder.png').mkdir()
  found = image_folder.list_images(tmp_path, '--images')
  assert {str(p.relative_to(tmp_path)) for p in found} == set(names)
  assert found == sorted(found)


def test_folders_without_images_are_refused(tmp_path):
  (tmp_path / 'notes.txt').write_text('no image')
  with pytest.raises(
    ValueError, match=r'^--images=.*: no image in this folder \(\.jpg, '
  ):
    image_folder.list_images(tmp_path, '--images')
  with pytest.raises(ValueError, match=r'^--images=.*: there is no such fol'):
    image_folder.list_images(tmp_path / 'notes.txt', '--images')


@pytest.mark.parametrize(
  ('count', 'chosen'),
  [(1, '0'), (3, '036'), (4, '0257'), (10, '0123456789'), (99, '0123456789')],
)
def test_images_are_spread_over_the_folder(count, chosen):
  paths = [pathlib.Path(x) for x in '0123456789']
  found = image_folder.spread_evenly(paths, count)
  assert ''.join(map(str, found)) == chosen


def test_sizes_are_read_from_headers(tmp_path):
  image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
  image.save(tmp_path / 'a.png')
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by a quarter
  image.save(tmp_path / 'b.jpg', exif=exif)
  np.save(tmp_path / 'c.npy', np.zeros((7, 9, 5), np.uint16))
  (tmp_path / 'd.png').write_bytes(b'no image')
  names = ('a.png', 'b.jpg', 'c.npy', 'd.png', 'absent.png', 'absent.npy')
  assert [image_folder.read_size(tmp_path / name) for name in names] == [
    *((20, 30), (30, 20), (7, 9)),
    *(None, None, None),
  ]
  assert image_folder.read_image(
    tmp_path / 'b.jpg', image_format.RGB
  ).shape == (30, 20, 3)
