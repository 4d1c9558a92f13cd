"""Edits of .tflite files."""

from ai_edge_litert import schema_py_generated as schema
import numpy as np

from export.graph import edit
from export.graph import tflite_graph
from tests.export import handmade


def test_unused_tensors_and_their_constants_are_removed():
  used = np.arange(4, dtype=np.float32)
  data = handmade.build(
    [
      handmade.tensor('unused', 'float32', (4,), data=used + 1),
      handmade.tensor('x', 'float32', (4,)),
      handmade.tensor('left over', 'float32', (4,)),
      handmade.tensor('w', 'float32', (4,), data=used),
      handmade.tensor('y', 'float32', (4,)),
    ],
    [('ADD', (1, 3), (4,))],
    (1,),
    (4,),
  )
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  edit.remove_unused_tensors(model)
  assert len(model.buffers) == 2  # the empty one, and that of `w`
  graph = tflite_graph.read_tflite(edit.serialize_model(model))
  assert [tensor.name for tensor in graph.tensors] == ['x', 'w', 'y']
  assert graph.operators == (tflite_graph.Operator('ADD', (0, 1), (2,)),)
  assert (graph.inputs, graph.outputs) == ((0,), (2,))
  assert tflite_graph.weight_bytes(graph) == 16


def test_tensors_are_named_after_layers():
  """Two tensors of one layer get different names."""
  path = 'jit(compute)/Segmenter/encoder/stem/norm/bn'
  joined = f'min;max;{path}/add;{path}/mul;'
  names = [
    'serving_default_image:0',
    joined,
    joined,
    'tfl.pseudo_qconst',
    'out',
  ]
  model = schema.ModelT()
  main = schema.SubGraphT()
  main.inputs, main.outputs, main.operators = [0], [4], []
  main.tensors = []
  for name in names:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name.encode(), [1], 0
    main.tensors.append(tensor)
  model.version, model.buffers = 3, [schema.BufferT()]
  model.subgraphs, model.operatorCodes = [main], []
  found = tflite_graph.read_tflite(
    edit.shorten_tensor_names(edit.serialize_model(model))
  )
  assert [tensor.name for tensor in found.tensors] == [
    *(names[0], 'encoder/stem/norm/bn/add', 'encoder/stem/norm/bn/add:2'),
    *names[3:],
  ]
