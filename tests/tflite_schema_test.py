import pytest

from deeplab import tflite_schema
from tests.export import handmade


@pytest.mark.parametrize(
  ('number', 'old_number', 'custom', 'name'),
  [
    (3, 3, None, 'CONV_2D'),
    (0, 4, None, 'DEPTHWISE_CONV_2D'),  # a file of before the 32-bit field
    (150, 127, None, 'GELU'),
    (32, 32, b'FlexErf', 'CUSTOM:FlexErf'),
    (32, 32, None, 'CUSTOM:'),
    (9999, 127, None, 'UNKNOWN_9999'),
  ],
)
def test_operator_names(number, old_number, custom, name):
  code = handmade.schema.OperatorCodeT()
  code.builtinCode, code.deprecatedBuiltinCode = number, old_number
  code.customCode = custom
  assert tflite_schema.operator_name(code) == name


def test_identifier():
  content = handmade.build([], [], (), ())
  assert tflite_schema.has_identifier(content)
  assert not tflite_schema.has_identifier(b'PK\x03\x04 a zip file')
