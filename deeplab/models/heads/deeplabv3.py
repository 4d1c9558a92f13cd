"""The DeepLabV3 head: ASPP and a classifier at the encoder's output stride.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation"
(2017, arXiv:1706.05587).

* TF DeepLab (`model.py`): `refine='none'`.
* Its mobile models: `rates=()` as well, that is, image pooling and one 1x1.
* torchvision and segmentation_models.pytorch: `refine='dense'`,
  `rates=(12, 24, 36)`, `aspp_dropout=0.5`.
* mmsegmentation (`ASPPHead`): `projection_kernel=3`, `aspp_dropout=0`,
  `dropout=0.1`, `dropout_channels=True`.
"""

import flax.linen as nn
import jax

from deeplab.models.heads import aspp

Array = jax.Array


class DeepLabV3(aspp.ASPPHead):
  """Maps feature maps to logits [B, h, w, num_classes] at the last map's size.

  Fields of `aspp.ASPPHead` and `base.Head`.
  """

  @nn.compact
  def __call__(
    self,
    features: tuple[Array, ...],
    train: bool,
    dropout_keys: Array | None = None,
  ) -> tuple[Array, ...]:
    """Computes the logits, one entry; arguments as in `heads/base.py`."""
    keys = dropout_keys if train else None
    x = self.apply_aspp(features[-1], train, keys)
    return (self.classify(x, keys),)
