"""The ADE20K builder: genuine samples in the three conventions."""

import pytest

from tests.data.builders import layouts

# Pixels by raw id in the genuine masks, counted with PIL.
SAMPLES = {
  'ADE_val_00000001': (
    {0: 3613, 1: 14538, 2: 123406, 3: 134492, 5: 8784, 7: 1755}
    | {10: 53099, 18: 10009}
  ),
  'ADE_val_00000002': (
    {0: 17280, 1: 8309, 2: 49211, 3: 85997, 5: 20293, 14: 341, 18: 569}
  ),
  'ADE_val_00000003': (
    {0: 2031, 1: 2901, 2: 9024, 3: 27749, 5: 2048, 7: 30083, 12: 22518}
    | {21: 2330, 44: 153, 81: 1681, 88: 202, 97: 17664, 103: 1616}
  ),
}
SIZES = ((512, 683, 3), (364, 500, 3), (300, 400, 3))


@pytest.fixture
def official(shared, tmp_path):
  """The samples in the layout of the official archive."""
  samples = shared / 'samples/ade20k'
  root = tmp_path / 'ADEChallengeData2016'
  for stem in SAMPLES:
    for name, suffix in (('images', 'jpg'), ('annotations', 'png')):
      layouts.link(
        root / name / f'validation/{stem}.{suffix}',
        samples / name / f'{stem}.{suffix}',
      )
  return root


@pytest.mark.parametrize(
  ('name', 'train_id'),
  [
    ('ade20k', lambda raw: raw - 1 if raw else 255),
    ('ade20k32_other', lambda raw: raw if raw < 32 else 0),
    ('ade20k32_ignore', lambda raw: raw - 1 if 1 <= raw <= 31 else 255),
  ],
)
def test_samples(official, config, name, train_id):
  layouts.point(config, name, official)
  got = layouts.examples(config)
  assert [example['name'] for example in got] == list(SAMPLES)
  assert tuple(example['image'].shape for example in got) == SIZES
  for example in got:
    expected = {}
    for raw, pixels in SAMPLES[example['name']].items():
      i = train_id(raw)
      expected[i] = expected.get(i, 0) + pixels
    assert layouts.counts(example['label']) == expected
  layouts.check_metadata(config, got)


def test_pixel_counts_of_both_conventions_for_32_classes(official, config):
  """In the third sample 21,316 pixels are of rarer classes."""
  layouts.point(config, 'ade20k32_other', official)
  assert layouts.counts(layouts.examples(config)[2]['label']) == (
    {0: 2031 + 21316, 1: 2901, 2: 9024, 3: 27749, 5: 2048, 7: 30083}
    | {12: 22518, 21: 2330}
  )
  layouts.point(config, 'ade20k32_ignore', official)
  assert layouts.counts(layouts.examples(config)[2]['label']) == (
    {0: 2901, 1: 9024, 2: 27749, 4: 2048, 6: 30083, 11: 22518, 20: 2330}
    | {255: 2031 + 21316}
  )


def test_the_root_may_be_the_parent_folder(official, config):
  layouts.point(config, 'ade20k', official.parent)
  assert len(layouts.examples(config)) == 3
  (official / 'annotations/validation/ADE_val_00000002.png').unlink()
  with pytest.raises(
    ValueError,
    match=r'annotations/validation/ADE_val_00000002\.png is missing: fetch '
    r'ADEChallengeData2016\.zip of .* into FOLDER \(https://ade20k',
  ):
    layouts.examples(config)
