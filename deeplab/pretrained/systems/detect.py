"""All systems, and which of them a file of tensors is of."""

from typing import Any
from typing import NamedTuple

from deeplab.pretrained import merge
from deeplab.pretrained.systems import deeplab
from deeplab.pretrained.systems import keras
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import mmseg
from deeplab.pretrained.systems import slim
from deeplab.pretrained.systems import timm
from deeplab.pretrained.systems import torchvision

PyTree = Any

# Where several name an encoder alike, the first is taken.
SYSTEMS: dict[str, mapping.WeightSystem] = {
  'deeplab': deeplab.SYSTEM,
  'keras': keras.SYSTEM,
  'torchvision': torchvision.SYSTEM,
  'timm': timm.SYSTEM,
  'mmseg': mmseg.SYSTEM,
  'slim': slim.SYSTEM,
  'slim_folded': slim.CONVERTED_SYSTEM,
  'tensorflow_folded': slim.OFFICIAL_SYSTEM,
}


class SystemMatch(NamedTuple):
  """A file in the names of one system.

  Attributes:
    tensors: of the file, renamed.
    tensor_refs: where our variables come from; the encoder's, and if the file
      is a whole network's those of the heads.
    unused: see `merge.merge_tensors`.
    fields: what config.model must hold for the weights to mean what they did,
      by 'encoder.padding'.
    normalization: `config.data.mean` and `std` of the system; None if unknown.
    bgr: the first convolution reads blue first.
  """

  tensors: merge.Tensors
  tensor_refs: mapping.TensorRefs
  unused: str
  fields: dict[str, Any]
  normalization: mapping.Normalization | None
  bgr: bool

  @property
  def found_share(self) -> float:
    """Share of the sources that the file has."""
    found = sum(s.name in self.tensors for s in self.tensor_refs.values())
    return found / max(len(self.tensor_refs), 1)


def match_system(
  system: mapping.WeightSystem,
  tensors: merge.Tensors,
  model: Any,
  variables: PyTree,
) -> SystemMatch | None:
  """Returns the file in the names of a system; None if it lacks the encoder.

  Args:
    system: one of `SYSTEMS`.
    tensors: of the file.
    model: the `Segmenter`.
    variables: its variables.
  """
  encoder = mapping.find_mapping(system.encoders, model.encoder)
  if encoder is None:
    return None
  parts = {'encoder': encoder}
  sources = encoder.tensor_refs(variables)
  whole = any(name.startswith(system.segmenter_prefix) for name in tensors)
  if whole:
    for scope, known, module in (
      ('head', system.heads, model.head),
      ('auxiliary', system.auxiliaries, model.auxiliary),
    ):
      part = mapping.find_mapping(known, module)
      if part is None:
        sources |= mapping.missing_tensor_refs(variables, scope)
      else:
        sources |= part.tensor_refs(variables)
        parts[scope] = part
  unused = [part.unused for part in parts.values()]
  if whole and model.auxiliary is None:
    unused.append(system.unused)
  values = encoder.normalization
  return SystemMatch(
    _rename_tensors(encoder, tensors),
    sources,
    '|'.join(pattern for pattern in unused if pattern),
    {
      f'{scope}.{field}': value
      for scope, part in parts.items()
      for field, value in part.fields.items()
    },
    values(variables) if callable(values) else values,
    encoder.bgr,
  )


def _rename_tensors(
  encoder: mapping.PartMapping, tensors: merge.Tensors
) -> merge.Tensors:
  """Returns the tensors of a file by the names that sources have.

  Where two get one name the second keeps its own, for the merge to list.
  """
  renamed: dict[str, Any] = {}
  for name, tensor in encoder.align(tensors).items():
    new = encoder.rename(name)
    renamed[name if new in renamed else new] = tensor
  return renamed


def detect_system(
  tensors: merge.Tensors, model: Any, variables: PyTree
) -> tuple[str, SystemMatch]:
  """Returns the system that names most of our variables as the file does.

  Args:
    tensors: of the file.
    model: the `Segmenter`.
    variables: its variables.

  Raises:
    ValueError: none names half of them so.
  """
  matches = {
    name: fit
    for name, system in SYSTEMS.items()
    if (fit := match_system(system, tensors, model, variables)) is not None
  }
  best = max(matches, key=lambda name: matches[name].found_share)
  if matches[best].found_share < 0.5:
    found = ', '.join(
      f'{name} {m.found_share:.0%}' for name, m in sorted(matches.items())
    )
    raise ValueError(
      f'no system names {type(model.encoder).__name__} as the file does '
      f'(tensors found: {found}); it is of another network, or say whose it '
      "is: config.init_from='torchvision:FILE'"
    )
  return best, matches[best]
