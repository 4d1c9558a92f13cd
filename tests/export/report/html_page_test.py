import base64
import html.parser
import re

import numpy as np
import pytest

from deeplab import text
from deeplab import visualize
from export.report import comparison
from export.report import device_sections
from export.report import html_page


def test_tables_and_images(tmp_path):
  visualize.save_image(np.full((3, 4, 3), 200, np.uint8), tmp_path / 'a.png')
  lines = text.format_table(('what', 'KiB'), [('a & b', '1.0'), ('c', '22.5')])
  page = '\n'.join(['# A report', '', *lines, '', '![x](a.png)', ''])
  shown = html_page.render_page(page, str(tmp_path))
  assert shown.startswith('<!doctype html>')
  assert '<title>A report</title>' in shown
  assert shown.count('<tr>') == 3
  assert 'a &amp; b</td>' in shown
  data = re.search(r'src="data:image/png;base64,([^"]+)"', shown)[1]
  assert base64.b64decode(data) == (tmp_path / 'a.png').read_bytes()


HOSTILE = (
  '<script>alert(1)</script>',
  '<img src=x onerror=alert(1)>',
  '[x](javascript:alert(1))',
  '![x](../secret.png) a|b',
  '</title></style><b>',
  'traffic_light',
)


class Elements(html.parser.HTMLParser):
  """Collects tags, attributes and text."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.attributes, self.texts = set(), set(), []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes |= {name for name, _ in attrs}

  def handle_data(self, data):
    self.texts.append(data)


def test_names_of_the_user_are_shown_as_they_are(tmp_path):
  scores = {'miou': 0.5, 'iou': [0.5] * len(HOSTILE)}
  agreement = {'all': 0.9, 'classes': [0.9] * len(HOSTILE)}
  report = {
    'classes': list(HOSTILE),
    'jax': scores,
    'scored': 3,
    'formats': {'int8': {**scores, 'agreement': agreement}},
    'beside': {'export': HOSTILE[0], 'jax': 0.5, 'formats': {HOSTILE[1]: 0.5}},
  }
  failed = {'memory': {'operators': []}, 'npu': {'u55': {'error': HOSTILE[1]}}}
  visualize.save_image(np.zeros((3, 4, 3), np.uint8), tmp_path / 'secret.png')
  (tmp_path / 'export').mkdir()
  lines = [
    f'# Export of {text.escape_markdown(HOSTILE[4])}',
    '',
    *device_sections.render_class_section(report),
    *comparison.render_comparison(report),
    *device_sections.render_npu_section('int8', failed),
  ]
  page = html_page.render_page('\n'.join(lines), str(tmp_path / 'export'))
  elements = Elements(page)
  assert elements.tags == {
    *('html', 'head', 'meta', 'title', 'style', 'body', 'h1', 'h2', 'p', 'ul'),
    *('li', 'table', 'thead', 'tbody', 'tr', 'th', 'td'),
  }
  assert elements.attributes <= {'lang', 'charset', 'style'}
  for name in HOSTILE:
    assert any(name in data for data in elements.texts), name


@pytest.mark.parametrize('name', HOSTILE[:3])
def test_html_and_links_in_a_report_are_text(tmp_path, name):
  """Also where a name was not escaped."""
  page = f'# Of {name}\n\n{name}\n\n[x]: javascript:alert(1)\n\n[x][x] [x]\n'
  elements = Elements(html_page.render_page(page, str(tmp_path)))
  assert not elements.tags & {'script', 'a', 'img', 'b'}
