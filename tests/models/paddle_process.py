"""Runs a network of PaddleSeg on given weights, for `paddle_cases`."""

import json
import sys

import numpy as np


def main(request, source, target):
  import paddle
  from paddleseg import models
  from paddleseg.models import backbones

  request = json.loads(request)
  model = getattr(backbones, request['backbone'])(**request['fields'])
  if 'head' in request:
    model = models.MobileSeg(backbone=model, **request['head'])
  arrays = dict(np.load(source))
  images = arrays.pop('images')
  state = model.state_dict()
  if set(arrays) != set(state):
    raise ValueError(f'on one side only: {sorted(set(arrays) ^ set(state))}')
  for name, value in arrays.items():
    # Squeeze-and-excitation is a matrix in some.
    value = value[:, :, 0, 0].T if len(state[name].shape) == 2 else value
    if tuple(state[name].shape) != value.shape:
      raise ValueError(f'{name} is {state[name].shape}, not {value.shape}')
    state[name].set_value(paddle.to_tensor(np.ascontiguousarray(value)))
  model.eval()
  with paddle.no_grad():
    maps = model(paddle.to_tensor(images))
  np.savez(target, *(y.numpy() for y in maps))


if __name__ == '__main__':
  main(*sys.argv[1:])
