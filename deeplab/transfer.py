"""Files from the network, whole."""

import http.client
import shutil
from typing import Any
import urllib.request

import tqdm

_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without an answer


def copy(url: str, file: Any, name: str) -> None:
  """Copies what stands at an address; on a terminal a bar shows how far it is.

  Args:
    url: the address.
    file: what it is written to, open for bytes and empty.
    name: what the bar calls it.

  Raises:
    OSError: no network, no such address, or less than was promised.
  """
  try:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
      length = int(answer.headers.get('Content-Length') or 0)
      with tqdm.tqdm.wrapattr(
        *(answer, 'read'),
        total=length or None,
        desc=name,
        unit_scale=True,
        unit='B',
        leave=False,
        disable=None,
      ) as read:
        shutil.copyfileobj(read, file, _CHUNK)
  except http.client.HTTPException as error:
    raise OSError(repr(error)) from error
  if length and file.tell() != length:
    raise OSError(f'{file.tell()} bytes of {length} came')
