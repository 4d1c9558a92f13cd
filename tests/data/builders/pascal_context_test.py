"""The Pascal Context builder: three kinds of masks, 59 and 60 classes."""

import numpy as np
import pytest
import scipy.io

from deeplab.data import catalog
from tests.data.builders import layouts

# Raw ids and their places among the 60, by hand from the sorted list: the
# first three, `cat`, `person`, `window` and `wood`.
IDS = {0: 0, 2: 1, 9: 2, 65: 15, 284: 37, 454: 58, 458: 59}
RAW = np.array([[*IDS]] * 2, np.uint16)
CLASSES = np.array([[*IDS.values()]] * 2, np.uint8)


def lay_out(root, kind, listing='SegmentationContext'):
  """Writes VOC2010 with one mask of a kind, and returns VOC2010."""
  voc = root / 'VOCdevkit/VOC2010'
  layouts.save(voc / 'JPEGImages/2008_000002.jpg', layouts.picture(0, 2, 7))
  path = voc / f'ImageSets/{listing}/val.txt'
  path.parent.mkdir(parents=True)
  path.write_text('2008_000002\n', 'utf-8')
  if kind == 'mat':
    (root / 'trainval').mkdir()
    # 1 is one of the 400 rarer classes.
    raw = np.where(RAW, RAW, 1)
    scipy.io.savemat(root / 'trainval/2008_000002.mat', {'LabelMap': raw})
  else:
    layouts.save(
      voc / 'SegmentationClassContext/2008_000002.png',
      CLASSES if kind == 'classes' else RAW,
    )
  return voc


@pytest.mark.parametrize('kind', ['classes', 'raw', 'mat'])
def test_masks(config, tmp_path, kind):
  lay_out(tmp_path, kind, 'Main' if kind == 'mat' else 'SegmentationContext')
  for name, expected in (
    ('pascal_context60', [0, 1, 2, 15, 37, 58, 59]),
    ('pascal_context59', [255, 0, 1, 14, 36, 57, 58]),
  ):
    layouts.point(config, name, tmp_path)
    got = layouts.examples(config)
    assert got[0]['name'] == '2008_000002'
    assert got[0]['image'].shape == (2, 7, 3)
    assert got[0]['label'].tolist() == [expected] * 2
    layouts.check_metadata(config, got)


def test_class_order():
  names = catalog.INFOS['pascal_context60'].class_names
  assert [names[i] for i in IDS.values()] == [
    *('background', 'aeroplane', 'bag', 'cat', 'person', 'window', 'wood')
  ]


@pytest.mark.parametrize('below', ['', 'VOCdevkit', 'VOCdevkit/VOC2010'])
def test_roots(config, tmp_path, below):
  lay_out(tmp_path, 'mat')
  layouts.point(config, 'pascal_context60', tmp_path / below)
  assert layouts.counts(layouts.examples(config)[0]['label'])[0] == 2


def test_masks_with_unknown_values_are_rejected(config, tmp_path):
  voc = lay_out(tmp_path, 'classes')
  layouts.point(config, 'pascal_context60', tmp_path)
  path = voc / 'SegmentationClassContext/2008_000002.png'
  layouts.save(path, np.full((2, 7), 60, np.uint8))
  with pytest.raises(ValueError, match='label value 60 in a mask of 8 bits'):
    layouts.examples(config)
  layouts.save(path, np.full((2, 7), 459, np.uint16))
  with pytest.raises(ValueError, match=r'002\.png: label value 459 \(14 pix'):
    layouts.examples(config)
  path.unlink()
  remedy = r'is missing: fetch VOCtrainval_03-May-2010\.tar .* trainval\.tar'
  with pytest.raises(ValueError, match=rf'Context/2008_000002\.png {remedy}'):
    layouts.examples(config)
  (tmp_path / 'trainval').mkdir()
  (tmp_path / 'trainval/2008_000002.mat').write_bytes(b'nothing')
  with pytest.raises(
    ValueError, match=r'002\.mat: damaged, or not a mask of Pas'
  ):
    layouts.examples(config)
  config.data.eval_split = 'train'
  with pytest.raises(ValueError, match=rf'ImageSets/Main/train\.txt {remedy}'):
    layouts.examples(config)
