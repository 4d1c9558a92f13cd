import markdown
import pytest

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


@pytest.mark.parametrize(
  ('value', 'html'),
  [
    ('traffic_light', 'traffic_light'),
    ('_x_ *a* `c` ~~s~~ a\\b', '_x_ *a* `c` &#126;&#126;s&#126;&#126; a\\b'),
    ('a|b', 'a|b'),
    ('<b> &amp;', '&lt;b&gt; &amp;amp;'),
    ('[x](javascript:y)', '[x](javascript:y)'),
    ('![x](/etc/x.png)', '![x](/etc/x.png)'),
    ('a\n\n# b', 'a # b'),
  ],
)
def test_text_that_is_not_ours_is_shown_as_it_is(value, html):
  escaped = text.escape_markdown(value)
  table = '\n'.join(text.format_table(('a', 'b'), [(escaped, '1')]))
  page = markdown.markdown(table, extensions=['tables'])
  assert f'<td>{html}</td>' in page


def test_code_of_text_that_is_not_ours():
  assert text.format_code('head.*') == '`head.*`'
  page = markdown.markdown(f'x {text.format_code("a`</code><b>")} y')
  assert page == '<p>x <code>a`&lt;/code&gt;&lt;b&gt;</code> y</p>'
