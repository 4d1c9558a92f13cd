"""Logits of mmsegmentation's files equal mmsegmentation's; skips without it."""

import jax
import numpy as np
import pytest

from deeplab.models import segmenter
from deeplab.models.encoders import resnet
from deeplab.models.heads import deeplabv3plus
from deeplab.models.heads import fcn
from tests import mmseg_module
from tests import torchvision_module
from tests.pretrained import weight_cases

NORM = {'type': 'BN', 'requires_grad': True}


@pytest.fixture
def mmseg(monkeypatch):
  return mmseg_module.load(monkeypatch)


def network(torch, mmseg, depth, stem, strides, dilations, rates, widths, **kw):
  """Returns DeepLabV3+ with an auxiliary head, as its configs build it."""
  align_corners = kw.pop('align_corners')
  low, wide, channels, auxiliary = widths
  head = {'norm_cfg': NORM, 'num_classes': 5, 'align_corners': align_corners}
  module = torch.nn.Module()
  module.backbone = getattr(mmseg, f'ResNet{stem}')(
    depth=depth,
    num_stages=4,
    strides=strides,
    dilations=dilations,
    norm_cfg=NORM,
    norm_eval=False,
    contract_dilation=True,
    **kw,
  )
  module.decode_head = mmseg.DepthwiseSeparableASPPHead(
    c1_in_channels=wide // 8,
    c1_channels=low,
    in_channels=wide,
    in_index=3,
    channels=channels,
    dilations=(1, *rates),
    dropout_ratio=0.1,
    **head,
  )
  module.auxiliary_head = mmseg.FCNHead(
    in_channels=wide // 2,
    in_index=2,
    channels=auxiliary,
    num_convs=1,
    concat_input=False,
    **head,
  )
  return weight_cases.torch_state(module)


@pytest.mark.filterwarnings('ignore')  # mmsegmentation deprecates its own
@pytest.mark.parametrize('size', [(65, 81), (64, 48)])
@pytest.mark.parametrize(
  ('depth', 'stem', 'output_stride', 'widths', 'multi_grid', 'align_corners'),
  [
    (18, 'V1c', 8, (12, 512, 128, 64), None, False),
    pytest.param(
      *(50, 'V1c', 16, (48, 2048, 512, 256), None, False),
      marks=pytest.mark.full,
    ),
    pytest.param(
      *(50, 'V1c', 16, (48, 2048, 512, 256), (1, 2, 4), True),
      marks=pytest.mark.full,
    ),
    pytest.param(
      *(18, '', 16, (12, 512, 128, 64), None, True), marks=pytest.mark.full
    ),
  ],
)
def test_deeplabv3plus(
  tmp_path,
  mmseg,
  depth,
  stem,
  output_stride,
  widths,
  multi_grid,
  align_corners,
  size,
):
  torch = torchvision_module.load()[0]
  eight = output_stride == 8
  strides, dilations, rates = (
    ((1, 2, 1, 1), (1, 1, 2, 4), (12, 24, 36))
    if eight
    else ((1, 2, 2, 1), (1, 1, 1, 2), (6, 12, 18))
  )
  module = network(
    *(torch, mmseg, depth, stem, strides, dilations, rates, widths),
    align_corners=align_corners,
    multi_grid=multi_grid,
  )
  path = str(tmp_path / 'model.pth')
  torch.save({'meta': {'epoch': 1}, 'state_dict': module.state_dict()}, path)

  low, _, channels, auxiliary = widths
  encoder = {18: resnet.ResNet18, 50: resnet.ResNet50}[depth](
    output_stride,
    stem=stem.lower() or 'v1',
    basic_dilation='first' if depth == 18 else 'both',
    multi_grid=multi_grid or (1, 1, 1),
    multi_grid_mode='replace' if multi_grid else 'multiply',
  )
  model = segmenter.Segmenter(
    encoder,
    deeplabv3plus.DeepLabV3Plus(
      num_classes=5,
      rates=rates,
      channels=channels,
      decoder_channels=channels,
      low_level_channels=low,
      projection_kernel=3,
      align_corners=align_corners,
    ),
    fcn.FCN(num_classes=5, channels=auxiliary),
    num_classes=5,
  )
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), np.zeros((1, 65, 65, 3), np.float32))
  )
  start = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), shapes)
  variables = weight_cases.imported(path, 'mmseg', model, start)

  x = weight_cases.images(*size, seed=1)
  with torch.no_grad():
    maps = module.backbone(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    expected = [module.decode_head(maps), module.auxiliary_head(maps)]

  def run(model, x):
    features = model.encoder(x, False)
    return model.head(features, False) + model.auxiliary(features, False)

  actual = jax.jit(lambda v, x: model.apply(v, x, method=run))(variables, x)
  for ours, theirs in zip(actual, expected, strict=True):
    theirs = theirs.numpy().transpose(0, 2, 3, 1)
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    print(f'mmseg resnet {depth}{stem} {size}: {error:.1e}')
    assert theirs.std() > 1e-2
    assert error < 1e-4
