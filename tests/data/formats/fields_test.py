"""Fields of annotation files, right and wrong."""

import math

import pytest

from deeplab.data.formats import fields


@pytest.mark.parametrize('value', [7, 7.0, '7', '7.0', ' 7 '])
def test_whole_numbers(value):
  got = fields.get_whole({'a': value}, 'a')
  assert got == 7
  assert isinstance(got, int)


@pytest.mark.parametrize(
  'value', [7.5, '7.5', None, True, [], 'x', '', math.inf, math.nan, 'inf']
)
def test_other_values_are_not_whole(value):
  with pytest.raises(ValueError, match=r'^a is .*, not a whole number$'):
    fields.get_whole({'a': value}, 'a')


def test_numbers_are_finite():
  assert fields.get_number({'a': '-2.5'}, 'a') == -2.5
  assert fields.get_number({}, 'a', 3) == 3
  for value in (None, True, 'x', 'inf', math.nan, 10**400, []):
    with pytest.raises(ValueError, match=r'^a is .*, not a finite number$'):
      fields.get_number({'a': value}, 'a', 3)


def test_missing_fields():
  for get in (fields.get_whole, fields.get_number, fields.get_text):
    with pytest.raises(ValueError, match=r'^a is missing$'):
      get({}, 'a')
  with pytest.raises(ValueError, match=r'^None is no object with a$'):
    fields.get_list(None, 'a')


def test_values_are_cut_in_messages():
  with pytest.raises(ValueError) as error:
    fields.get_text({'a': [['x' * 10_000] * 1000] * 1000}, 'a')
  assert len(str(error.value)) < 400


def test_sizes():
  assert fields.get_size({'height': 6.0, 'width': '8'}) == (6, 8)
  with pytest.raises(ValueError, match=r'^height is missing'):
    fields.get_size({'width': 8})
  with pytest.raises(ValueError, match='an image of 8x-6 pixels'):
    fields.get_size({'height': -6, 'width': 8})


@pytest.mark.parametrize('name', ['a\0.png', 'a\n.png', '\ud800.png'])
def test_names_that_no_file_has(name):
  assert fields.check_file_name('写真\u3000 1.png') == '写真\u3000 1.png'
  with pytest.raises(ValueError, match='is not the name of a file'):
    fields.check_file_name(name)


@pytest.mark.parametrize(
  'name',
  ['/etc/a.png', '../a.png', 'b/../../a.png', '..', '\\a.png', '..\\a.png'],
)
def test_names_that_lead_out_of_the_data_set(name, tmp_path):
  for inside in ('b/a.png', 'b\\a.png', 'a..b.png', '...', 'a:b'):
    assert fields.check_file_name(inside) == inside
  with pytest.raises(ValueError, match='leads out of the folder of the data'):
    fields.check_file_name(name)
  listing = tmp_path / 'val.txt'
  listing.write_text(f'b/a\n{name}\n', 'utf-8')
  with pytest.raises(ValueError, match=r'val\.txt: .* leads out .* its line$'):
    fields.read_file_names(listing)
