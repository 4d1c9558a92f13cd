"""Edits of .tflite files: removes unused tensors, shortens tensor names.

A file is edited as the object tree of LiteRT's schema (`schema.ModelT`), and
`serialize_model` turns it into bytes again.
"""

import re

from ai_edge_litert import schema_py_generated as schema
import flatbuffers

from deeplab import tflite_schema


def remove_unused_tensors(model: schema.ModelT) -> None:
  """Removes the tensors and constants that no operator uses, in place.

  TFLite Micro reserves arena memory for every tensor, used or not. Metadata
  keeps its buffers.
  """
  _remove_tensors(model)
  _remove_buffers(model)


def _remove_tensors(model: schema.ModelT) -> None:
  """Removes tensors that are neither inputs, outputs, nor an operator's."""
  (graph,) = model.subgraphs
  used = {*graph.inputs, *graph.outputs}
  for op in graph.operators:
    used |= {*op.inputs, *op.outputs}
  kept = sorted({int(i) for i in used if i >= 0})
  new_index = {old: new for new, old in enumerate(kept)}
  new_index[-1] = -1  # an absent optional input
  graph.tensors = [graph.tensors[i] for i in kept]
  for op in (*graph.operators, graph):
    op.inputs = [new_index[int(i)] for i in op.inputs]
    op.outputs = [new_index[int(i)] for i in op.outputs]
  for signature in model.signatureDefs or ():
    for end in (*signature.inputs, *signature.outputs):
      end.tensorIndex = new_index[end.tensorIndex]


def _remove_buffers(model: schema.ModelT) -> None:
  """Removes buffers that neither a tensor nor metadata refers to."""
  buffers = [schema.BufferT()]  # the first one means "no data"
  new_index: dict[int, int] = {}
  for holder in (*model.subgraphs[0].tensors, *(model.metadata or ())):
    old = holder.buffer
    data = model.buffers[old].data
    if data is None or not len(data):
      holder.buffer = 0
      continue
    if old not in new_index:
      new_index[old] = len(buffers)
      buffers.append(model.buffers[old])
    holder.buffer = new_index[old]
  model.buffers, model.metadataBuffer = buffers, []


def shorten_tensor_names(data: bytes) -> bytes:
  """Renames the tensors of a file after the layers that make them.

  TensorFlow joins the names of all operations that it fused, which takes a
  twentieth of a small file. Inputs and outputs keep their names.

  Args:
    data: bytes of a .tflite file.

  Returns:
    The bytes of the edited file.
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
  builder.Finish(model.Pack(builder), tflite_schema.FILE_IDENTIFIER)
  return bytes(builder.Output())
