"""The parts of Qwix that the simulator builds on; the only importer of them.

All but `QuantizationRule` and `quantize_model` are private (`qwix._src`) and
may change with any release, so that requirements.txt pins the version. After an
update of Qwix this file is the one to mend, and the tests of
tests/quantization/simulator and tests/export/int8_litert_test.py are those to
run.

How Qwix quantizes a Linen module: while the module is called, functions such
as `jax.lax.conv_general_dilated` are replaced by operators, instances of
`QuantizedOp`. A provider holds one operator for each function and rounds
tensors for them (`_fake_quant`). Whether a tensor is rounded depends on the
operators before and after it, for example a convolution and the ReLU that is
fused into it. Operators therefore leave metadata on arrays, under the keys
below.
"""

import qwix
from qwix._src import aux_data
from qwix._src import interception
from qwix._src.core import qarray
from qwix._src.providers import odml
from qwix._src.providers import odml_ops
from qwix._src.utils import flax_util

# Public API.
QuantizationRule = qwix.QuantizationRule
quantize_model = qwix.quantize_model

# Providers: rounding in training, and marking for litert-converter.
TrainingProvider = odml.OdmlQatProvider
ConversionProvider = odml.OdmlConversionProvider

# Operators.
QuantizedOp = odml_ops.QuantizedOp
OnlyInputOp = odml_ops.OnlyInputOp  # rounds its input, not its output
OnlyOutputOp = odml_ops.OnlyOutputOp  # rounds its output, not its input
Conv = odml_ops.DotEinsumConv
BatchNorm = odml_ops.BatchNorm
Ufunc = odml_ops.UfuncCall  # add, multiply, subtract
CustomJvp = odml_ops.CustomJvpCall  # relu and relu6
Concatenate = odml_ops.Concatenate
PrimitiveBind = odml_ops.PrimitiveBindOp  # every primitive of JAX

# Metadata of arrays. It belongs to one array object and does not survive
# copies, `jax.tree.map`, rematerialization or a cast.
get_metadata = aux_data.get  # (array, key, default)
set_metadata = aux_data.set  # (array, key, value)

# The rule by which the next operator rounds the array. Rounding waits for that
# operator, since it may be fused with the one before.
RULE = odml_ops.AuxDataKey.FQ_RULE
# The rounded form of the array; 'self' if it is rounded already.
FAKE_QUANTIZED = odml_ops.AuxDataKey.FQ_ARRAY
# True if a bias, BatchNorm or activation can still be fused into the operator
# that made the array.
ALLOWS_FUSION = odml_ops.AuxDataKey.ALLOW_FUSION
# True for activations, False for weights and constants.
IS_ACTIVATION = odml_ops.AuxDataKey.IS_ACTIVATION
# The name of the parameter, for weights.
WEIGHT_NAME = odml_ops.AuxDataKey.WEIGHT_NAME
# The range (low, high), where it is known beforehand, such as a sigmoid's.
FIXED_RANGE = odml_ops.AuxDataKey.FIXED_RANGE

# How to round one tensor: dtype and calibration method.
HowToQuantize = qarray.HowToQuantize
calibrate = qarray.calibrate  # (array, how) -> {'absmax': ...}

# The Linen module that is being called, and its path.
current_module = flax_util.get_current_module
current_module_path = flax_util.get_current_module_path

# Replacement of functions while a module is called.
Interceptor = interception.Interceptor
PRIMITIVE_BIND_KEY = interception.PRIMITIVE_BIND_KEY
