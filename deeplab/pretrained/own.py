"""Names of our own weights: the paths, as `export` writes them."""

import functools

import flax.linen as nn

from deeplab.pretrained import merge
from deeplab.pretrained import names


def _sources(variables: names.PyTree, scope: str) -> names.Sources:
  layouts = names.nowhere(variables, scope)
  return {path: merge.Source(path) for path in layouts}


def _part(scope: str) -> names.Part:
  return names.Part(functools.partial(_sources, scope=scope))


SYSTEM = names.System(
  encoders={nn.Module: _part('encoder')},
  heads={nn.Module: _part('head')},
  auxiliaries={nn.Module: _part('auxiliary')},
  whole='head/',
  unused='auxiliary/.*',
)
