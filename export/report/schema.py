"""report.json as dataclasses; `to_json` defines its keys.

Earlier exports are read by these keys, so they are never renamed.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class FormatReport:
  """One entry of `formats` in report.json: a file and its checks.

  Attributes:
    file: file name within the export.
    file_bytes: size of the file or folder, bytes.
    params: parameters of the model.
    summary: sizes, operators and I/O tensors, as `Format.summarize` reads them
      from the file; its keys become keys of the entry.
    miou: mIoU on the validation split; None without an evaluation.
    iou: IoU per class, None for classes without pixels.
    miou_difference_points: mIoU minus that of JAX, in points.
    agreement: arg-max agreement with JAX, over all pixels and per class.
    parity: differences from the outputs of JAX.
    simulation: differences from simulated int8; None for no simulation.
    conversion_seconds: time that the conversion took.
    latency_ms: latency of LiteRT on this machine; None if not measured.
  """

  file: str
  file_bytes: int
  params: int
  summary: dict[str, Any]
  miou: float | None
  iou: list[float | None] | None
  miou_difference_points: float | None
  agreement: dict[str, Any] | None
  parity: dict[str, Any]
  simulation: dict[str, Any] | None
  conversion_seconds: float
  latency_ms: float | None = None

  def to_json(self) -> dict[str, Any]:
    """Returns the entry, with the summary spread into it."""
    return {
      'file': self.file,
      'file_bytes': self.file_bytes,
      'params': self.params,
      **self.summary,
      'latency_ms': self.latency_ms,
      'miou': self.miou,
      'iou': self.iou,
      'miou_difference_points': self.miou_difference_points,
      'agreement': self.agreement,
      'parity': self.parity,
      'simulation': self.simulation,
      'conversion_seconds': round(self.conversion_seconds, 2),
    }


@dataclasses.dataclass
class Report:
  """report.json; fields are its keys, and are filled in step by step.

  Attributes:
    source: the weights (`ExportSource.describe`).
    dataset: name of the data set.
    classes: class names.
    scored: number of evaluated images; None without an evaluation.
    request: the fields of the request.
    notes: remarks for the reader.
    model: `macs` and `params` of the network.
    jax: `arithmetic`, `miou` and `iou` of the JAX model.
    formats: format -> its file and checks.
    beside: scores of the export that --baseline names; None for none.
    target: format -> its fit on the target.
    proof: format -> its device checks.
    versions: package -> version.
    resolver: LiteRT kernels that ran the files.
    overlays: True if overlays.png was written; without it the key is absent.
  """

  source: dict[str, Any]
  dataset: str
  classes: list[str]
  scored: int | None
  request: dict[str, Any]
  versions: dict[str, str]
  resolver: str
  notes: list[str] = dataclasses.field(default_factory=list)
  model: dict[str, int] = dataclasses.field(default_factory=dict)
  jax: dict[str, Any] = dataclasses.field(default_factory=dict)
  formats: dict[str, FormatReport] = dataclasses.field(default_factory=dict)
  beside: dict[str, Any] | None = None
  target: dict[str, Any] = dataclasses.field(default_factory=dict)
  proof: dict[str, Any] = dataclasses.field(default_factory=dict)
  overlays: bool = False

  def to_json(self) -> dict[str, Any]:
    """Returns the content of report.json."""
    report: dict[str, Any] = {
      'source': self.source,
      'dataset': self.dataset,
      'classes': self.classes,
      'scored': self.scored,
      'request': self.request,
      'notes': self.notes,
      'model': self.model,
      'jax': self.jax,
      'formats': {name: f.to_json() for name, f in self.formats.items()},
      'beside': self.beside,
      'target': self.target,
      'proof': self.proof,
      'versions': self.versions,
      'resolver': self.resolver,
    }
    if self.overlays:
      report['overlays'] = True
    return report
