"""Torchvision side of `input.py`: batches made by its v2 transforms.

It is a separate program, so that PyTorch can be installed in another Python
environment. It needs torch, torchvision and numpy. The first input line is a
JSON object with the settings; the program answers with its versions, and then,
for each further line, with the processor seconds of some batches.
"""

import itertools
import json
import sys
import time

import torch

from experiments.benchmarks import torch_worker

_DECLARATIONS = torch_worker.declare_missing_operators()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
import torchvision  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402


def _has_decoders() -> bool:
  """Returns True if torchvision was built with image decoders."""
  one = torch.frombuffer(bytearray(b'none'), dtype=torch.uint8)
  try:
    torchvision.io.decode_image(one)
  except RuntimeError as error:
    return 'nsupported image' in str(error)
  except (AttributeError, NotImplementedError):
    return False
  return True


_HAS_DECODERS = _has_decoders()


def _read_image(path: str, mode: str) -> torch.Tensor:
  """Reads a file as uint8 [C, H, W]."""
  if _HAS_DECODERS:
    kind = torchvision.io.ImageReadMode[mode]
    return torchvision.io.decode_image(torchvision.io.read_file(path), kind)
  with Image.open(path) as image:
    pixels = np.array(image)
  pixels = pixels[..., None] if pixels.ndim == 2 else pixels
  return torch.from_numpy(pixels).permute(2, 0, 1)


class _RandomScale(torch.nn.Module):
  """Resizes by a factor drawn from [low, high]."""

  def __init__(self, low: float, high: float):
    super().__init__()
    self.low, self.high = low, high

  def forward(self, image, mask):
    factor = self.low + (self.high - self.low) * torch.rand(()).item()
    size = [max(1, round(side * factor)) for side in mask.shape[-2:]]
    resize = v2.functional.resize
    return (
      resize(image, size, antialias=True),
      resize(mask, size, v2.InterpolationMode.NEAREST_EXACT),
    )


class _PairDataset(torch.utils.data.Dataset):
  """Augmented pairs of image and mask files."""

  def __init__(self, settings):
    self.pairs = settings['pairs']
    self.ignore = settings['ignore']
    height, width = settings['crop']
    fill = [round(value) for value in settings['mean']]
    self.transform = v2.Compose(
      [
        _RandomScale(settings['low'], settings['high']),
        v2.RandomCrop(
          (height, width),
          pad_if_needed=True,
          fill={tv_tensors.Image: fill, tv_tensors.Mask: self.ignore},
        ),
        v2.RandomHorizontalFlip(settings['flip']),
        v2.ToDtype(
          {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}
        ),
        v2.Normalize(settings['mean'], settings['std']),
      ]
    )

  def __len__(self):
    return len(self.pairs)

  def __getitem__(self, index):
    image, mask = self.pairs[index]
    return self.transform(
      tv_tensors.Image(_read_image(image, 'RGB')),
      tv_tensors.Mask(_read_image(mask, 'UNCHANGED')),
    )


def main() -> None:
  """Serves requests until stdin ends."""
  settings = json.loads(sys.stdin.readline())
  torch.set_num_threads(1)
  torch.manual_seed(0)
  loader = torch.utils.data.DataLoader(
    _PairDataset(settings), settings['batch'], shuffle=True, drop_last=True
  )
  stream = itertools.chain.from_iterable(itertools.repeat(loader))

  def say(**message):
    print(json.dumps(message), flush=True)

  decoder = 'its own decoders' if _HAS_DECODERS else "PIL's decoders"
  say(
    name=f'torchvision {torchvision.__version__}, v2 transforms, {decoder}, '
    'DataLoader'
  )
  for _ in sys.stdin:
    start = time.process_time()
    for image, _ in itertools.islice(stream, settings['batches']):
      shape = list(image.shape)
    say(seconds=time.process_time() - start, shape=shape)


if __name__ == '__main__':
  main()
