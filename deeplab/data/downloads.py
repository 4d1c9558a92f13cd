"""Archives from where their authors keep them."""

from collections.abc import Mapping
import pathlib
from typing import Any
import urllib.request


def fetch(
  dl_manager: Any, urls: Mapping[str, str], what: str, remedy: str
) -> dict[str, pathlib.Path]:
  """Downloads and unpacks archives.

  Args:
    dl_manager: tfds' download manager.
    urls: address by any name.
    what: name of the data set.
    remedy: how to get it otherwise.

  Returns:
    The unpacked folder by the names in `urls`.

  Raises:
    ValueError: no network, or no such file there.
  """
  try:
    for url in urls.values():
      _probe(url)
    folders = dl_manager.download_and_extract(dict(urls))
  except Exception as error:  # whatever the network layers raise
    raise ValueError(
      f'{what} could not be downloaded ({error}): {remedy}'
    ) from error
  return {name: pathlib.Path(folder) for name, folder in folders.items()}


def _probe(url: str) -> None:
  """Raises OSError at once where the downloader would retry for minutes."""
  request = urllib.request.Request(url, method='HEAD')
  urllib.request.urlopen(request, timeout=20).close()
