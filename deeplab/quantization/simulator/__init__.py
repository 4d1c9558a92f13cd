"""Simulated int8: operators that compute what the exported file computes.

They replace JAX's by means of Qwix. Importing Qwix takes a second or more and
brings Flax NNX along, so it is imported on the first use, by `load_providers`.
Operators, interception and array metadata are private parts of Qwix
(`qwix._src`): its version is pinned in requirements.txt, and `qwix_compat` is
the only module that imports them.
"""

from typing import Any


def load_providers() -> Any:
  """Returns the module `simulator.providers`, which imports Qwix.

  Raises:
    ModuleNotFoundError: Qwix is not installed.
  """
  try:
    from deeplab.quantization.simulator import providers
  except ModuleNotFoundError as error:
    if error.name != 'qwix':
      raise
    raise ModuleNotFoundError(
      'simulated int8 needs Qwix: pip install -r requirements.txt', name='qwix'
    ) from error
  return providers
