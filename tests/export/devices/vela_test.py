"""Vela, on a file of two operators."""

import numpy as np
import pytest
import tensorflow as tf

from export.devices import vela
from tests.export import small


def test_unsupported_operators_are_parsed():
  text = """
Warning: No memory mode specified. Using a default of Shared_Sram.

Warning (supported operators) operator: RESIZE_BILINEAR, ofm: 'a/b;c'
Reason: Scaling matches and operation has unsupported scale-factor=16
IF not (IFM H == IFM W == 1) AND not IFM Shape == OFM Shape:

Warning (supported operators) operator: PAD, ofm: 'pad'
Reason: Leading dimensions
"""
  assert vela.parse_unsupported(text) == (
    vela.UnsupportedOperator(
      'RESIZE_BILINEAR',
      'a/b;c',
      'Scaling matches and operation has unsupported scale-factor=16',
    ),
    vela.UnsupportedOperator('PAD', 'pad', 'Leading dimensions'),
  )


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  """An int8 file: a strided convolution, and a resize by 4."""
  rng = np.random.default_rng(0)
  kernel = tf.constant(rng.standard_normal((3, 3, 3, 8), np.float32))

  @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3), tf.float32)])
  def compute(x):
    x = tf.nn.conv2d(x, kernel, 2, 'SAME')
    return tf.raw_ops.ResizeBilinear(
      images=x, size=(32, 32), half_pixel_centers=True
    )

  path = tmp_path_factory.mktemp('vela') / 'model.tflite'
  path.write_bytes(small.convert(compute, (16, 16)))
  return str(path)


def test_summary_of_a_compiled_file(file):
  compiled = vela.compile_file(file)
  # With half-pixel centers an Ethos-U55 resizes by 2 only.
  assert [x.operator for x in compiled.refused] == ['RESIZE_BILINEAR']
  assert 'scale-factor=4' in compiled.refused[0].reason
  assert compiled.macs == 8 * 8 * 8 * 27
  assert compiled.cycles > 0
  # At least the input and the output of the convolution.
  assert compiled.sram_bytes >= 16 * 16 * 3 + 8 * 8 * 8
  assert compiled.flash_bytes >= 8 * 27


def test_vela_plans_with_the_given_sram(file):
  """With more SRAM an Ethos-U85 keeps more activations out of DRAM."""
  default = vela.compile_file(file, 'ethos-u85-256').sram_bytes
  assert default > 0
  given = default // 2
  assert vela.compile_file(file, 'ethos-u85-256', given).sram_bytes <= given


def test_unknown_accelerator(file):
  with pytest.raises(ValueError, match=r"'ethos-u1' is not one of ethos-u55"):
    vela.compile_file(file, 'ethos-u1')


def test_a_damaged_file_is_an_error(tmp_path):
  path = tmp_path / 'broken.tflite'
  path.write_bytes(b'0000TFL3')
  with pytest.raises(ValueError, match=r'Vela cannot compile .*broken\.tflite'):
    vela.compile_file(str(path))
