"""Renders report.md as one HTML file with its images embedded."""

import base64
import os
import re

import markdown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem
  auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .8rem .2rem 0; }
th { border-color: #888; }
img { max-width: 100%; }
code { background: #f3f3f3; }
"""


def _make_renderer() -> markdown.Markdown:
  """Returns a renderer without HTML and links.

  Reports need neither, and names of classes, runs and folders are the user's.
  """
  renderer = markdown.Markdown(extensions=['tables'])
  renderer.preprocessors.deregister('html_block')
  renderer.parser.blockprocessors.deregister('reference')
  for pattern in ('html', 'link', 'reference', 'short_reference'):
    renderer.inlinePatterns.deregister(pattern)
  for pattern in ('image_reference', 'short_image_ref', 'autolink', 'automail'):
    renderer.inlinePatterns.deregister(pattern)
  return renderer


def render_page(text: str, folder: str) -> str:
  """Renders Markdown as an HTML page.

  Args:
    text: Markdown with tables; its first heading is the title.
    folder: folder of the PNG files that it refers to.

  Returns:
    The HTML.
  """

  def embed(match: re.Match) -> str:
    with open(os.path.join(folder, match[1]), 'rb') as f:
      data = base64.b64encode(f.read()).decode()
    return f'src="data:image/png;base64,{data}"'

  body = _make_renderer().convert(text)
  body = re.sub(r'src="([\w.-]+\.png)"', embed, body)
  heading = re.search(r'<h1>(.*?)</h1>', body, re.DOTALL)
  # Without markup; text is escaped there already.
  title = re.sub(r'<[^>]*>', '', heading[1]) if heading else 'Export'
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    f'{body}\n</body>\n</html>\n'
  )
