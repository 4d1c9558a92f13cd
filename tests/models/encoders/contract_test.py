import pytest

from deeplab.models.encoders import contract
from deeplab.models.encoders import ghostnet
from deeplab.models.encoders import lite_hrnet
from deeplab.models.encoders import mobilenet_v2
from deeplab.models.encoders import mobilenet_v3
from deeplab.models.encoders import regnet
from deeplab.models.encoders import resnet
from deeplab.models.encoders import shufflenet_v2
from deeplab.models.encoders import xception
from deeplab.models.encoders import xception_keras
from tests.models.encoders import encoder_cases


@pytest.mark.parametrize('output_stride', [4, 8, 16, 32])
@pytest.mark.parametrize(
  ('encoder', 'channels'),
  [
    (ghostnet.GhostNetTiny, (8, 12, 16, 24, 28)),
    (mobilenet_v2.MobileNetV2Tiny, (8, 8, 8, 24, 80)),
    (regnet.RegNetXTiny, (8, 8, 12, 16, 24)),
    (resnet.ResNetTiny, (4, 16, 24, 32, 40)),
    (mobilenet_v3.MobileNetV3Tiny, (8, 16, 24, 40, 288)),
    (shufflenet_v2.ShuffleNetV2Tiny, (8, 8, 12, 16, 24)),
    (xception.XceptionTiny, (8, 12, 16, 16, 32)),
    (xception_keras.XceptionKerasTiny, (8, 12, 16, 24, 32)),
  ],
)
def test_one_entry_per_stage(encoder, channels, output_stride):
  shapes = encoder_cases.shapes(encoder(output_stride=output_stride), 61, 40)
  expected = []
  for stride, c in zip((2, 4, 8, 16, 32), channels, strict=True):
    stride = min(stride, output_stride)
    expected.append((-(-61 // stride), -(-40 // stride), c))
  assert shapes == expected


@pytest.mark.parametrize('output_stride', [4, 8, 16, 32])
def test_lite_hrnet_drops_coarser_maps(output_stride):
  encoder = lite_hrnet.LiteHRNetTiny(output_stride=output_stride)
  assert encoder_cases.shapes(encoder, 61, 40) == [
    (-(-61 // stride), -(-40 // stride), c)
    for stride, c in zip((2, 4, 8, 16, 32), (8, 16, 16, 24, 32), strict=True)
    if stride <= output_stride
  ]


def test_unknown_value_is_in_the_message():
  with pytest.raises(ValueError, match=r"tap='both' is not one of \('a', 'b'"):
    contract.check_choice('tap', 'both', ('a', 'b'))
