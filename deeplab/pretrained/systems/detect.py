"""All weight systems, and the detection of the system of a file."""

from typing import Any
from typing import NamedTuple

from deeplab.pretrained import merge
from deeplab.pretrained.systems import deeplab
from deeplab.pretrained.systems import jfzhang
from deeplab.pretrained.systems import keras
from deeplab.pretrained.systems import mapping
from deeplab.pretrained.systems import mmseg
from deeplab.pretrained.systems import paddleseg
from deeplab.pretrained.systems import slim
from deeplab.pretrained.systems import smp
from deeplab.pretrained.systems import timm
from deeplab.pretrained.systems import torchvision
from deeplab.pretrained.systems import vainf

PyTree = Any

# Where several systems use the same names, the first one is used.
SYSTEMS: dict[str, mapping.WeightSystem] = {
  'deeplab': deeplab.SYSTEM,
  'keras': keras.SYSTEM,
  'torchvision': torchvision.SYSTEM,
  'timm': timm.SYSTEM,
  'mmseg': mmseg.SYSTEM,
  'paddleseg': paddleseg.SYSTEM,
  'smp': smp.SYSTEM,
  'vainf': vainf.SYSTEM,
  'jfzhang': jfzhang.SYSTEM,
  'slim': slim.SYSTEM,
  'slim_folded': slim.CONVERTED_SYSTEM,
  'tensorflow_folded': slim.OFFICIAL_SYSTEM,
}


class SystemMatch(NamedTuple):
  """A file read by the names of one weight system.

  Attributes:
    tensors: tensors of the file by their new names.
    tensor_refs: the tensor of each of our variables: of the encoder, and of the
      heads if the file is a whole network's.
    unused: regular expression for tensors without a counterpart.
    fields: required fields of config.model, by 'encoder.padding'.
    normalization: `config.data.mean` and `std` of the system; None if unknown.
    bgr: the first convolution reads BGR.
  """

  tensors: merge.Tensors
  tensor_refs: mapping.TensorRefs
  unused: str
  fields: dict[str, Any]
  normalization: mapping.Normalization | None
  bgr: bool

  @property
  def found_share(self) -> float:
    """Share of the tensor references that the file has, 0..1."""
    found = sum(ref.name in self.tensors for ref in self.tensor_refs.values())
    return found / max(len(self.tensor_refs), 1)


def match_system(
  system: mapping.WeightSystem,
  tensors: merge.Tensors,
  model: Any,
  variables: PyTree,
) -> SystemMatch | None:
  """Reads a file by the names of a system; None if it lacks the encoder.

  Args:
    system: one of `SYSTEMS`.
    tensors: tensors of the file by name.
    model: the `Segmenter`.
    variables: its variables.
  """
  encoder = mapping.find_mapping(system.encoders, model.encoder)
  if encoder is None:
    return None
  parts = {'encoder': encoder}
  refs = encoder.tensor_refs(variables)
  whole = any(name.startswith(system.segmenter_prefix) for name in tensors)
  if whole:
    for scope, mappings, module in (
      ('head', system.heads, model.head),
      ('auxiliary', system.auxiliaries, model.auxiliary),
    ):
      part = mapping.find_mapping(mappings, module)
      if part is None:
        refs |= mapping.missing_tensor_refs(variables, scope)
      else:
        refs |= part.tensor_refs(variables)
        parts[scope] = part
  unused = [part.unused for part in parts.values()]
  if whole and model.auxiliary is None:
    unused.append(system.unused)
  normalization = encoder.normalization
  return SystemMatch(
    _rename_tensors(encoder, tensors),
    refs,
    '|'.join(pattern for pattern in unused if pattern),
    {
      f'{scope}.{field}': value
      for scope, part in parts.items()
      for field, value in part.fields.items()
    },
    normalization(variables) if callable(normalization) else normalization,
    encoder.bgr,
  )


def _rename_tensors(
  encoder: mapping.PartMapping, tensors: merge.Tensors
) -> merge.Tensors:
  """Returns the tensors of a file by the names in the tensor references.

  Where two would get one name the second keeps its own, and the merge reports
  it.
  """
  renamed: dict[str, Any] = {}
  for name, tensor in encoder.align(tensors).items():
    new = encoder.rename(name)
    renamed[name if new in renamed else new] = tensor
  return renamed


def detect_system(
  tensors: merge.Tensors, model: Any, variables: PyTree
) -> tuple[str, SystemMatch]:
  """Returns the system whose names fit the file best, and the match.

  Args:
    tensors: tensors of the file by name.
    model: the `Segmenter`.
    variables: its variables.

  Raises:
    ValueError: no system finds half of our variables in the file.
  """
  matches = {
    name: match
    for name, system in SYSTEMS.items()
    if (match := match_system(system, tensors, model, variables)) is not None
  }
  best = max(matches, key=lambda name: matches[name].found_share)
  if matches[best].found_share < 0.5:
    shares = ', '.join(
      f'{name} {m.found_share:.0%}' for name, m in sorted(matches.items())
    )
    raise ValueError(
      f'no system names {type(model.encoder).__name__} as the file does '
      f'(tensors found: {shares}); the file is of another network, or its '
      "system must be given: config.init_from='torchvision:FILE'"
    )
  return best, matches[best]
