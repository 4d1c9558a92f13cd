"""The networks of two PyTorch repositories, from torchvision's modules.

Names, rates and order of the layers are those of the published code of
VainF/DeepLabV3Plus-Pytorch and jfzhang95/pytorch-deeplab-xception, whose
packages cannot be installed.
"""

import collections

from tests import torchvision_module

torch, torchvision = torchvision_module.load()
nn, functional = torch.nn, torch.nn.functional

# Rates of blocks 1 to 17 of MobileNetV2, by repository and output stride.
MOBILENET_RATES = {
  ('vainf', 16): [1] * 14 + [2] * 3,
  ('vainf', 8): [1] * 7 + [2] * 7 + [4] * 3,
  ('jfzhang', 16): [1] * 16 + [2],
  ('jfzhang', 8): [1] * 10 + [2] * 6 + [4],
}
# Rates of the 3x3 convolutions of ResNet's third and fourth stage.
RESNET_RATES = {
  ('vainf', 16): ((1, 1), (1, 2, 2)),
  ('vainf', 8): ((1, 2), (2, 4, 4)),
  ('jfzhang', 16): ((1, 1), (2, 4, 8)),
  ('jfzhang', 8): ((2, 2), (4, 8, 16)),
}


def conv_bn(cin, cout, kernel=1, rate=1):
  """Returns convolution, BatchNorm and ReLU."""
  conv = nn.Conv2d(
    cin, cout, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False
  )
  return [conv, nn.BatchNorm2d(cout), nn.ReLU()]


def leaves(module):
  """Returns the layers in a sequence of sequences."""
  return [m for m in module.modules() if not [*m.children()]]


def mobilenet(repository, output_stride):
  """Returns the 18 first layers, whose blocks pad their inputs."""
  features = torchvision.models.mobilenet_v2(weights=None).features[:18]
  reached = 2
  for block, rate in zip(
    features[1:], MOBILENET_RATES[repository, output_stride], strict=True
  ):
    if repository == 'jfzhang':
      block.conv = nn.Sequential(*leaves(block.conv))
    for conv in leaves(block):
      if getattr(conv, 'groups', 1) > 1:
        if reached == output_stride:
          conv.stride = (1, 1)
        reached *= conv.stride[0]
        conv.padding, conv.dilation = (0, 0), (rate, rate)
    block.conv.register_forward_pre_hook(
      lambda _, inputs, rate=rate: functional.pad(inputs[0], [rate] * 4)
    )
  return features


def resnet(repository, depth, output_stride):
  """Returns the layers of a ResNet by name, without the classifier."""
  model = getattr(torchvision.models, f'resnet{depth}')(weights=None)
  third, fourth = RESNET_RATES[repository, output_stride]
  third = (third[0], *third[1:] * (len(model.layer3) - 1))
  for stage, rates, removed in (
    (model.layer3, third, output_stride == 8),
    (model.layer4, fourth, True),
  ):
    if removed:
      stage[0].conv2.stride = stage[0].downsample[0].stride = (1, 1)
    for unit, rate in zip(stage, rates, strict=True):
      unit.conv2.dilation = unit.conv2.padding = (rate, rate)
  layers = collections.OrderedDict(model.named_children())
  del layers['avgpool'], layers['fc']
  return layers


class Aspp(nn.Module):
  """VainF's pyramid, which is torchvision's."""

  def __init__(self, cin, rates):
    super().__init__()
    self.convs = nn.ModuleList(
      [
        nn.Sequential(*conv_bn(cin, 256)),
        *(nn.Sequential(*conv_bn(cin, 256, 3, rate)) for rate in rates),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(cin, 256)),
      ]
    )
    self.project = nn.Sequential(*conv_bn(5 * 256, 256), nn.Dropout(0.1))

  def forward(self, x):
    *maps, pooled = [conv(x) for conv in self.convs]
    return self.project(torch.cat([*maps, pooled.expand_as(maps[0])], 1))


class Separable(nn.Module):
  """What VainF's --separable_conv puts in place of a 3x3 convolution."""

  def __init__(self, conv):
    super().__init__()
    cin, cout = conv.in_channels, conv.out_channels
    self.body = nn.Sequential(
      nn.Conv2d(
        *(cin, cin, 3),
        padding=conv.padding,
        dilation=conv.dilation,
        groups=cin,
        bias=False,
      ),
      nn.Conv2d(cin, cout, 1, bias=False),
    )

  def forward(self, x):
    return self.body(x)


def make_separable(module):
  """Replaces the 3x3 convolutions of a module."""
  for name, child in module.named_children():
    if isinstance(child, nn.Conv2d) and child.kernel_size == (3, 3):
      setattr(module, name, Separable(child))
    else:
      make_separable(child)


class VainF(nn.Module):
  """DeepLabV3+ or DeepLabV3 of VainF/DeepLabV3Plus-Pytorch.

  Attributes:
    backbone: encoder, by the names of its parts.
    classifier: head.
  """

  def __init__(self, encoder, plus, output_stride, classes, separable=False):
    super().__init__()
    rates = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
    mobile = encoder == 'mnv2'
    wide, low = (320, 24) if mobile else (2048, 256)
    if mobile:
      features = mobilenet('vainf', output_stride)
      layers = {
        'low_level_features': features[:4],
        'high_level_features': features[4:],
      }
    else:
      layers = resnet('vainf', encoder.removeprefix('r'), output_stride)
    self.backbone = nn.ModuleDict(layers)
    self.low = 'low_level_features' if mobile else 'layer1'
    self.classifier = nn.Module()
    if plus:
      self.classifier.project = nn.Sequential(*conv_bn(low, 48))
      self.classifier.aspp = Aspp(wide, rates)
      self.classifier.classifier = nn.Sequential(
        *conv_bn(304, 256, 3), nn.Conv2d(256, classes, 1)
      )
    else:
      self.classifier.classifier = nn.Sequential(
        *(Aspp(wide, rates), *conv_bn(256, 256, 3)),
        nn.Conv2d(256, classes, 1),
      )
    if separable:
      make_separable(self.classifier)

  def forward(self, images):
    x = images
    for name, layer in self.backbone.items():
      x = layer(x)
      if name == self.low:
        low = x
    head = self.classifier
    if hasattr(head, 'aspp'):
      low = head.project(low)
      x = functional.interpolate(head.aspp(x), low.shape[2:], mode='bilinear')
      x = torch.cat([low, x], 1)
    x = head.classifier(x)
    return functional.interpolate(x, images.shape[2:], mode='bilinear')


class AtrousConv(nn.Module):
  """A branch of jfzhang95's pyramid."""

  def __init__(self, cin, kernel, rate):
    super().__init__()
    self.atrous_conv, self.bn, self.relu = conv_bn(cin, 256, kernel, rate)

  def forward(self, x):
    return self.relu(self.bn(self.atrous_conv(x)))


class JfzhangAspp(nn.Module):
  """jfzhang95's pyramid."""

  def __init__(self, cin, rates):
    super().__init__()
    self.aspp1 = AtrousConv(cin, 1, 1)
    self.aspp2, self.aspp3, self.aspp4 = (
      AtrousConv(cin, 3, rate) for rate in rates
    )
    self.global_avg_pool = nn.Sequential(
      nn.AdaptiveAvgPool2d(1), *conv_bn(cin, 256)
    )
    self.conv1, self.bn1, self.relu = conv_bn(5 * 256, 256)

  def forward(self, x):
    branches = (self.aspp1, self.aspp2, self.aspp3, self.aspp4)
    maps = [branch(x) for branch in branches]
    maps.append(self.global_avg_pool(x).expand_as(maps[0]))
    return self.relu(self.bn1(self.conv1(torch.cat(maps, 1))))


class Jfzhang(nn.Module):
  """DeepLabV3+ of jfzhang95/pytorch-deeplab-xception.

  Attributes:
    backbone: encoder; a MobileNetV2 has its layers twice.
    aspp: pyramid.
    decoder: the rest.
  """

  def __init__(self, encoder, output_stride, classes, dropout=True):
    super().__init__()
    rates = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
    mobile = encoder == 'mnv2'
    wide, low = (320, 24) if mobile else (2048, 256)
    self.backbone = nn.Module()
    if mobile:
      self.backbone.features = mobilenet('jfzhang', output_stride)
      self.backbone.low_level_features = self.backbone.features[:4]
      self.backbone.high_level_features = self.backbone.features[4:]
      self.parts = (
        [self.backbone.low_level_features],
        [self.backbone.high_level_features],
      )
    else:
      layers = resnet('jfzhang', 101, output_stride)
      for name, layer in layers.items():
        self.backbone.add_module(name, layer)
      self.parts = [*layers.values()][:5], [*layers.values()][5:]
    self.aspp = JfzhangAspp(wide, rates)
    self.decoder = nn.Module()
    self.decoder.conv1, self.decoder.bn1, self.decoder.relu = conv_bn(low, 48)
    self.decoder.last_conv = nn.Sequential(
      *conv_bn(304, 256, 3),
      *([nn.Dropout(0.5)] if dropout else []),
      *conv_bn(256, 256, 3),
      *([nn.Dropout(0.1)] if dropout else []),
      nn.Conv2d(256, classes, 1),
    )

  def forward(self, images):
    def resize(x, size):
      return functional.interpolate(
        x, size, mode='bilinear', align_corners=True
      )

    x = images
    for layer in self.parts[0]:
      x = layer(x)
    low = x
    for layer in self.parts[1]:
      x = layer(x)
    decoder = self.decoder
    low = decoder.relu(decoder.bn1(decoder.conv1(low)))
    x = torch.cat([resize(self.aspp(x), low.shape[2:]), low], 1)
    return resize(decoder.last_conv(x), images.shape[2:])
