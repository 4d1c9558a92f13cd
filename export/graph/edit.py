"""Edits of .tflite files: unused parts removed, tensors named after layers."""

import re

from ai_edge_litert import schema_py_generated as schema
import flatbuffers


def remove_unused_tensors(model: schema.ModelT) -> None:
  """Drops tensors and constants of a file that no operator has.

  TFLite Micro gives room in its arena to every tensor, used or not.
  """
  (graph,) = model.subgraphs
  ends = (*graph.inputs, *graph.outputs)
  of_operators = (
    i for op in graph.operators for i in (*op.inputs, *op.outputs)
  )
  kept = sorted({int(i) for i in (*ends, *of_operators) if i >= 0})
  place = {old: new for new, old in enumerate(kept)} | {-1: -1}
  graph.tensors = [graph.tensors[i] for i in kept]
  for op in (*graph.operators, graph):
    op.inputs = [place[int(i)] for i in op.inputs]
    op.outputs = [place[int(i)] for i in op.outputs]
  for signature in model.signatureDefs or ():
    for end in (*signature.inputs, *signature.outputs):
      end.tensorIndex = place[end.tensorIndex]

  buffers = [schema.BufferT()]  # the first one stands for no data
  moved: dict[int, int] = {}
  for holder in (*graph.tensors, *(model.metadata or ())):
    old = holder.buffer
    data = model.buffers[old].data
    if data is None or not len(data):
      holder.buffer = 0
      continue
    if old not in moved:
      moved[old] = len(buffers)
      buffers.append(model.buffers[old])
    holder.buffer = moved[old]
  model.buffers, model.metadataBuffer = buffers, []


def shorten_tensor_names(data: bytes) -> bytes:
  """Returns a file whose tensors have the names of the layers that make them.

  TensorFlow joins the names of all that it has fused, a twentieth of a small
  file. Inputs and outputs keep theirs.
  """
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  for graph in model.subgraphs:
    _shorten_names(graph)
  return serialize_model(model)


def _shorten_names(graph: schema.SubGraphT) -> None:
  ends = {int(i) for i in (*graph.inputs, *graph.outputs)}
  names = {graph.tensors[i].name for i in ends}
  for i, tensor in enumerate(graph.tensors):
    if i in ends:
      continue
    parts = tensor.name.decode().split(';')
    name = _layer_path(next((x for x in parts if '/' in x), parts[0])).encode()
    tensor.name = name if name not in names else name + f':{i}'.encode()
    names.add(tensor.name)


def _layer_path(path: str) -> str:
  """'jit(f)/Segmenter/encoder/stem/bn/add' -> 'encoder/stem/bn/add'."""
  parts = path.split('/')
  while len(parts) > 1 and re.match(r'jit\(|[A-Z]', parts[0]):
    parts = parts[1:]
  return '/'.join(parts)


def serialize_model(model: schema.ModelT) -> bytes:
  """Returns the bytes of a .tflite file."""
  builder = flatbuffers.Builder(1024)
  builder.Finish(model.Pack(builder), b'TFL3')
  return bytes(builder.Output())
