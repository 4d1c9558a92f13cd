"""Names in the flatbuffer schema of .tflite files.

Weights are imported from such files and networks are exported to them: both
sides read operator codes and tensor types here. The schema itself is LiteRT's
generated module, which has numbers only.
"""

from ai_edge_litert import schema_py_generated as schema

FILE_IDENTIFIER = b'TFL3'

_OPERATOR_NAMES = {
  number: name
  for name, number in vars(schema.BuiltinOperator).items()
  if isinstance(number, int)
}
DTYPE_NAMES = {
  number: name.lower()
  for name, number in vars(schema.TensorType).items()
  if isinstance(number, int)
}


def has_identifier(content: bytes) -> bool:
  """Returns True if bytes begin as those of a .tflite file do."""
  return content[4:8] == FILE_IDENTIFIER


def operator_name(code: schema.OperatorCodeT) -> str:
  """Returns the name of an operator code, such as 'CONV_2D'.

  A custom operator is 'CUSTOM:' with its own name, and a number that this
  version of the schema lacks is 'UNKNOWN_' with that number.
  """
  # The 8-bit field is the only one in files from before there were 128
  # operators.
  number = max(code.builtinCode, code.deprecatedBuiltinCode)
  name = _OPERATOR_NAMES.get(number, f'UNKNOWN_{number}')
  if name == 'CUSTOM':
    custom = code.customCode or b''
    return f'CUSTOM:{custom.decode(errors="replace")}'
  return name
