"""Pairs of files: layouts, subfolders, endings and what is left out."""

import unicodedata

import pytest

from deeplab.data.formats import file_pairs
from deeplab.data.preparation import errors


def write(root, *names):
  for name in names:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b'')


def pairs_of(root, split='train', folders=None):
  """Returns the pairs as paths below the root, the issues, and the notes."""
  with errors.collect_notes() as notes:
    pairs, issues = file_pairs.find_pairs(root, split, folders)
  names = [
    tuple(path.relative_to(root).as_posix() for path in pair) for pair in pairs
  ]
  return names, [issue.text for issue in issues], notes


@pytest.mark.parametrize(
  ('images', 'labels'),
  [
    ('train/images', 'train/labels'),
    ('train/images', 'train/masks'),
    ('images/train', 'labels/train'),
    ('images/train', 'masks/train'),
    ('images/train', 'annotations/train'),
    ('img_dir/train', 'ann_dir/train'),
    ('train/img', 'train/gt'),
  ],
)
def test_layouts(tmp_path, images, labels):
  write(tmp_path, f'{images}/a.jpg', f'{labels}/a.png')
  write(tmp_path, f'{images}/sub/a.jpg', f'{labels}/sub/a.png')
  assert pairs_of(tmp_path) == (
    [
      (f'{images}/a.jpg', f'{labels}/a.png'),
      (f'{images}/sub/a.jpg', f'{labels}/sub/a.png'),
    ],
    [],
    [],
  )


def test_files_of_other_subfolders_are_no_pair(tmp_path):
  write(tmp_path, 'train/images/x/a.jpg', 'train/labels/y/a.png')
  names, issues, _ = pairs_of(tmp_path)
  assert names == []
  assert [issue.partition(':')[2].partition(';')[0] for issue in issues] == [
    *(' image without a mask', ' mask without an image'),
  ]


@pytest.mark.parametrize(
  'suffix',
  [
    'jpg',
    'JPG',
    'jpeg',
    'png',
    'bmp',
    'tif',
    'TIFF',
    'webp',
    'jfif',
    'gif',
    'jp2',
    'ppm',
    'pgm',
    'avif',
    'npy',
  ],
)
def test_every_ending_of_images(tmp_path, suffix):
  write(tmp_path, f'train/images/a.{suffix}', 'train/labels/a.png')
  names, issues, notes = pairs_of(tmp_path)
  assert (len(names), issues, notes) == (1, [], [])


@pytest.mark.parametrize(
  'suffix', ['png', 'npy', 'gif', 'webp', 'jp2', 'tif', 'json']
)
def test_every_ending_of_annotations(tmp_path, suffix):
  write(tmp_path, 'train/images/a.jpg', f'train/labels/a.{suffix}')
  names, issues, notes = pairs_of(tmp_path)
  assert (len(names), issues, notes) == (1, [], [])


def test_what_is_left_out_is_counted(tmp_path):
  write(tmp_path, 'train/images/a.jpg', 'train/labels/a.png')
  write(tmp_path, 'train/images/b.heic', 'train/images/sub/c.HEIC')
  write(tmp_path, 'train/images/notes', 'train/labels/.DS_Store')
  _, issues, (note,) = pairs_of(tmp_path)
  assert issues == []
  assert note.startswith(
    f'{tmp_path}/train/images: 3 files left out (2 of .heic, 1 of no ending); '
    'files of .jpg, .jpeg, .png, '
  )


@pytest.mark.parametrize(
  ('image', 'mask'),
  [
    *(('a', 'a_mask'), ('a', 'a_label'), ('a', 'a_segmentation')),
    *(('a', 'a_labelIds'), ('a', 'a_gtFine'), ('a', 'a-mask'), ('a', 'a_L')),
    *(('a_leftImg8bit', 'a_gtFine_labelIds'), ('a_sat', 'a_mask')),
  ],
)
def test_endings_of_names(tmp_path, image, mask):
  write(tmp_path, f'train/images/{image}.png', f'train/labels/{mask}.png')
  names, issues, notes = pairs_of(tmp_path)
  assert names == [(f'train/images/{image}.png', f'train/labels/{mask}.png')]
  assert issues == []
  endings = image[1:], mask[1:]
  assert notes == [
    f'{tmp_path}/train/labels: the mask of NAME{endings[0]} is '
    f'NAME{endings[1]} (1 pair)'
  ]


def test_other_kinds_of_masks_are_left_out(tmp_path):
  write(tmp_path, *(f'train/images/{x}_leftImg8bit.png' for x in 'ab'))
  kinds = 'gtFine_labelIds', 'gtFine_color', 'gtFine_instanceIds'
  write(tmp_path, *(f'train/labels/{x}_{k}.png' for x in 'ab' for k in kinds))
  names, issues, notes = pairs_of(tmp_path)
  assert [mask for _, mask in names] == [
    f'train/labels/{x}_gtFine_labelIds.png' for x in 'ab'
  ]
  assert issues == []
  assert notes[1] == (
    f'{tmp_path}/train/labels: 4 files of other kinds left out, such as '
    'a_gtFine_color'
  )


def test_masks_beside_their_images(tmp_path):
  """As Roboflow exports them."""
  write(tmp_path, 'train/a.jpg', 'train/a_mask.png', 'train/_classes.csv')
  names, issues, _ = pairs_of(tmp_path)
  assert names == [('train/a.jpg', 'train/a_mask.png')]
  assert issues == []


def test_accents_of_two_systems(tmp_path):
  one, other = (unicodedata.normalize(form, 'ä') for form in ('NFC', 'NFD'))
  write(tmp_path, f'train/images/{one}.jpg', f'train/labels/{other}.png')
  names, issues, _ = pairs_of(tmp_path)
  assert (len(names), issues) == (1, [])


def test_two_folders_of_any_name(tmp_path):
  write(tmp_path, 'Photos/a.jpg', 'Photos/b.jpg', 'Ground_Truth/a.png')
  write(tmp_path, 'Ground_Truth/b.png')
  _, (issue,), _ = pairs_of(tmp_path)
  assert issue == (
    f"{tmp_path}: split 'train' is missing, but Photos and Ground_Truth hold "
    'images and masks of the same names: give --config.data.images=Photos '
    '--config.data.labels=Ground_Truth, which splits them at random'
  )
  folders = tmp_path / 'Photos', tmp_path / 'Ground_Truth'
  assert pairs_of(tmp_path, 'train', folders)[0] == [
    (f'Photos/{x}.jpg', f'Ground_Truth/{x}.png') for x in 'ab'
  ]
  write(tmp_path, 'third/a.png')
  assert file_pairs.guess_folders(tmp_path) is None


def test_lists_of_other_machines(tmp_path):
  write(tmp_path, 'i/a.png', 'l/a.png')
  (tmp_path / 'train.txt').write_bytes(
    b'\xef\xbb\xbfi\\a.png l\\a.png\r\nC:\\x\\i\\a.png\tC:\\x\\l\\a.png\r\n'
  )
  names, issues, (note,) = pairs_of(tmp_path)
  assert names == [('i/a.png', 'l/a.png')] * 2
  assert issues == []
  assert 'another machine' in note
