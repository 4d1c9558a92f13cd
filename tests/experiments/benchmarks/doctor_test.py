"""The doctor's benchmark examines as many pairs as it is told."""

import numpy as np
from PIL import Image

from configs import camvid_mnv2
from experiments.benchmarks import doctor as benchmark


def test_pairs_are_repeated(tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (('train', 3), ('val', 1)):
    for name, high in (('images', 256), ('labels', 11)):
      (tmp_path / split / name).mkdir(parents=True)
      for i in range(count):
        pixels = rng.integers(0, high, (48, 64)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / split / name / f'{i}.png')
  config = camvid_mnv2.get_config()
  with config.unlocked():
    config.data.root = str(tmp_path)
  cost = benchmark.measure_doctor('configs/camvid_mnv2.py', config.data, 40, 1)
  assert cost.pairs == 40
  assert cost.seconds > 0
  assert cost.processor_seconds > 0
