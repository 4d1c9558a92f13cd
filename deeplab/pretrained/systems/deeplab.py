"""This project's own weight files, whose names are our paths."""

import functools

import flax.linen as nn

from deeplab.pretrained import merge
from deeplab.pretrained.systems import mapping


def _own_tensor_refs(
  variables: mapping.PyTree, scope: str
) -> mapping.TensorRefs:
  paths = mapping.missing_tensor_refs(variables, scope)
  return {path: merge.TensorRef(path) for path in paths}


def _part_mapping(scope: str) -> mapping.PartMapping:
  return mapping.PartMapping(functools.partial(_own_tensor_refs, scope=scope))


SYSTEM = mapping.WeightSystem(
  encoders={nn.Module: _part_mapping('encoder')},
  heads={nn.Module: _part_mapping('head')},
  auxiliaries={nn.Module: _part_mapping('auxiliary')},
  segmenter_prefix='head/',
  unused='auxiliary/.*',
)
