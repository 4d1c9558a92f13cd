import base64
import re

import numpy as np

from deeplab import text
from deeplab import visualize
from export.report import html_page


def test_tables_and_images(tmp_path):
  visualize.save_image(np.full((3, 4, 3), 200, np.uint8), tmp_path / 'a.png')
  lines = text.format_table(('what', 'KiB'), [('a & b', '1.0'), ('c', '22.5')])
  page = '\n'.join(['# A report', '', *lines, '', '![x](a.png)', ''])
  html = html_page.render_page(page, str(tmp_path))
  assert html.startswith('<!doctype html>')
  assert '<title>A report</title>' in html
  assert html.count('<tr>') == 3
  assert 'a &amp; b</td>' in html
  data = re.search(r'src="data:image/png;base64,([^"]+)"', html)[1]
  assert base64.b64decode(data) == (tmp_path / 'a.png').read_bytes()
