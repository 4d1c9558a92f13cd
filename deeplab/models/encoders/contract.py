"""What every encoder promises, and what heads may rely on.

An encoder is a Linen module with the fields

    output_stride: int            4, 8, 16 or 32
    multi_grid: tuple[int, ...]   rate factors of the last layers
    options: layers.Options

and `__call__(images, train) -> tuple[Array, ...]`: images [B, H, W, C] in the
model's value range to one feature map a stage, fine to coarse. Entry i has
nominal stride 2 ** (i + 1): 2, 4, 8, 16, 32 for i = 0 .. 4. A stage whose
nominal stride exceeds `output_stride` is atrous instead and stays at
`output_stride`; its entry is there all the same. An encoder that is cut early
returns fewer entries. An entry of stride s has ceil(H / s) rows.

So `features[-1]` is what ASPP reads, and `features[1]` is the low-level map at
stride 4 that DeepLabV3+'s decoder reads.

Every parametrised submodule is named: parameter paths are an interface that
importers, weight-decay masks and quantisation rules match.

Where the grid lies. With 'symmetric' padding row i of a map of stride s is
centred on image row i * s, for images of any size. So the maps of the same
weights at output strides a < b are related by `fine[::b // a] == coarse`,
always. With 'same' and 'keras' padding a strided layer that meets a map of
even size n is centred on its odd rows instead; each such layer moves the grid
by one row of its input. `fine[::b // a] == coarse` then holds exactly where
ceil(H / a) is 1 modulo b / a, for instance at H = 32 k + 1; where H is a
multiple of b, every layer moves and the rows to compare are
`fine[b // a - 1::b // a]`. At H = 32 k + 1 all paddings are one function, and
the first and last row of every map lie on the first and last row of the image:
train on crops of 32 k + 1 (257, 321, 513), or use 'symmetric' padding, and
other sizes see the function that was trained.
"""

from collections.abc import Sequence

import jax

Array = jax.Array
FeatureMaps = tuple[Array, ...]


def check_choice(field: str, value: object, allowed: Sequence[object]) -> None:
  """Raises ValueError unless `value` of `field` is one of `allowed`."""
  if value not in allowed:
    raise ValueError(f'{field}={value!r} is not one of {tuple(allowed)}')
