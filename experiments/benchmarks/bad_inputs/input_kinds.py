"""Kinds of input: genuine small files, and how the product opens them.

Each kind is an entry of `KINDS`. To add one, write a function that writes a
genuine sample into an empty folder, and one that opens the folder by the
product's own functions and returns what it read.
"""

import base64
from collections import OrderedDict
from collections.abc import Callable
import functools
import io
import json
import pathlib
import pickle
import struct
import sys
import tempfile
import types
from typing import Any
import zipfile

import cv2
import flatbuffers
import h5py
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import safetensors.numpy
import scipy.io
import tifffile

from configs import camvid_mnv2_cut
from configs import common
from configs import shapes_mnv2
import configs.recipes.folder
from deeplab import networks
from deeplab import predict
from deeplab import visualize
from deeplab import workdir
from deeplab.data import catalog
from deeplab.data import dataset_info
from deeplab.data import image_folder
from deeplab.data import image_format
from deeplab.data.builders import coco
from deeplab.data.builders import coco_panoptic
from deeplab.data.builders import folder
from deeplab.data.builders import pascal_context
from deeplab.data.builders import voc
from deeplab.data.formats import coco_annotations
from deeplab.data.preparation import mask_files
from deeplab.data.preparation import raw_files
from deeplab.data.preparation import records
from deeplab.files import output_files
from deeplab.inference import load
from deeplab.inference import model_card
from deeplab.pretrained import model_folder
from deeplab.pretrained import resolve
from deeplab.training import metric_writer
from experiments.benchmarks.bad_inputs import mutations
from experiments.benchmarks.bad_inputs import trials
from export.devices import targets
from export.report import comparison

_SIZE = (6, 8)  # (H, W) of images
_BANDS = image_format.ImageSpec(5, 16)
_NAMES = ('background', 'road', 'car')


def _pixels(channels: int = 3, dtype: str = 'uint8') -> np.ndarray:
  """Returns an image [H, W, C] of smooth and rough parts."""
  rng = np.random.default_rng(channels)
  high = np.iinfo(dtype).max
  image = rng.integers(0, high, (*_SIZE, channels), endpoint=True)
  image[:, :4] = high // 3
  return image.astype(dtype)


def _labels() -> np.ndarray:
  """Returns ids [H, W] uint8 of three classes and 255."""
  label = np.arange(48, dtype=np.uint8).reshape(_SIZE) % 3
  label[0, 0] = 255
  return label


# Images.


def _write_with_pil(
  path: pathlib.Path, *, mode: str = 'RGB', name: str, **options: Any
) -> None:
  image = Image.fromarray(_pixels()).convert(mode)
  image.save(path / name, **options)


def _write_palette_mask(path: pathlib.Path) -> None:
  mask = Image.fromarray(_labels(), 'P')
  mask.putpalette([value for i in range(256) for value in (i, 0, 255 - i)])
  mask.save(path / 'mask.png')


def _write_with_opencv(
  path: pathlib.Path, *, name: str, channels: int, dtype: str
) -> None:
  _, data = cv2.imencode(name[name.index('.') :], _pixels(channels, dtype))
  (path / name).write_bytes(data.tobytes())


def _write_bands(path: pathlib.Path, *, planar: bool, **options: Any) -> None:
  image = _pixels(_BANDS.channels, 'uint16')
  tifffile.imwrite(
    path / 'image.tif',
    np.moveaxis(image, -1, 0) if planar else image,
    photometric='minisblack',
    planarconfig='separate' if planar else 'contig',
    software=False,
    metadata=None,
    **options,
  )


def _write_array(
  path: pathlib.Path, *, spec: image_format.ImageSpec, version: int
) -> None:
  with open(path / 'image.npy', 'wb') as file:
    np.lib.format.write_array(
      file, _pixels(spec.channels, str(spec.dtype)), (version, 0)
    )


def _write_pickled_array(path: pathlib.Path) -> None:
  with open(path / 'image.npy', 'wb') as file:
    np.lib.format.write_array(file, np.array([_Program()], object))


def _only_file(path: pathlib.Path) -> pathlib.Path:
  (file,) = (file for file in path.iterdir() if file.is_file())
  return file


def _open_image(path: pathlib.Path) -> Any:
  """Reads an RGB image for preparation and for prediction."""
  file = _only_file(path)
  data, size = raw_files.read_encoded_image(file)
  return data, size, image_folder.read_image(file, image_format.RGB)


def _open_bands(path: pathlib.Path, spec: image_format.ImageSpec) -> Any:
  return image_folder.read_image(_only_file(path), spec)


def _open_mask(path: pathlib.Path) -> Any:
  return mask_files.read_mask(_only_file(path))


def _write_mat(path: pathlib.Path, *, key: str) -> None:
  label = _labels()
  content = label.astype(np.uint16)
  if key == 'GTcls':
    content = np.zeros((1, 1), [('Segmentation', object)])
    content[0, 0]['Segmentation'] = label
  with open(path / f'{key}.mat', 'wb') as file:
    # Without the header, which has the time.
    scipy.io.savemat(file, {key: content}, do_compression=key == 'GTcls')
    file.seek(0)
    file.write(b'MATLAB 5.0 MAT-file'.ljust(116))


def _open_mat(path: pathlib.Path) -> Any:
  file = _only_file(path)
  if file.name == 'GTcls.mat':
    return voc.read_mask(file)
  builder = pascal_context.PascalContext
  return builder.read_mask(builder.__new__(builder), file)


# Annotations and lists.


def _folder_data(path: pathlib.Path) -> ConfigDict:
  """Returns `config.data` of a folder with three named classes."""
  config = common.default_config()
  configs.recipes.folder.set_data(config)
  config.data.root = str(path)
  config.data.num_classes = len(_NAMES)
  config.data.class_names = _NAMES
  return config.data


def _write_image(path: pathlib.Path) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(_pixels()).save(path)


def _write_json(path: pathlib.Path, value: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=1), 'utf-8')


_POLYGON = [1.0, 1.0, 6.5, 1.0, 6.5, 5.0, 1.0, 5.0]


def _coco_content() -> dict[str, Any]:
  runs = {'size': list(_SIZE), 'counts': [10, 20, 18]}
  compressed = {'size': list(_SIZE), 'counts': ':d0b0'}
  segmentations: list[Any] = [[_POLYGON], runs, compressed]
  return {
    'info': {'year': 2017},
    'images': [
      {'id': i, 'file_name': f'{i}.png', 'height': 6, 'width': 8}
      for i in range(2)
    ],
    'annotations': [
      {
        'id': i,
        'image_id': i % 2,
        'category_id': 1 + i % 2,
        'segmentation': segmentation,
        'area': 2000.0,
        'iscrowd': 0,
      }
      for i, segmentation in enumerate(segmentations)
    ],
    'categories': [{'id': 1, 'name': 'road'}, {'id': 2, 'name': 'car'}],
  }


def _write_coco(path: pathlib.Path) -> None:
  for i in range(2):
    _write_image(path / 'train' / f'{i}.png')
  _write_json(path / 'train.json', _coco_content())


def _write_labelme(path: pathlib.Path) -> None:
  _write_image(path / 'train' / '0.png')
  box = io.BytesIO()
  Image.fromarray(np.full((2, 3), 255, np.uint8)).save(box, 'PNG')
  shapes = {
    'polygon': [[1, 1], [6.5, 1], [6.5, 5]],
    'rectangle': [[0, 0], [3, 4]],
    'circle': [[4, 3], [5, 4]],
    'mask': [[2, 2], [5, 4]],
  }
  content: dict[str, Any] = {
    'version': '5.4.1',
    'imagePath': '0.png',
    'imageHeight': 6,
    'imageWidth': 8,
    'shapes': [
      {'label': 'road', 'shape_type': kind, 'points': points}
      for kind, points in shapes.items()
    ],
  }
  content['shapes'][3]['mask'] = base64.b64encode(box.getvalue()).decode()
  _write_json(path / 'train' / '0.json', content)


_CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <image id="0" name="0.png" width="8" height="6">
    <polygon label="road" points="1.0,1.0;6.5,1.0;6.5,5.0" z_order="1"/>
    <box label="car" xtl="0.0" ytl="1.0" xbr="3.0" ybr="4.0" rotation="30.0"/>
    <ellipse label="car" cx="4.0" cy="3.0" rx="2.0" ry="1.0" z_order="0"/>
    <mask label="road" rle="2, 3, 1" left="1" top="2" width="3" height="2"/>
    <tag label="road"/>
  </image>
</annotations>
"""


def _write_cvat(path: pathlib.Path) -> None:
  _write_image(path / 'train' / '0.png')
  (path / 'train.xml').write_text(_CVAT, 'utf-8')


def _write_voc(path: pathlib.Path) -> None:
  (path / 'ImageSets' / 'Segmentation').mkdir(parents=True)
  (path / 'ImageSets' / 'Segmentation' / 'train.txt').write_text('0\n1\n')
  (path / 'SegmentationClass').mkdir()
  (path / 'labelmap.txt').write_text(
    '# label:color:parts:actions\nbackground:0,0,0::\nroad:9,0,255::\n'
    'car:8,8,8:wheel:drive\n'
  )
  colors = np.array([(0, 0, 0), (9, 0, 255), (8, 8, 8)], np.uint8)
  for i in range(2):
    _write_image(path / 'JPEGImages' / f'{i}.png')
    mask = colors[_labels() % 3] if i else _labels() % 3
    Image.fromarray(mask).save(path / 'SegmentationClass' / f'{i}.png')


def _write_pairs(path: pathlib.Path) -> None:
  """Writes a list of pairs, and a class table with colors."""
  colors = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)
  for i in range(2):
    _write_image(path / f'image {i}.png')
    mask = colors[_labels() % 3] if i else _labels()
    Image.fromarray(mask).save(path / f'{i}_mask.png')
  lines = [f'image {i}.png\t{i}_mask.png\n' for i in range(2)]
  (path / 'train.txt').write_text(''.join(lines), 'utf-8')
  (path / 'classes.txt').write_text(
    'background 0 0 0\nwide road 128 0 0\ncar 0 128 0\n', 'utf-8'
  )


def _write_pool(path: pathlib.Path) -> None:
  """Writes a pool of pairs, and the list of a split."""
  for i in range(2):
    _write_image(path / 'all' / 'images' / f'{i}.png')
    (path / 'all' / 'labels').mkdir(exist_ok=True)
    Image.fromarray(_labels()).save(path / 'all' / 'labels' / f'{i}.png')
  (path / 'classes.txt').write_text('background\nroad\ncar\n', 'utf-8')
  (path / 'train.txt').write_text('0\nall/images/1.png\n', 'utf-8')


def _open_folder(path: pathlib.Path) -> Any:
  """Reads all records of a folder as preparation does."""
  data = _folder_data(path)
  if (path / 'classes.txt').exists():
    data.class_names = ()
  if (path / 'all').exists():
    data.pool = 'all'
  catalog.info_for(data)
  return [
    records.read_record(
      x.image, x.annotation, x.image.stem, x.info, x.read, image_format.RGB
    )
    for x in folder.find_examples(data, 'train')
  ]


def _write_instances(path: pathlib.Path) -> None:
  for i in range(2):
    _write_image(path / 'train2017' / f'{i}.png')
  _write_json(
    path / 'annotations' / 'instances_train2017.json', _coco_content()
  )


def _open_instances(path: pathlib.Path) -> Any:
  """Reads COCO's instances as the published data sets do."""
  annotations, images = coco.locate_split(str(path), 'train')
  index = coco_annotations.read_annotations(annotations)
  examples = coco.make_raw_examples(
    images,
    index,
    coco.select_voc_annotations(index),
    'cocoseg21',
    dataset_info.IGNORE,
  )
  return [x.read(x.annotation) for x in examples]


def _write_panoptic(path: pathlib.Path) -> None:
  _write_image(path / 'images' / '0.png')
  colors = np.zeros((*_SIZE, 3), np.uint8)
  colors[:3] = 1, 2, 0
  (path / 'panoptic').mkdir()
  Image.fromarray(colors).save(path / 'panoptic' / '0.png')
  segments = [{'id': 1 + 2 * 256, 'category_id': 1, 'area': 24}]
  content = {
    'images': [{'id': 7, 'file_name': '0.png', 'height': 6, 'width': 8}],
    'annotations': [
      {'image_id': 7, 'file_name': '0.png', 'segments_info': segments}
    ],
    'categories': [{'id': 1, 'name': 'person'}],
  }
  _write_json(path / 'panoptic.json', content)


def _open_panoptic(path: pathlib.Path) -> Any:
  examples = coco_panoptic.find_examples(
    path / 'panoptic.json', path / 'images'
  )
  return [x.read(x.annotation) for x in examples]


# Weights.


class _Program:
  """An object whose pickle runs a program."""

  def __reduce__(self):
    import os

    return os.system, ('true',)


class _Storage:
  """A storage of four numbers, pickled as a persistent id."""

  pid = ('storage', None, '0', 'cpu', 4)


class _Tensor:
  """A tensor, pickled as the call that rebuilds it."""

  def __init__(self, offset: int, shape: tuple[int, ...]):
    self.fields = offset, shape

  def __reduce__(self):
    rebuild = sys.modules['torch._utils']._rebuild_tensor_v2
    offset, shape = self.fields
    hooks: OrderedDict[str, Any] = OrderedDict()
    return rebuild, (_Storage(), offset, shape, (1,), False, hooks)


def _pickle_as_torch(value: Any) -> bytes:
  """Pickles as PyTorch does, whose modules need not be installed."""
  module, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  kind = type('FloatStorage', (), {'__module__': 'torch'})

  def _rebuild_tensor_v2():
    pass

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  vars(module).update(FloatStorage=kind, _utils=utils)
  vars(utils).update(_rebuild_tensor_v2=_rebuild_tensor_v2)

  class Pickler(pickle.Pickler):
    """Refers to storages by their ids."""

    def persistent_id(self, value: Any) -> Any:
      """Returns the id of a storage."""
      if isinstance(value, _Storage):
        return ('storage', kind, '0', 'cpu', 4)
      return None

  saved = {name: sys.modules.get(name) for name in ('torch', 'torch._utils')}
  sys.modules.update({'torch': module, 'torch._utils': utils})
  try:
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
  finally:
    for name, old in saved.items():
      del sys.modules[name]
      if old is not None:
        sys.modules[name] = old
  return file.getvalue()


def _torch_weights() -> dict[str, Any]:
  return {
    'state_dict': {'conv.weight': _Tensor(0, (3,)), 'b': _Tensor(3, (1,))}
  }


def _write_torch_zip(path: pathlib.Path, value: Any = None) -> None:
  members = {
    'model/data.pkl': _pickle_as_torch(value or _torch_weights()),
    'model/byteorder': b'little',
    'model/data/0': np.arange(4, dtype='<f4').tobytes(),
    'model/version': b'3\n',
  }
  _write_zip(path / 'model.pth', members)


def _write_zip(path: pathlib.Path, members: dict[str, bytes]) -> None:
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in members.items():
      archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)


def _write_torch_legacy(path: pathlib.Path, value: Any = None) -> None:
  (path / 'model.pth').write_bytes(
    b''.join(
      (
        *(pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)),
        pickle.dumps({'little_endian': True}, 2),
        _pickle_as_torch(value or _torch_weights()),
        pickle.dumps(['0'], 2),
        struct.pack('<q', 4),
        np.arange(4, dtype='<f4').tobytes(),
      )
    )
  )


def _write_pdparams(
  path: pathlib.Path, *, protocol: int, value: Any = None
) -> None:
  """Writes arrays as `paddle.save` does, from version 2.1 with their names."""
  kernel, bias = np.ones((3, 2), np.float32), np.zeros(2, np.float32)
  if value is None:
    value = {'conv.weight': kernel, 'conv.bias': bias}
    if protocol > 2:
      value = {name: (name, array) for name, array in value.items()}
      value['StructuredToParameterName@@'] = {name: name for name in value}
  (path / 'model.pdparams').write_bytes(pickle.dumps(value, protocol))


def _write_npz(path: pathlib.Path, value: Any = None) -> None:
  members = {}
  for name, array in (
    ('conv/kernel.npy', np.ones((2, 3), np.float32)),
    ('conv/bias.npy', np.zeros(3, '>f8') if value is None else value),
  ):
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    members[name] = file.getvalue()
  _write_zip(path / 'model.npz', members)


def _write_onnx_weights(path: pathlib.Path) -> None:
  (path / 'model.onnx').write_bytes(_onnx_content())


def _write_safetensors(path: pathlib.Path) -> None:
  config = {
    'data': {'mean': [1.0, 2.0, 3.0], 'std': [1.0, 1.0, 1.0], 'depth': 8},
    'model': {
      'output_stride': 16,
      'encoder': {'name': 'mobilenet_v2', 'alpha': 1.0},
      'head': {'name': 'aspp', 'bn_epsilon': 1e-3, 'align_corners': False},
    },
  }
  safetensors.numpy.save_file(
    {'conv/kernel': np.ones((2, 3), np.float32), 'b': np.zeros(2, np.float32)},
    path / 'model.safetensors',
    {'config': json.dumps(config)},
  )


def _write_keras2(file: Any) -> None:
  """Writes an .h5 file of Keras 2, given open or by its path."""
  layers: dict[str, dict[str, np.ndarray]] = {
    'Conv1': {'Conv1/kernel': np.ones((3, 3, 3, 2), np.float32)},
    'bn': {f'bn/{name}': np.ones(2, np.float32) for name in ('gamma', 'beta')},
  }
  with h5py.File(file, 'w') as f:
    f.attrs['layer_names'] = [name.encode() for name in layers]
    for layer, weights in layers.items():
      group = f.create_group(layer)
      group.attrs['weight_names'] = [f'{name}:0'.encode() for name in weights]
      for name, value in weights.items():
        group.create_dataset(f'{name}:0', data=value)


def _write_keras3(file: Any) -> None:
  """Writes a .weights.h5 file of Keras 3, given open or by its path."""
  with h5py.File(file, 'w') as f:
    shapes_of: dict[str, tuple[tuple[int, ...], ...]] = {
      'conv2d': ((3, 3, 3, 2), (2,)),
      'batch_normalization': ((2,), (2,), (2,), (2,)),
    }
    for name, shapes in shapes_of.items():
      group = f.create_group(f'layers/{name}/vars')
      group.attrs['name'] = f'my_{name}'
      for i, shape in enumerate(shapes):
        value = np.full(shape, i, np.float32)
        options = {'compression': 'gzip'} if len(shape) > 1 else {}
        group.create_dataset(str(i), data=value, **options)


def _write_hdf5(
  path: pathlib.Path, *, write: Callable[[Any], None], name: str
) -> None:
  write(path / name)


def _write_keras_archive(path: pathlib.Path) -> None:
  weights = io.BytesIO()
  _write_keras3(weights)
  members = {
    'metadata.json': b'{"keras_version": "3.9.0"}',
    'config.json': b'{"class_name": "Functional"}',
    'model.weights.h5': weights.getvalue(),
  }
  _write_zip(path / 'model.keras', members)


def _write_hdf5_link(path: pathlib.Path, *, link: str) -> None:
  """Writes an .h5 file whose one weight is the content of another file."""
  count = len(trials.SECRET)
  with h5py.File(path / 'model.h5', 'w') as f:
    f.attrs['layer_names'] = [b'Conv1']
    group = f.create_group('Conv1')
    group.attrs['weight_names'] = [b'kernel']
    if link == 'raw':
      group.create_dataset(
        'kernel', (count,), 'u1', external=[('secret.txt', 0, count)]
      )
    elif link == 'link':
      group['kernel'] = h5py.ExternalLink('secret.h5', '/x')
    else:
      # By h5py's lower interface: the other one stores the time.
      space = h5py.h5s.create_simple((count,))
      plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
      plist.set_obj_track_times(False)
      plist.set_virtual(space, b'secret.h5', b'x', space)
      kind = h5py.h5t.NATIVE_UINT8
      h5py.h5d.create(group.id, b'kernel', kind, space, plist)


def _write_tf_checkpoint(path: pathlib.Path) -> None:
  import tensorflow as tf

  tf.raw_ops.SaveV2(
    prefix=str(path / 'model.ckpt'),
    tensor_names=['conv/weights', 'global_step'],
    shape_and_slices=['', ''],
    tensors=[tf.ones((3, 3, 1, 2)), tf.constant(7, tf.int64)],
  )


def _frozen_graph_content() -> bytes:
  from tensorflow.core.framework import graph_pb2
  from tensorflow.python.framework import tensor_util

  graph = graph_pb2.GraphDef()
  for name, value in (
    ('Conv/weights', np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)),
    ('Conv/biases', np.zeros(4, np.float32)),
    ('Reshape/shape', np.array([1, -1], np.int32)),
  ):
    node = graph.node.add(name=name, op='Const')
    node.attr['value'].tensor.CopyFrom(tensor_util.make_tensor_proto(value))
  return graph.SerializeToString(deterministic=True)


def _write_frozen_graph(path: pathlib.Path) -> None:
  (path / 'model.pb').write_bytes(_frozen_graph_content())


def _write_archive(path: pathlib.Path, *, checkpoint: bool) -> None:
  """Writes a .tar.gz of TF DeepLab's layout, with a frozen graph or not."""
  members = {'frozen_inference_graph.pb': _frozen_graph_content()}
  if checkpoint:
    with tempfile.TemporaryDirectory(dir=path) as folder:
      _write_tf_checkpoint(pathlib.Path(folder))
      members |= trials.read_folder(pathlib.Path(folder))
  content = mutations.write_tar_gz({f'm/{k}': v for k, v in members.items()})
  (path / 'model.tar.gz').write_bytes(content)


def _write_model_folder(path: pathlib.Path) -> None:
  """Writes a model as `deeplab.load(...).save(FOLDER)` does, but smaller."""
  weights = {'params/head/bias': np.zeros(2, np.float32)}
  safetensors.numpy.save_file(weights, path / model_folder.WEIGHTS_FILE)
  (path / model_folder.CONFIG_FILE).write_text(
    workdir.config_text(shapes_mnv2.get_config('smoke')), 'utf-8'
  )
  _write_json(
    path / model_folder.CARD_FILE,
    {
      'sha256': output_files.hash_file(str(path / model_folder.WEIGHTS_FILE)),
      'classes': ['background', 'circle'],
      'step': 40,
      'miou': 0.5,
    },
  )


def _open_model_folder(path: pathlib.Path) -> Any:
  model = model_folder.read_model_folder(path)
  return model.config.to_dict(), model.variables, model.step, model.miou


def _open_weights(path: pathlib.Path) -> Any:
  """Reads weights as `config.init_from=FILE` does."""
  (file,) = (
    file for file in path.iterdir() if file.suffix in resolve.dispatch.SUFFIXES
  )
  loaded = resolve.read_weights(resolve.WeightsSpec('', str(file), None))
  return dict(loaded.tensors), loaded.requirements


# Exported files.


def _tflite_content(resized: bool = False) -> bytes:
  """Returns a float .tflite file that maps [1, 6, 8, 3] to [1, 6, 8, 2].

  Args:
    resized: halve the size by the convolution and resize the result.
  """
  from ai_edge_litert import schema_py_generated as schema

  model, graph = schema.ModelT(), schema.SubGraphT()
  model.version, model.subgraphs = 3, [graph]
  model.buffers, graph.tensors = [schema.BufferT()], []
  model.operatorCodes, graph.operators = [], []
  shape: tuple[int, ...] = (1, *_SIZE, 2)
  kernel = np.arange(6, dtype=np.float32).reshape(2, 1, 1, 3)
  tensors: list[tuple[str, tuple[int, ...], np.ndarray | None]] = [
    ('image', (1, *_SIZE, 3), None),
    ('conv/Conv2D', kernel.shape, kernel),
    ('conv/bias', (2,), np.ones(2, np.float32)),
    ('map', (1, 3, 4, 2) if resized else shape, None),
  ]
  convolution = schema.Conv2DOptionsT()
  convolution.strideW = convolution.strideH = 1 + resized
  operators: list[tuple[str, Any, list[int], int]] = [
    ('CONV_2D', convolution, [0, 1, 2], 3)
  ]
  if resized:
    resize, softmax = schema.ResizeBilinearOptionsT(), schema.SoftmaxOptionsT()
    resize.halfPixelCenters, softmax.beta = True, 1.0
    tensors += [
      ('size', (2,), np.array(_SIZE, np.int32)),
      ('resized', shape, None),
      ('softmax', shape, None),
    ]
    operators += [
      ('RESIZE_BILINEAR', resize, [3, 4], 5),
      ('SOFTMAX', softmax, [5], 6),
    ]
  for name, shape, data in tensors:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = name, list(shape)
    tensor.type = schema.TensorType.FLOAT32
    if data is not None:
      if data.dtype == np.int32:
        tensor.type = schema.TensorType.INT32
      buffer = schema.BufferT()
      buffer.data = np.frombuffer(data.tobytes(), np.uint8)
      tensor.buffer = len(model.buffers)
      model.buffers.append(buffer)
    graph.tensors.append(tensor)
  for name, options, inputs, output in operators:
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    number = getattr(schema.BuiltinOperator, name)
    code.builtinCode = code.deprecatedBuiltinCode = number
    code.version = 3 if name == 'RESIZE_BILINEAR' else 1
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs, operator.outputs = inputs, [output]
    operator.builtinOptions = options
    operator.builtinOptionsType = getattr(
      schema.BuiltinOptions, type(options).__name__.removesuffix('T')
    )
    model.operatorCodes.append(code)
    graph.operators.append(operator)
  graph.inputs, graph.outputs = [0], [len(tensors) - 1]
  builder = flatbuffers.Builder(1024)
  builder.Finish(model.Pack(builder), b'TFL3')
  return bytes(builder.Output())


def _onnx_content() -> bytes:
  """Returns an .onnx file that maps [1, 6, 8, 3] to [1, 6, 8, 2]."""
  from onnx import TensorProto
  from onnx import helper

  weights = np.arange(6, dtype=np.float32)
  graph = helper.make_graph(
    [
      helper.make_node('MatMul', ['image', 'w'], ['product']),
      helper.make_node('Relu', ['product'], ['logits']),
    ],
    'main',
    [helper.make_tensor_value_info('image', TensorProto.FLOAT, [1, *_SIZE, 3])],
    [
      helper.make_tensor_value_info('logits', TensorProto.FLOAT, [1, *_SIZE, 2])
    ],
    [helper.make_tensor('w', TensorProto.FLOAT, [3, 2], weights.tolist())],
  )
  opsets = [helper.make_opsetid('', 17)]
  model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
  return model.SerializeToString(deterministic=True)


def _write_exported(
  path: pathlib.Path, *, suffix: str, resized: bool = False
) -> None:
  """Writes an exported file and its card, which has no digest."""
  content = _onnx_content()
  if suffix == '.tflite':
    content = _tflite_content(resized)
  (path / f'model{suffix}').write_bytes(content)
  tensor = {'dtype': 'float32', 'quantization': None}
  card = {
    'file': f'model{suffix}',
    'sha256': None,
    'classes': ['background', 'road'],
    'palette': [[0, 0, 0], [128, 0, 0]],
    'input_size': list(_SIZE),
    'channels': 3,
    'depth': 8,
    'value_range': [0, 255],
    'mean': [127.5, 127.5, 127.5],
    'std': [127.5, 127.5, 127.5],
    'normalization_in_graph': False,
    'input': {**tensor, 'shape': [1, *_SIZE, 3]},
    'output': 'logits',
    'output_tensor': {**tensor, 'shape': [1, *_SIZE, 2]},
    'miou': 0.5,
  }
  _write_json(path / 'model.json', card)


def _open_exported(path: pathlib.Path) -> Any:
  """Segments an image with an exported file, as `deeplab.predict` does."""
  (file,) = (
    file for file in path.iterdir() if file.suffix in load.PREDICTOR_CLASSES
  )
  segmenter = predict.from_tflite(file)
  return (
    segmenter.class_names,
    segmenter.palette,
    segmenter.predict(_pixels()),
    visualize.draw_legend(segmenter.class_names, segmenter.palette, width=99),
  )


def _write_tflite_weights(path: pathlib.Path) -> None:
  (path / 'model.tflite').write_bytes(_tflite_content())


def _open_card(path: pathlib.Path) -> Any:
  return model_card.read_card(path / 'model.tflite'), _open_exported(path)


# Files of a run and of an export.


def _write_run_config(
  path: pathlib.Path, *, page: Callable[[str], ConfigDict], variant: str
) -> None:
  _write_json(path / 'config.json', page(variant).to_dict())


def _open_run_config(path: pathlib.Path) -> Any:
  """Reads the config of a run and makes its data set and network."""
  config = workdir.read_config(str(path))
  network = networks.Network(config, workdir.make_dataset(str(path), config))
  network.train_model()
  return config.to_dict()


def _write_run_record(path: pathlib.Path) -> None:
  _write_json(
    path / 'run.json',
    {
      'name': 'shapes',
      'config_hash': '0123456789abcdef',
      'git_revision': None,
      'versions': {'jax': '0.9.2'},
      'device': 'cpu',
      'devices': 1,
      'hosts': 1,
      'seed': 0,
      'step': 40,
      'seconds': 12.5,
      'metrics': {'miou': 0.5},
    },
  )


def _open_run_record(path: pathlib.Path) -> Any:
  return workdir.read_run_record(str(path))


def _write_metrics(path: pathlib.Path) -> None:
  lines = [
    {'step': i, 'split': split, metric: 0.5 / i}
    for i in range(1, 4)
    for split, metric in (('train', 'loss'), ('val', 'miou'))
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (path / 'metrics.jsonl').write_text(text)


def _open_metrics(path: pathlib.Path) -> Any:
  """Reads and draws the metrics of a run, whose last line may be cut."""
  file = path / 'metrics.jsonl'
  lines = metric_writer.read_metrics(str(file), strict=False)
  if any(x.get('loss') or x.get('miou') for x in lines):
    visualize.plot_training_curves(lines)
  return lines


def _write_target(path: pathlib.Path) -> None:
  file = targets.TARGETS_FOLDER / 'ethos_u55.json'
  (path / file.name).write_bytes(file.read_bytes())


def _open_target(path: pathlib.Path) -> Any:
  return [repr(target) for target in targets.read_targets(_only_file(path))]


_REPORT: dict[str, Any] = {
  'dataset': 'shapes',
  'classes': ['background', 'circle'],
  'scored': 12,
  'request': {'input_size': [64, 64], 'output': 'logits', 'resize': 'stretch'},
  'jax': {'miou': 0.5},
  'formats': {'float32': {'miou': 0.5}},
}


def _write_report(path: pathlib.Path) -> None:
  _write_json(path / 'report.json', _REPORT)


def _open_report(path: pathlib.Path) -> Any:
  return comparison.read_baseline(str(path), json.loads(json.dumps(_REPORT)))


def _pil(name: str, mode: str = 'RGB', **options: Any) -> Callable[..., None]:
  return functools.partial(_write_with_pil, name=name, mode=mode, **options)


def _opencv(name: str, channels: int, dtype: str) -> Callable[..., None]:
  return functools.partial(
    _write_with_opencv, name=name, channels=channels, dtype=dtype
  )


def _array(version: int) -> Callable[..., None]:
  return functools.partial(_write_array, spec=_BANDS, version=version)


# EXIF data with one tag: the orientation is 6, rotated by 90 degrees.
_ROTATED = bytes.fromhex(
  '457869660000 4d4d002a00000008 0001 0112 0003 00000001 00060000 00000000'
)

KINDS: dict[str, trials.Kind] = {
  'png': trials.Kind(
    (_pil('image.png'), _pil('image.png', 'P'), _pil('image.png', 'LA')),
    '*',
    _open_image,
  ),
  'jpeg': trials.Kind(
    (
      *(_pil('image.jpg'), _pil('image.jpg', 'L', progressive=True)),
      _pil('image.jpg', exif=_ROTATED),
    ),
    '*',
    _open_image,
  ),
  'bmp': trials.Kind(
    (_pil('image.bmp'), _pil('image.bmp', 'P')), '*', _open_image
  ),
  'webp': trials.Kind((_pil('image.webp', lossless=True),), '*', _open_image),
  'tiff': trials.Kind(
    (_pil('image.tif'), _pil('image.tif', compression='tiff_lzw')),
    '*',
    _open_image,
  ),
  'npy': trials.Kind(
    tuple(
      functools.partial(_write_array, spec=image_format.RGB, version=version)
      for version in (1, 2)
    ),
    '*',
    _open_image,
    (_write_pickled_array,),
  ),
  'bands_tiff': trials.Kind(
    (
      functools.partial(_write_bands, planar=False),
      functools.partial(_write_bands, planar=True, compression='zlib'),
      functools.partial(_write_bands, planar=False, compression='zstd'),
      functools.partial(_write_bands, planar=False, compression='lzw'),
      functools.partial(
        _write_bands,
        planar=False,
        predictor=True,
        tile=(16, 16),
        compression='zlib',
      ),
    ),
    '*',
    functools.partial(_open_bands, spec=_BANDS),
  ),
  'bands_npy': trials.Kind(
    (_array(1), _array(2)),
    '*',
    functools.partial(_open_bands, spec=_BANDS),
    (_write_pickled_array,),
  ),
  'bands_png': trials.Kind(
    (_opencv('image.png', 3, 'uint16'),),
    '*',
    functools.partial(_open_bands, spec=image_format.ImageSpec(3, 16)),
  ),
  'mask': trials.Kind(
    (
      *(_write_palette_mask, _pil('mask.png', 'L'), _pil('mask.tif', 'L')),
      *(_pil('mask.png', 'RGBA'), _pil('mask.bmp', '1')),
    ),
    '*',
    _open_mask,
  ),
  'mat': trials.Kind(
    (
      functools.partial(_write_mat, key='GTcls'),
      functools.partial(_write_mat, key='LabelMap'),
    ),
    '*',
    _open_mat,
  ),
  'coco': trials.Kind((_write_coco,), 'train.json', _open_folder),
  'labelme': trials.Kind((_write_labelme,), 'train/0.json', _open_folder),
  'cvat': trials.Kind((_write_cvat,), 'train.xml', _open_folder),
  'voc': trials.Kind((_write_voc,), '*.txt', _open_folder),
  'lists': trials.Kind((_write_pairs, _write_pool), '*.txt', _open_folder),
  'instances': trials.Kind((_write_instances,), '*.json', _open_instances),
  'panoptic': trials.Kind((_write_panoptic,), 'panoptic*', _open_panoptic),
  'pth': trials.Kind(
    (_write_torch_zip, _write_torch_legacy),
    '*',
    _open_weights,
    (
      functools.partial(_write_torch_zip, value=_Program()),
      functools.partial(_write_torch_legacy, value=_Program()),
    ),
  ),
  'pdparams': trials.Kind(
    tuple(
      functools.partial(_write_pdparams, protocol=protocol)
      for protocol in (2, 4)
    ),
    '*',
    _open_weights,
    (functools.partial(_write_pdparams, protocol=4, value=_Program()),),
  ),
  'npz': trials.Kind(
    (_write_npz,),
    '*',
    _open_weights,
    (functools.partial(_write_npz, value=np.array([_Program()], object)),),
  ),
  'onnx_weights': trials.Kind((_write_onnx_weights,), '*', _open_weights),
  'safetensors': trials.Kind((_write_safetensors,), '*', _open_weights),
  'hdf5': trials.Kind(
    (
      functools.partial(_write_hdf5, write=_write_keras2, name='model.h5'),
      functools.partial(
        _write_hdf5, write=_write_keras3, name='model.weights.h5'
      ),
    ),
    '*',
    _open_weights,
    tuple(
      functools.partial(_write_hdf5_link, link=link)
      for link in ('raw', 'link', 'virtual')
    ),
  ),
  'keras': trials.Kind((_write_keras_archive,), '*', _open_weights),
  'tf_checkpoint': trials.Kind((_write_tf_checkpoint,), '*', _open_weights),
  'frozen_graph': trials.Kind((_write_frozen_graph,), '*', _open_weights),
  'archive': trials.Kind(
    tuple(
      functools.partial(_write_archive, checkpoint=checkpoint)
      for checkpoint in (False, True)
    ),
    '*',
    _open_weights,
  ),
  'model_folder': trials.Kind((_write_model_folder,), '*', _open_model_folder),
  'tflite_weights': trials.Kind((_write_tflite_weights,), '*', _open_weights),
  'tflite': trials.Kind(
    tuple(
      functools.partial(_write_exported, suffix='.tflite', resized=resized)
      for resized in (False, True)
    ),
    '*.tflite',
    _open_exported,
  ),
  'onnx': trials.Kind(
    (functools.partial(_write_exported, suffix='.onnx'),),
    '*.onnx',
    _open_exported,
  ),
  'card': trials.Kind(
    (
      functools.partial(_write_exported, suffix='.tflite'),
      functools.partial(_write_exported, suffix='.onnx'),
    ),
    '*.json',
    _open_card,
  ),
  'config': trials.Kind(
    (
      functools.partial(
        _write_run_config, page=camvid_mnv2_cut.get_config, variant='qat'
      ),
      functools.partial(
        _write_run_config, page=shapes_mnv2.get_config, variant='smoke'
      ),
    ),
    '*',
    _open_run_config,
  ),
  'run_record': trials.Kind((_write_run_record,), '*', _open_run_record),
  'metrics': trials.Kind((_write_metrics,), '*', _open_metrics),
  'target': trials.Kind((_write_target,), '*', _open_target),
  'report': trials.Kind((_write_report,), '*', _open_report),
}
