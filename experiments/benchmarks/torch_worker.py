"""PyTorch side of `train_step.py`: runs one training step at a time.

It is a separate program, so that PyTorch can be installed in another Python
environment. It needs torch, and takes the network from
segmentation_models_pytorch if installed; otherwise it builds the same network
itself. It writes one JSON object per line: first its versions, then the seconds
of one step for each line that it reads.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def declare_missing_operators() -> torch.library.Library | None:
  """Declares operators so that torchvision imports without its C++ library.

  Its Python code looks up a few operators at import that no segmentation
  network calls.

  Returns:
    The operator library; the declarations live as long as this object.
  """
  spec = importlib.util.find_spec('torchvision')
  if spec is None or spec.origin is None:
    return None
  for library in pathlib.Path(spec.origin).parent.glob('_C*.so'):
    # Any failure to load means the same: the operators are not there.
    with contextlib.suppress(OSError, RuntimeError):
      torch.ops.load_library(str(library))
      return None
  fragment = torch.library.Library('torchvision', 'FRAGMENT')
  for name in (
    'nms',
    'qnms',
    'roi_align',
    'roi_pool',
    'ps_roi_align',
    'ps_roi_pool',
    'deform_conv2d',
  ):
    inputs = 'Tensor a, Tensor b, float c' if name == 'nms' else 'Tensor a'
    fragment.define(f'{name}({inputs}) -> Tensor')
  return fragment


def _conv_bn(cin, cout, kernel=1, stride=1, rate=1, groups=1, act=nn.ReLU):
  padding = (kernel - 1) // 2 * rate
  conv = nn.Conv2d(cin, cout, kernel, stride, padding, rate, groups, bias=False)
  layers = [conv, nn.BatchNorm2d(cout)]
  return nn.Sequential(*layers, *([act()] if act else []))


def _separable(cin, cout, rate=1):
  depthwise = nn.Conv2d(
    cin, cin, 3, padding=rate, dilation=rate, groups=cin, bias=False
  )
  return nn.Sequential(depthwise, _conv_bn(cin, cout))


class _Block(nn.Module):
  """Inverted residual block of MobileNetV2."""

  def __init__(self, cin, cout, stride, rate, expansion):
    super().__init__()
    wide = cin * expansion
    layers = [_conv_bn(cin, wide, act=nn.ReLU6)] if expansion > 1 else []
    layers += [
      _conv_bn(wide, wide, 3, stride, rate, groups=wide, act=nn.ReLU6),
      _conv_bn(wide, cout, act=None),
    ]
    self.layers = nn.Sequential(*layers)
    self.shortcut = stride == 1 and cin == cout

  def forward(self, x):
    y = self.layers(x)
    return x + y if self.shortcut else y


class _DeepLabV3Plus(nn.Module):
  """DeepLabV3+ with MobileNetV2 at output stride 16, as in smp."""

  def __init__(self, classes):
    super().__init__()
    blocks = [_conv_bn(3, 32, 3, 2, act=nn.ReLU6)]
    cin = 32
    for expansion, cout, count, stride, rate in (
      (1, 16, 1, 1, 1),
      (6, 24, 2, 2, 1),
      (6, 32, 3, 2, 1),
      (6, 64, 4, 2, 1),
      (6, 96, 3, 1, 1),
      (6, 160, 3, 1, 2),
      (6, 320, 1, 1, 2),
    ):
      for i in range(count):
        blocks.append(_Block(cin, cout, 1 if i else stride, rate, expansion))
        cin = cout
    blocks.append(_conv_bn(320, 1280, act=nn.ReLU6))
    self.fine = nn.Sequential(*blocks[:4])
    self.coarse = nn.Sequential(*blocks[4:])
    self.branches = nn.ModuleList(
      [_conv_bn(1280, 256)] + [_separable(1280, 256, r) for r in (12, 24, 36)]
    )
    self.pool = _conv_bn(1280, 256)
    self.project = nn.Sequential(_conv_bn(5 * 256, 256), nn.Dropout(0.5))
    self.refine = _separable(256, 256)
    self.low = _conv_bn(24, 48)
    self.decoder = _separable(256 + 48, 256)
    self.classifier = nn.Conv2d(256, classes, 1)

  def forward(self, images):
    resize = lambda x, like, corners: F.interpolate(
      x, size=like.shape[-2:], mode='bilinear', align_corners=corners
    )
    fine = self.fine(images)
    x = self.coarse(fine)
    pooled = resize(self.pool(x.mean((2, 3), keepdim=True)), x, False)
    branches = [branch(x) for branch in self.branches]
    x = self.refine(self.project(torch.cat([*branches, pooled], 1)))
    x = torch.cat([resize(x, fine, True), self.low(fine)], 1)
    return resize(self.classifier(self.decoder(x)), images, True)


def _build_network(classes: int) -> tuple[str, nn.Module]:
  """Returns (origin, network)."""
  declarations = declare_missing_operators()
  try:
    import segmentation_models_pytorch as smp
  except ImportError:
    return 'own definition', _DeepLabV3Plus(classes)
  network = smp.DeepLabV3Plus(
    'mobilenet_v2',
    encoder_weights=None,
    classes=classes,
    encoder_output_stride=16,
  )
  del declarations
  return f'segmentation_models_pytorch {smp.__version__}', network


def _count_macs(network: nn.Module, images: torch.Tensor) -> int:
  """Returns the MACs of all convolutions for one image."""
  total = 0

  def add(conv, _, out):
    nonlocal total
    total += conv.weight[0].numel() * out[0].numel()

  convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
  handles = [c.register_forward_hook(add) for c in convolutions]
  network.eval()
  with torch.no_grad():
    network(images[:1])
  network.train()
  for handle in handles:
    handle.remove()
  return total


def main() -> None:
  """Serves requests until stdin ends."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    '--device', choices=('auto', 'cpu', 'cuda'), required=True
  )
  parser.add_argument('--threads', type=int, required=True)
  parser.add_argument('--batch', type=int, required=True)
  parser.add_argument('--size', type=int, required=True)
  parser.add_argument('--classes', type=int, required=True)
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), required=True)
  args = parser.parse_args()
  device = args.device
  if device == 'auto':
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
  if args.threads:
    torch.set_num_threads(args.threads)
  torch.backends.cudnn.benchmark = True

  source, network = _build_network(args.classes)
  network = network.to(device, memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
  shape = (args.batch, args.size, args.size)
  images = torch.rand(args.batch, 3, args.size, args.size, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.randint(0, args.classes, shape, device=device)
  half = args.dtype == 'bfloat16'

  def step():
    optimizer.zero_grad()
    with torch.autocast(device, torch.bfloat16, enabled=half):
      loss = F.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()

  def synchronise():
    if device == 'cuda':
      torch.cuda.synchronize()

  def say(**message):
    print(json.dumps(message), flush=True)

  say(
    name=f'PyTorch {torch.__version__} on {device}, channels-last, {source}',
    macs=_count_macs(network, images),
    params=sum(p.numel() for p in network.parameters()),
  )
  for _ in sys.stdin:
    synchronise()
    start = time.perf_counter()
    step()
    synchronise()
    say(seconds=time.perf_counter() - start)


if __name__ == '__main__':
  main()
