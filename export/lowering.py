"""Simulated int8 -> .tflite, by litert-converter: the arithmetic of JAX.

TensorFlow's converter leaves the marks of `providers.lower` in place, and its
file computes in float.
"""

from collections.abc import Sequence
import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema
import jax
import jax.numpy as jnp
from litert_converter import converter_api_ext
from litert_converter.mlir import ir
from litert_converter.mlir import passmanager
import numpy as np

from deeplab.data import bands
from deeplab.models import segmenter
from deeplab.quantization import deployed
from deeplab.quantization import rules as rules_lib
from export import graph as graph_lib
from export import request as request_lib
from export import saved_model

PyTree = Any


def network(
  model: segmenter.Segmenter,
  variables: PyTree,
  request: request_lib.Request,
  mean: Sequence[float],
  std: Sequence[float],
  highest: int = bands.RGB.highest,
) -> tuple[Any, PyTree, tuple[float, float] | None]:
  """Returns (network, variables, input range) of what stands in the file.

  The range of pixels is known: one of 8 bits is its own int8 value then, but
  for the zero point.
  """
  if not request.normalization_in_graph:
    return model, variables, None
  variables = deployed.with_layer(variables, mean, std)
  return deployed.network(model), variables, (0.0, float(highest))


def _convert(text: str) -> bytes:
  """Returns the flatbuffer of a StableHLO module with marked tensors."""
  with saved_model.quiet() as held, ir.Context() as context:
    converter_api_ext.prepare_mlir_context(context)
    module = ir.Module.parse(text)
    config = converter_api_ext.ConvertToTFLConfig()
    config.qdq_conversion_mode = 'STATIC'
    config.strict_qdq_mode = True  # without it tensors stay float
    try:
      converter_api_ext.run_convert_to_tfl_passes(
        module, passmanager.PassManager(), config
      )
      converter_api_ext.set_signature(
        module.operation, 'serving_default', ['image'], ['output']
      )
      return converter_api_ext.export_flatbuffer_to_bytes(module.operation)
    except Exception as error:  # the converter raises many
      raise ValueError(
        'litert-converter cannot convert the model; --formats=int8 does it by '
        f'TensorFlow, or --float_layers leaves layers out: {error} '
        f'{held()[:500]}'
      ) from error


def _retype(data: bytes, input_type: str, output_type: str) -> bytes:
  """Gives a file of float32 ends those that were asked for.

  int8 drops the QUANTIZE behind the input or the DEQUANTIZE before the output;
  uint8 makes it a change of the zero point.
  """
  model = schema.ModelT.InitFromPackedBuf(data, 0)
  (main,) = model.subgraphs
  names = [_name(model, op) for op in main.operators]

  def replace(old: int, new: int) -> None:
    main.inputs = [new if i == old else int(i) for i in main.inputs]
    main.outputs = [new if i == old else int(i) for i in main.outputs]
    for signature in model.signatureDefs or ():
      for end in (*signature.inputs, *signature.outputs):
        end.tensorIndex = new if end.tensorIndex == old else end.tensorIndex

  for wanted, name, at in (
    (input_type, 'QUANTIZE', 'inputs'),
    (output_type, 'DEQUANTIZE', 'outputs'),
  ):
    if wanted == 'float32':
      continue
    (outer,) = (int(i) for i in getattr(main, at))
    places = [
      i
      for i, op in enumerate(main.operators)
      if outer in getattr(op, at) and names[i] == name
    ]
    if len(places) != 1:
      raise graph_lib.BadGraph(
        f'the {at[:-1]} of the file is not one {name}: it cannot be {wanted}'
      )
    operator = main.operators[places[0]]
    inner = int((operator.outputs if at == 'inputs' else operator.inputs)[0])
    if wanted == 'int8':
      del main.operators[places[0]], names[places[0]]
      replace(outer, inner)
      continue
    tensor, like = main.tensors[outer], main.tensors[inner]
    tensor.type = schema.TensorType.UINT8
    tensor.quantization = copy.deepcopy(like.quantization)
    tensor.quantization.zeroPoint = [int(like.quantization.zeroPoint[0]) + 128]
    if at == 'outputs':
      operator.opcodeIndex = _quantize_code(model)
      operator.builtinOptions = None
      operator.builtinOptionsType = 0
  graph_lib.prune(model)  # the float32 ends
  return graph_lib.pack(model)


def _name(model: schema.ModelT, operator: schema.OperatorT) -> str:
  code = model.operatorCodes[operator.opcodeIndex]
  return graph_lib.operator_name(code)


def _quantize_code(model: schema.ModelT) -> int:
  """Returns the index of QUANTIZE among the model's operators."""
  for i, code in enumerate(model.operatorCodes):
    if graph_lib.operator_name(code) == 'QUANTIZE':
      return i
  code = schema.OperatorCodeT()
  code.builtinCode = code.deprecatedBuiltinCode = (
    schema.BuiltinOperator.QUANTIZE
  )
  code.version = 2
  model.operatorCodes.append(code)
  return len(model.operatorCodes) - 1


def convert(
  model: segmenter.Segmenter,
  variables: PyTree,
  rules: rules_lib.Rules,
  request: request_lib.Request,
  mean: Sequence[float],
  std: Sequence[float],
  highest: int = bands.RGB.highest,
) -> bytes:
  """Returns the bytes of a file that computes what `simulate` computes.

  Args:
    model: built with depthwise and pointwise 'conv', in float32.
    variables: {'params', 'batch_stats', 'quant_stats'}.
    rules: what is quantised.
    request: the export; its output is 'logits'.
    mean: a value a channel.
    std: likewise.
    highest: the largest value that a pixel may have.

  Raises:
    graph.BadGraph: an operator that must not be in such a file; it and its
      tensor are named.
    ValueError: the converter failed, and why.
  """
  from deeplab.quantization import providers

  net, variables, pixels = network(
    model, variables, request, mean, std, highest
  )
  variables = jax.tree.map(np.asarray, variables)
  net = providers.lower(net, rules, variables, pixels)
  arrays = {k: v for k, v in variables.items() if k != 'quant_stats'}

  def compute(image: jax.Array) -> Any:
    # Not NumPy's: those lose Qwix's notes.
    output: Any = net.apply(jax.tree.map(jnp.asarray, arrays), image)
    return output.logits

  image = jax.ShapeDtypeStruct((1, *request.input_size, len(mean)), jnp.float32)
  data = _convert(jax.jit(compute).lower(image).as_text())
  data = _retype(data, request.input_type, request.output_type)
  try:
    graph_lib.check(
      graph_lib.read(data),
      'the int8_litert file',
      'int8',
      request.input_type,
      request.output_type,
      weights=rules.weights,
      floats_allowed=bool(rules.float_layers),
    )
  except graph_lib.BadGraph as error:
    raise graph_lib.BadGraph(
      f'{error}; --formats=int8 has operators for more layers'
    ) from None
  return data
