"""Images of any number of channels; damaged ones and too large ones."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
import pytest
import tifffile

from deeplab.data import decoding
from deeplab.data import image_files
from deeplab.data import image_folder
from deeplab.data import image_format
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_files

BANDS = np.random.default_rng(0).integers(0, 65536, (9, 7, 8), np.uint16)


def test_channels_of_tiff_files(tmp_path):
  """Channels are planar or interleaved, of any number, in their order."""
  path = tmp_path / 'image.tif'
  for depth, pixels in ((16, BANDS), (8, (BANDS >> 8).astype(np.uint8))):
    for count in (1, 3, 4, 5, 8):
      part = pixels[..., :count]
      tifffile.imwrite(
        path,
        part,
        photometric='minisblack',
        planarconfig='contig' if count > 1 else None,
      )
      form = image_format.ImageSpec(count, depth)
      if form != image_format.RGB:
        np.testing.assert_array_equal(image_files.read_array(path, form), part)
      if count > 1:
        tifffile.imwrite(
          path,
          np.moveaxis(part, -1, 0),
          photometric='minisblack',
          planarconfig='separate',
          compression='zlib',
        )
        np.testing.assert_array_equal(image_files.read_array(path, form), part)


@pytest.mark.parametrize('compression', ['lzw', 'deflate', 'packbits'])
def test_compressed_tiff_files(tmp_path, compression):
  path = tmp_path / 'image.tif'
  tifffile.imwrite(
    path,
    BANDS,
    photometric='minisblack',
    planarconfig='contig',
    compression=compression,
  )
  np.testing.assert_array_equal(
    image_files.read_array(path, image_format.ImageSpec(8, 16)), BANDS
  )


def test_channels_of_png_files(tmp_path):
  path = tmp_path / 'image.png'
  deep = image_format.ImageSpec(3, 16)
  cv2.imwrite(str(path), BANDS[..., 2::-1])
  np.testing.assert_array_equal(
    image_files.read_array(path, deep), BANDS[..., :3]
  )
  # A grey image repeats its channel, or stays one.
  Image.fromarray(BANDS[..., 0]).save(path)
  got = image_files.read_array(path, deep)
  np.testing.assert_array_equal(got, BANDS[..., :1].repeat(3, 2))
  got = image_files.read_array(path, image_format.ImageSpec(1, 16))
  np.testing.assert_array_equal(got, BANDS[..., :1])


def test_other_channels_or_depth_are_rejected(tmp_path):
  path = tmp_path / 'image.npy'
  np.save(path, BANDS)
  form = image_format.ImageSpec(8, 8)
  with pytest.raises(
    ValueError, match=r'image\.npy: image of uint16 for config\.data\.depth=8'
  ):
    image_files.read_array(path, form)
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(ValueError, match=r'image\.npy: damaged or not an image'):
    image_files.read_array(path, form)
  tif = tmp_path / 'image.tif'
  tifffile.imwrite(tif, BANDS[..., 0])
  tif.write_bytes(tif.read_bytes()[:-50])
  with pytest.raises(ValueError, match=r'image\.tif: damaged or not an image'):
    image_files.read_array(tif, image_format.ImageSpec(1, 16))
  png = tmp_path / 'image.png'
  Image.effect_noise((64, 64), 50).save(png)
  png.write_bytes(png.read_bytes()[:-500])
  with pytest.raises(ValueError, match=r'image\.png: damaged or not an image'):
    image_files.read_array(png, image_format.ImageSpec(1, 8))


def png(height, width, bit_depth=8, color_type=2):
  """Returns a PNG whose header promises a size and whose data holds no row."""
  header = struct.pack(
    '>IIBBBBB', width, height, bit_depth, color_type, 0, 0, 0
  )
  data = b'\x89PNG\r\n\x1a\n'
  for kind, content in ((b'IHDR', header), (b'IDAT', b''), (b'IEND', b'')):
    data += struct.pack('>I', len(content)) + kind + content
    data += struct.pack('>I', zlib.crc32(kind + content))
  return data


def npy(shape):
  """Returns the header of a NumPy array of uint16."""
  file = io.BytesIO()
  header = {'descr': '<u2', 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)
  return file.getvalue()


def tiff(change=None, **options):
  """Returns a TIFF of BANDS, with another number in its first directory.

  Args:
    change: (code, value) of a tag.
    **options: of `tifffile.imwrite`.
  """
  file = io.BytesIO()
  options = {'photometric': 'minisblack', 'planarconfig': 'contig'} | options
  tifffile.imwrite(file, BANDS, **options)
  if change:
    code, value = change
    file.seek(0)
    with tifffile.TiffFile(file) as parsed:
      tag = parsed.pages.first.tags[code]
      offset = tag.offset
    data = bytearray(file.getvalue())
    data[offset + 2 : offset + 4] = struct.pack('<H', 4)  # 32 bits
    data[offset + 8 : offset + 12] = struct.pack('<I', value)
    return bytes(data)
  return file.getvalue()


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('a.npy', b'', r'a\.npy: damaged or not an image \(No data left in file\)'),
    ('a.npy', b'\x93NUMPY', r'a\.npy: damaged or not an image'),
    (
      'a.npy',
      b'PK\x05\x06' + bytes(18),
      r'npy: .*\(an archive, not an array\)',
    ),
    ('a.npy', b'cposix\nsystem\n.', r'a\.npy: damaged or not an image'),
    ('a.npy', npy((10**6, 10**6)), r'a\.npy: damaged .*file ?size'),
    ('a.npy', npy((9, 7, -8)), r'a\.npy: damaged or not an image'),
    ('a.npy', npy((9, 0, 8)), r'a\.npy: an image of 0x9 pixels .* no pixels'),
    ('a.tif', b'', r'a\.tif: damaged or not an image'),
    ('a.tif', b'II*\0', r'a\.tif: damaged or not an image'),
    ('a.tif', tiff((256, 0)), r'a\.tif: an image of 0x9 pixels'),
    ('a.tif', tiff((277, 0)), r'a\.tif: damaged or not an image'),
    ('a.tif', tiff((259, 7)), r'a\.tif: damaged or not an image'),
    ('a.tif', tiff((259, 99)), r'a\.tif: compression JPEG_99 is not supp'),
    (
      'a.tif',
      tiff((317, 9), compression='zlib', predictor=True),
      r'a\.tif: damaged or not',
    ),
    (
      'a.tif',
      tiff(compression='lerc'),
      r'a\.tif: compression LERC is not supp',
    ),
    ('a.png', b'', r'a\.png: damaged or not an image \(of an unknown format\)'),
    ('a.png', b'%!PS-Adobe-3.0 EPSF-3.0\n', r'a\.png: .*of an unknown format'),
    ('a.png', png(0, 7), r'a\.png: '),
  ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    image_files.read_array(path, image_format.ImageSpec(8, 16))
  assert str(error.value).count(str(path)) == 1
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('compression', ['zlib', 'zstd', 'lzw', 'lzma'])
def test_damaged_segments_are_one_sentence(tmp_path, compression):
  """Each codec raises a type of its own."""
  data = tiff(compression=compression)
  with tifffile.TiffFile(io.BytesIO(data)) as file:
    (start,), (length,) = (
      file.pages.first.dataoffsets,
      file.pages.first.databytecounts,
    )
  path = tmp_path / 'a.tif'
  middle = start + length // 2
  path.write_bytes(data[:start] + bytes(length) + data[start + length :])
  with pytest.raises(ValueError, match=r'a\.tif: damaged or not an image'):
    image_files.read_array(path, image_format.ImageSpec(8, 16))
  path.write_bytes(data[:middle])
  with pytest.raises(ValueError, match=r'a\.tif: damaged or not an image'):
    image_files.read_array(path, image_format.ImageSpec(8, 16))


@pytest.mark.parametrize(
  ('name', 'content'),
  [
    ('a.png', png(30_000, 30_000)),
    ('a.png', png(9000, 9000, 16, 6)),
    ('a.tif', tiff((257, 40_000_000))),
    ('a.tif', tiff((322, 1 << 23), tile=(16, 16))),
    ('a.tif', tiff((323, 1 << 23), tile=(16, 16), compression='zlib')),
    ('a.tif', tiff((256, 1 << 30), compression='zlib')),
  ],
)
def test_too_large_images_are_refused_by_their_header(
  tmp_path, monkeypatch, name, content
):
  path = tmp_path / name
  path.write_bytes(content)
  decoded = []
  monkeypatch.setattr(
    tifffile.TiffPageSeries, 'asarray', lambda *_: decoded.append(1)
  )
  monkeypatch.setattr(Image.Image, 'load', lambda *_: decoded.append(1))
  monkeypatch.setattr(cv2, 'imdecode', lambda *_: decoded.append(1))
  with pytest.raises(ValueError, match=r'more than|too large') as error:
    image_files.read_array(path, image_format.ImageSpec(8, 16))
  assert str(error.value).startswith(f'{path}: ')
  assert not decoded


def test_large_arrays_are_refused_before_they_are_read(tmp_path):
  path = tmp_path / 'a.npy'
  header = npy((20_000, 20_000, 8))
  with open(path, 'wb') as file:
    file.write(header)
  with pytest.raises(ValueError, match=r'a\.npy: damaged or not an image'):
    image_files.read_array(path, image_format.ImageSpec(8, 16))
  with open(path, 'r+b') as file:  # a sparse file of that length
    file.truncate(len(header) + 20_000 * 20_000 * 16)
  with pytest.raises(ValueError, match=r'a file of 6104 MiB, more than 512'):
    image_files.read_array(path, image_format.ImageSpec(8, 16))


def test_segments_larger_than_their_place_are_refused(tmp_path):
  """A JPEG in a TIFF has a size of its own, and a decoder allocates that."""
  path = tmp_path / 'a.tif'
  grey = (BANDS[..., 0] >> 8).astype(np.uint8)
  tifffile.imwrite(path, grey, photometric='minisblack', compression='jpeg')
  spec = image_format.ImageSpec(1, 8)
  assert image_files.read_array(path, spec).shape == (9, 7, 1)
  data = path.read_bytes()
  frame = data.index(b'\xff\xc0') + 5  # height and width follow
  path.write_bytes(data[:frame] + b'\xff\xf0\xff\xf0' + data[frame + 4 :])
  with pytest.raises(
    ValueError, match=r'segment of 65520x65520 pixels in place of 7x9|more than'
  ):
    image_files.read_array(path, spec)


def test_other_files_that_a_tiff_names_are_not_read(tmp_path):
  """OME-TIFF describes images in several files."""
  paths = [tmp_path / f'{i}.ome.tif' for i in range(2)]
  uuids = [f'urn:uuid:{i}2345678-1234-1234-1234-123456789abc' for i in range(2)]
  planes = ''.join(
    f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{p.name}">'
    f'{uuid}</UUID></TiffData>'
    for i, (p, uuid) in enumerate(zip(paths, uuids, strict=True))
  )
  for i, path in enumerate(paths):
    description = (
      '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/'
      f'OME/2016-06" UUID="{uuids[i]}"><Image ID="Image:0"><Pixels '
      'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="7" SizeY="9" '
      'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="C:0"/><Channel ID="C:1"/>'
      f'{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(
      path, BANDS[..., i], description=description, metadata=None
    )
  assert tifffile.imread(paths[0])[1].any()
  try:
    got = image_files.read_array(paths[0], image_format.ImageSpec(2, 16))
    assert not got[..., 1].any()
  except ValueError as error:
    assert str(paths[0]) in str(error)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_conversion_to_rgb_is_pils(mode):
  noise = np.random.default_rng(0).integers(0, 256, (600, 5, 3), np.uint8)
  image = Image.fromarray(noise).convert(mode)
  got = image_files.to_rgb_array(image)
  np.testing.assert_array_equal(got, np.asarray(image.convert('RGB')))


@pytest.mark.parametrize('pages', [1, 2, 150])
def test_a_circle_of_pages_is_refused(tmp_path, pages):
  """tifffile follows some of them without end."""
  path = tmp_path / 'a.tif'
  with tifffile.TiffWriter(path) as writer:
    for _ in range(pages):
      writer.write(BANDS[..., 0], contiguous=False, metadata=None)
  spec = image_format.ImageSpec(pages, 16)
  assert image_files.read_array(path, spec).shape == (9, 7, pages)
  with tifffile.TiffFile(path) as file:
    last = file.pages[-1]
    offset = last.offset + 2 + 12 * len(last.tags)
    previous = file.pages[max(0, pages - 2)].offset
  data = bytearray(path.read_bytes())
  data[offset : offset + 4] = struct.pack('<I', previous)
  path.write_bytes(data)
  with pytest.raises(
    ValueError, match=r'a\.tif: damaged, or of more than 1024'
  ):
    image_files.read_array(path, spec)


@pytest.mark.parametrize('size', [(1_000_001, 1), (1, 67_000_000)])
def test_sides_that_no_record_can_have_fail(size):
  """Decoding one took 8 s, and the record then ended in AttributeError."""
  image_files.check_size('x.png', (1_000_000, 1))
  with pytest.raises(
    image_files.ImageFileError, match=r'x\.png: .* has a side of more than'
  ):
    image_files.check_size('x.png', size)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize(
  ('suffix', 'options'),
  [
    ('jpg', {'quality': 100, 'subsampling': 0}),
    ('png', {}),
    ('webp', {'lossless': True}),
    ('tif', {}),
    ('tif', {'compression': 'tiff_lzw'}),
    ('avif', {'quality': 100, 'subsampling': '4:4:4'}),
  ],
)
@pytest.mark.parametrize('size', [(4, 6), (5, 5)])
def test_every_orientation_is_applied(
  tmp_path, suffix, options, orientation, size
):
  """Training, the doctor, prediction and headers, against a table of pixels."""
  corner = np.zeros((*size, 3), np.uint8)
  corner[:2, :3] = 250  # the upper left part of the stored pixels
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = tmp_path / f'image.{suffix}'
  Image.fromarray(corner).save(path, exif=exif, **options)
  upright = size if orientation < 5 else size[::-1]
  part = (2, 3) if orientation < 5 else (3, 2)
  expected = np.zeros(upright, bool)
  # Where that part is seen: EXIF 2.32, tag 274.
  (top, left), (bottom, right) = zip(
    *((slice(0, n), slice(-n, None)) for n in part), strict=True
  )
  rows = top if orientation in (1, 2, 5, 6) else bottom
  columns = left if orientation in (1, 4, 5, 8) else right
  expected[rows, columns] = True
  data, got_size = raw_files.read_encoded_image(path)
  assert got_size == upright
  for pixels in (
    raw_files.read_pixels(path),
    image_folder.read_image(path, image_format.RGB),
    decoding.decode_image(data),
    image_files.read_array(path, image_format.RGB),
  ):
    assert pixels.shape == (*upright, 3)
    np.testing.assert_array_equal(pixels[..., 1] > 125, expected)
  assert image_files.read_orientation(path) == orientation
  stored, stored_size = raw_files.read_encoded_image(path, upright=False)
  if suffix != 'tif':  # which PIL turns
    assert stored_size == size
    assert (decoding.decode_image(stored)[..., 1] > 125)[:2, :3].all()


@pytest.mark.parametrize('tag', [0, 9, 70])
def test_impossible_orientations_count_as_none(tmp_path, tag):
  exif = Image.Exif()
  exif[0x0112] = tag
  path = tmp_path / 'image.jpg'
  Image.new('RGB', (3, 2)).save(path, exif=exif)
  assert image_files.read_orientation(path) == 1
  assert raw_files.read_encoded_image(path)[0] == path.read_bytes()


def test_a_damaged_tag_counts_as_none(tmp_path):
  path = tmp_path / 'image.jpg'
  Image.new('RGB', (3, 2)).save(path, exif=b'Exif\0\0nonsense')
  assert image_files.read_orientation(path) == 1
  assert raw_files.read_pixels(path).shape == (2, 3, 3)


def frames(count=2):
  return [Image.new('RGB', (6, 4), (80 * i, 0, 0)) for i in range(count)]


@pytest.mark.parametrize('suffix', ['tif', 'gif', 'webp', 'png', 'avif'])
def test_images_of_pages_are_refused(tmp_path, suffix):
  path = tmp_path / f'image.{suffix}'
  first, *rest = frames()
  first.save(path, save_all=True, append_images=rest)
  message = rf'image\.{suffix}: 2 pages \(or frames\), of which only one can'
  for read in (
    *(raw_files.read_pixels, raw_files.read_encoded_image),
    *(mask_files.read_mask, image_files.read_orientation),
    lambda path: image_files.read_array(path, image_format.RGB),
    lambda path: image_folder.read_image(path, image_format.RGB),
  ):
    with pytest.raises(ValueError, match=message):
      read(path)
  first.save(path)
  assert raw_files.read_pixels(path).shape == (4, 6, 3)


def test_smaller_copies_and_masks_of_a_tiff_are_no_pages(tmp_path):
  """Overviews and the mask of valid pixels of a GeoTIFF."""
  path = tmp_path / 'image.tif'
  image = np.zeros((32, 48, 3), np.uint8)
  with tifffile.TiffWriter(path) as file:
    file.write(image, photometric='rgb')
    file.write(image[::2, ::2], photometric='rgb', subfiletype=1)
    file.write(image[..., 0] > 0, subfiletype=4)
  assert raw_files.read_pixels(path).shape == (32, 48, 3)
  assert image_files.read_array(path, image_format.RGB).shape == (32, 48, 3)


def test_pages_of_16_bits_are_refused(tmp_path):
  path = tmp_path / 'image.tif'
  pages = np.zeros((2, 4, 6, 3), np.uint16)
  tifffile.imwrite(path, pages, photometric='rgb')
  with pytest.raises(ValueError, match=r'image\.tif: 2 pages'):
    image_files.read_array(path, image_format.ImageSpec(3, 16))


def test_the_second_picture_of_a_photograph_is_no_page(tmp_path):
  """Phones add a map of depth or brightness to a JPEG (MPO)."""
  path = tmp_path / 'image.jpg'
  first, *rest = frames()
  first.save(path, 'MPO', save_all=True, append_images=rest)
  assert raw_files.read_pixels(path).shape == (4, 6, 3)
