"""The interface of an encoder, on which heads rely.

An encoder is a Linen module with the fields

    output_stride: int            4, 8, 16 or 32
    multi_grid: tuple[int, ...]   rate factors of the last layers
    options: layers.Options

and `__call__(images, train) -> tuple[Array, ...]`: it maps normalized images
[B, H, W, C] to one feature map per stage, fine to coarse. Entry i has nominal
stride 2 ** (i + 1): 2, 4, 8, 16, 32 for i = 0 .. 4. A stage whose nominal
stride exceeds `output_stride` is atrous instead and stays at `output_stride`;
it still has its entry. An encoder that is cut early returns fewer entries. An
entry of stride s has ceil(H / s) rows.

So ASPP reads `features[-1]`, and DeepLabV3+'s decoder reads `features[1]`, the
low-level map at stride 4.

Every submodule with parameters is named: parameter paths are an interface that
weight importers, weight-decay masks and quantization rules match.

The sampling grid. With 'symmetric' padding row i of a map of stride s is
centered on image row i * s, for images of any size. So the maps of the same
weights at output strides a < b are related by `fine[::b // a] == coarse`,
always. With 'same' and 'keras' padding a strided layer that reads a map of
even size n is centered on its odd rows instead; each such layer moves the grid
by one row of its input. `fine[::b // a] == coarse` then holds exactly where
ceil(H / a) is 1 modulo b / a, for instance at H = 32 k + 1; where H is a
multiple of b, every layer moves the grid and the rows to compare are
`fine[b // a - 1::b // a]`. At H = 32 k + 1 all paddings compute one function,
and the first and last row of every map lie on the first and last row of the
image. So train on crops of 32 k + 1 (257, 321, 513), or use 'symmetric'
padding: then images of other sizes see the function that was trained.
"""

from collections.abc import Sequence

import jax

Array = jax.Array
FeatureMaps = tuple[Array, ...]


def check_choice(field: str, value: object, allowed: Sequence[object]) -> None:
  """Raises ValueError unless the value of a field is allowed.

  Args:
    field: name of the field, for the message.
    value: its value.
    allowed: the values that it may have.
  """
  if value not in allowed:
    raise ValueError(f'{field}={value!r} is not one of {tuple(allowed)}')
