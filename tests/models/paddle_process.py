"""Runs a network of PaddleSeg on given weights, for `paddle_cases`."""

import json
import sys

import numpy as np


def randomise(state):
  """Returns values by name that keep the size of activations."""
  generator = np.random.default_rng(0)
  arrays = {}
  for name, tensor in state.items():
    shape = tuple(tensor.shape)
    if len(shape) > 1:
      fan_in = np.prod(shape[1:]) if len(shape) == 4 else shape[0]
      value = fan_in**-0.5 * generator.standard_normal(shape)
    elif name.endswith(('_variance', '.weight')):
      value = generator.uniform(0.5, 1.5, shape)
    else:
      value = 0.2 * generator.standard_normal(shape)
    arrays[name] = value.astype(np.float32)
  return arrays


def main(request, source, target):
  import paddle
  from paddleseg import models
  from paddleseg.models import backbones

  request = json.loads(request)
  model = getattr(backbones, request['backbone'])(**request['fields'])
  if 'head' in request:
    model = models.MobileSeg(backbone=model, **request['head'])
  arrays = dict(np.load(source))
  images = [arrays.pop(name) for name in [*arrays] if 'images' in name]
  state = model.state_dict()
  if 'save' in request:
    arrays = randomise(state)
  if set(arrays) != set(state):
    raise ValueError(f'on one side only: {sorted(set(arrays) ^ set(state))}')
  for name, value in arrays.items():
    # Squeeze-and-excitation is a matrix in some.
    if len(state[name].shape) == 2 and value.ndim == 4:
      value = value[:, :, 0, 0].T
    if tuple(state[name].shape) != value.shape:
      raise ValueError(f'{name} is {state[name].shape}, not {value.shape}')
    state[name].set_value(paddle.to_tensor(np.ascontiguousarray(value)))
  model.eval()
  if 'save' in request:
    paddle.save(model.state_dict(), request['save'])
  with paddle.no_grad():
    maps = [y for x in images for y in model(paddle.to_tensor(x))]
  np.savez(target, *(y.numpy() for y in maps))


if __name__ == '__main__':
  main(*sys.argv[1:])
