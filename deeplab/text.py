"""Numbers, plurals and Markdown as text."""

from collections.abc import Sequence
import re

# `_` within a word is none of Markdown's, so that names stay readable.
_MARKDOWN = re.compile(r'[\\`*\[\]|]|(?<!\w)_|_(?!\w)')
_ENTITIES = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '~': '&#126;'}


def plural(number: int, noun: str, plural_noun: str = '') -> str:
  """Returns a number with its noun: '1 image', '2 images'."""
  return f'{number} {noun if number == 1 else plural_noun or f"{noun}s"}'


def format_number(value: float | int | None, format_spec: str = ',') -> str:
  """Formats a number, thousands separated by default; None becomes ''."""
  return '' if value is None else format(value, format_spec)


def escape_markdown(value: str) -> str:
  """Returns the Markdown of a text that is not ours, such as a class name.

  It is shown as it is, in one line: no markup, no HTML and no link.
  """
  line = ' '.join(value.split())
  for character, entity in _ENTITIES.items():
    line = line.replace(character, entity)
  return _MARKDOWN.sub(r'\\\g<0>', line)


def format_code(value: str) -> str:
  """Returns a text that is not ours as a code span of Markdown."""
  line = ' '.join(value.split())
  fence = '`' * (1 + max(map(len, re.findall('`+', line)), default=0))
  space = ' ' if '`' in line else ''
  return f'{fence}{space}{line}{space}{fence}'


def format_table(
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  right_align: bool = True,
  pad: bool = True,
) -> list[str]:
  """Returns the lines of a Markdown table.

  Args:
    header: one title per column.
    rows: one sequence of cells per row.
    right_align: align all columns but the first to the right, for numbers.
    pad: pad cells to the width of their column, for readers of the text;
      without it a new row changes one line of the file.
  """
  cells = [list(header), *[list(row) for row in rows]]
  if not pad:
    rule = ['---:' if right_align and i else '---' for i in range(len(header))]
    lines = [f'| {" | ".join(row)} |' for row in cells]
    return [lines[0], f'|{"|".join(rule)}|', *lines[1:]]
  widths = [max(len(c) for c in column) for column in zip(*cells, strict=True)]

  def line(row: Sequence[str]) -> str:
    padded = [
      c.rjust(w) if right_align and i else c.ljust(w)
      for i, (c, w) in enumerate(zip(row, widths, strict=True))
    ]
    return f'| {" | ".join(padded)} |'

  rule = [
    '-' * (w - 1) + ':' if right_align and i else '-' * w
    for i, w in enumerate(widths)
  ]
  return [line(cells[0]), line(rule), *[line(row) for row in cells[1:]]]
