from deeplab import text


def test_plural():
  assert [text.plural(n, 'image') for n in (0, 1, 2)] == [
    *('0 images', '1 image', '2 images'),
  ]
  assert [text.plural(n, 'class', 'classes') for n in (1, 2)] == [
    *('1 class', '2 classes'),
  ]


def test_tables_are_aligned():
  assert text.format_table(('a', 'bbb'), [('cc', '1')]) == [
    '| a  | bbb |',
    '| -- | --: |',
    '| cc |   1 |',
  ]
  assert (text.format_number(None), text.format_number(1234)) == ('', '1,234')


def test_tables_without_padding():
  rows = [('cc', '1'), ('d', '')]
  assert text.format_table(('a', 'bbb'), rows, pad=False) == [
    '| a | bbb |',
    '|---|---:|',
    '| cc | 1 |',
    '| d |  |',
  ]
