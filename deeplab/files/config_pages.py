"""Loads config pages by name, as --config does.

Pages stand above the library, which does not import them: a published network
names its page as a text, and the page is looked up when it is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  # Only for annotations: modules can be built without ml_collections.
  from ml_collections import ConfigDict


def load_page(page: str) -> 'ConfigDict':
  """Returns the config of a page.

  Args:
    page: path and variant as --config takes them, with a slash between folders:
      'configs/voc_mnv2.py:mobile,os8'.

  Raises:
    ValueError: there is no such page, or it has no such variant.
  """
  path, _, variant = page.partition(':')
  module = path.removesuffix('.py').replace('/', '.')
  try:
    get_config = importlib.import_module(module).get_config
  except (ImportError, AttributeError, ValueError) as error:
    raise ValueError(
      f'{page!r} is no config page ({error}): name one like '
      "'configs/voc_mnv2.py:mobile', in the folder that holds `configs`"
    ) from None
  return get_config(variant)
