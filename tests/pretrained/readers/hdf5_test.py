import io
import zipfile

import h5py
import numpy as np
import pytest

from deeplab.pretrained.readers import hdf5


def legacy(path, root='', suffix=':0'):
  """Writes a stem and a depthwise layer as Keras 2 did."""
  layers = {
    'input_1': {},
    'Conv1': {'Conv1/kernel': np.ones((3, 3, 3, 2))},
    'dw/BatchNorm': {
      f'dw/BatchNorm/{name}': np.full(2, i)
      for i, name in enumerate(('gamma', 'beta', 'moving_mean'))
    },
    'dw': {'dw/depthwise_kernel': np.zeros((3, 3, 2, 1))},
    'sep': {
      'sep/depthwise_kernel': np.zeros((3, 3, 2, 1)),
      'sep/pointwise_kernel': np.zeros((1, 1, 2, 5)),
    },
  }
  with h5py.File(path, 'w') as f:
    top = f.create_group(root) if root else f
    top.attrs['layer_names'] = [name.encode() for name in layers]
    for layer, weights in layers.items():
      group = top.require_group(layer)
      names = [(name + suffix).encode() for name in weights]
      group.attrs['weight_names'] = names
      for name, value in weights.items():
        group[name + suffix] = value.astype(np.float32)


NAMES = {
  'Conv1/kernel',
  *(f'dw/BatchNorm/{name}' for name in ('gamma', 'beta', 'moving_mean')),
  'dw/kernel',
  *('sep/depthwise_kernel', 'sep/pointwise_kernel'),
}


@pytest.mark.parametrize('root', ['', 'model_weights'])
def test_keras_2(tmp_path, root):
  path = str(tmp_path / 'a.h5')
  legacy(path, root)
  read = hdf5.read_hdf5(path)
  assert read.keys() == NAMES
  assert read['dw/BatchNorm/moving_mean'].tolist() == [2, 2]
  assert read['Conv1/kernel'].dtype == np.float32


def test_names_split_over_attributes(tmp_path):
  path = str(tmp_path / 'a.h5')
  legacy(path)
  with h5py.File(path, 'a') as f:
    names = list(f.attrs['layer_names'])
    del f.attrs['layer_names']
    f.attrs['layer_names0'], f.attrs['layer_names1'] = names[:2], names[2:]
  assert hdf5.read_hdf5(path).keys() == NAMES


def numbered(path, **attributes):
  with h5py.File(path, 'w') as f:
    for kind, name, shapes in (
      ('conv2d_1', 'stem', [(3, 3, 3, 2), (2,)]),
      ('batch_normalization', 'stem_bn', [(2,)] * 4),
    ):
      group = f.create_group(f'layers/{kind}/vars')
      group.attrs.update(attributes or {'name': name})
      for i, shape in enumerate(shapes):
        group[str(i)] = np.full(shape, i, np.float32)


VARIABLES = ('gamma', 'beta', 'moving_mean', 'moving_variance')


def test_keras_3(tmp_path):
  path = str(tmp_path / 'a.weights.h5')
  numbered(path)
  read = hdf5.read_hdf5(path)
  norms = {f'stem_bn/{name}' for name in VARIABLES}
  assert read.keys() == {'stem/kernel', 'stem/bias', *norms}
  assert read['stem_bn/moving_variance'].tolist() == [3, 3]


def test_keras_3_whole_models(tmp_path):
  weights = str(tmp_path / 'model.weights.h5')
  numbered(weights)
  path = str(tmp_path / 'a.keras')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.write(weights, 'model.weights.h5')
  assert hdf5.read_hdf5(path).keys() == hdf5.read_hdf5(weights).keys()


def test_layers_without_names_fail(tmp_path):
  path = str(tmp_path / 'a.weights.h5')
  numbered(path, other='x')
  with pytest.raises(ValueError, match=r'a\.weights\.h5.*have no names'):
    hdf5.read_hdf5(path)


@pytest.mark.parametrize('end', ['weights.h5', 'h5', 'keras'])
def test_files_written_by_keras(tmp_path, end):
  keras = pytest.importorskip('keras')
  inputs = keras.Input((9, 9, 3))
  x = keras.layers.Conv2D(4, 3, name='Conv')(inputs)
  x = keras.layers.BatchNormalization(name='Conv_bn')(x)
  x = keras.layers.DepthwiseConv2D(3, use_bias=False, name='dw')(x)
  x = keras.layers.SeparableConv2D(5, 3, name='sep')(x)
  model = keras.Model(inputs, x)
  for i, weight in enumerate(model.weights):
    weight.assign(np.full(weight.shape, i))
  path = str(tmp_path / f'a.{end}')
  save = model.save_weights if end == 'weights.h5' else model.save
  save(path)
  read = hdf5.read_hdf5(path)
  expected = {
    f'{layer.name}/{weight.name}': weight
    for layer in model.layers
    for weight in layer.weights
  }
  assert read.keys() == expected.keys()
  for name, weight in expected.items():
    np.testing.assert_array_equal(read[name], weight)


def test_nested_models(tmp_path):
  path = str(tmp_path / 'a.h5')
  with h5py.File(path, 'w') as f:
    f.attrs['layer_names'] = [b'inner', b'last']
    names = {'inner': ('a/kernel:0', 'b/bias:0'), 'last': ('m/last/bias:0',)}
    for layer, weights in names.items():
      group = f.create_group(layer)
      group.attrs['weight_names'] = [name.encode() for name in weights]
      for name in weights:
        group[name] = np.zeros(2)
  assert hdf5.read_hdf5(path).keys() == {'a/kernel', 'b/bias', 'last/bias'}


def test_numbered_layers_are_renumbered(tmp_path):
  path = str(tmp_path / 'a.h5')
  layers = ('conv2d_9', 'conv2d_10', 'batch_normalization_3', 'conv')
  with h5py.File(path, 'w') as f:
    f.attrs['layer_names'] = [name.encode() for name in layers]
    for i, layer in enumerate(layers):
      group = f.create_group(layer)
      group.attrs['weight_names'] = [b'x/kernel:0']
      group['x/kernel:0'] = np.full(1, i)
  read = hdf5.read_hdf5(path)
  assert {name: int(value[0]) for name, value in read.items()} == {
    'conv2d/kernel': 0,
    'conv2d_1/kernel': 1,
    'batch_normalization/kernel': 2,
    'conv/kernel': 3,
  }


def external(group, folder):
  raw = [(str(folder / 'secret'), 0, 6)]
  group.create_dataset('k', (6,), 'u1', external=raw)


def external_link(group, folder):
  group['k'] = h5py.ExternalLink(str(folder / 'other.h5'), 'x')


def soft_link(group, folder):
  with h5py.File(folder / 'other.h5', 'a') as f:
    f['layers'] = 1
  group.file['mounted'] = h5py.ExternalLink(str(folder / 'other.h5'), '/')
  group['k'] = h5py.SoftLink('/mounted/x')


def virtual(group, folder):
  layout = h5py.VirtualLayout((3,), 'f4')
  layout[:] = h5py.VirtualSource(str(folder / 'other.h5'), 'x', (3,))
  group.create_virtual_dataset('k', layout)


def unallocated(group, folder):
  group.create_dataset('k', (1 << 40,), 'f4', chunks=(1 << 20,))


def zeros(group, folder):
  group.create_dataset('k', data=np.zeros(1 << 21, 'f4'), compression='gzip')


def texts(group, folder):
  group['k'] = ['a', 'b']


def a_group(group, folder):
  group.create_group('k')


@pytest.mark.parametrize(
  ('write', 'reason'),
  [
    (external, "its 'a/k' is stored in other files"),
    (external_link, "its 'a/k' is a link to elsewhere"),
    (soft_link, 'is a link to elsewhere'),
    (virtual, "its 'a/k' is stored in other files"),
    (unallocated, 'more than 20 times its own size'),
    (zeros, 'more than 20 times its own size'),
    (texts, "its 'a/k' holds no numbers"),
    (a_group, "its 'a/k' is no data set"),
  ],
)
@pytest.mark.parametrize('keras', [2, 3])
def test_what_is_not_in_the_file_is_refused(tmp_path, write, reason, keras):
  (tmp_path / 'secret').write_text('secret')
  with h5py.File(tmp_path / 'other.h5', 'w') as f:
    f['x'] = np.float32([1, 2, 3])
  path = tmp_path / 'a.h5'
  with h5py.File(path, 'w') as f:
    if keras == 2:
      f.attrs['layer_names'], group = [b'a'], f.create_group('a')
      group.attrs['weight_names'] = [b'k']
    else:
      group = f.create_group('layers/conv2d/vars')
      group.attrs['name'] = 'a'
      reason = reason.replace('a/k', 'layers/conv2d/vars/k')
    write(group, tmp_path)
    if keras == 3:  # Keras 3 numbers its variables
      group.move('k', '0')
      reason = reason.replace('/k', '/0')
  with pytest.raises(ValueError, match=rf'a\.h5 is not a whole .*{reason}'):
    hdf5.read_hdf5(str(path))


def test_filters_of_other_libraries_are_refused(tmp_path):
  path = str(tmp_path / 'a.h5')
  legacy(path)
  with h5py.File(path, 'a') as f:
    del f['Conv1']['Conv1/kernel:0']
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((3,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((3,))
    group = f['Conv1/Conv1'].id
    h5py.h5d.create(group, b'kernel:0', h5py.h5t.IEEE_F32LE, space, plist)
  with pytest.raises(ValueError, match=r'needs the filters \[32015\]'):
    hdf5.read_hdf5(path)


def test_compressed_numbers_are_read(tmp_path):
  path = str(tmp_path / 'a.h5')
  legacy(path)
  value = np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2)
  with h5py.File(path, 'a') as f:
    del f['Conv1']['Conv1/kernel:0']
    options = {'compression': 'gzip', 'shuffle': True, 'fletcher32': True}
    f['Conv1'].create_dataset('Conv1/kernel:0', data=value, **options)
    f['again'] = f['Conv1']  # hard links may form a circle
    f['Conv1/circle'] = f['/']
  np.testing.assert_array_equal(hdf5.read_hdf5(path)['Conv1/kernel'], value)


def test_long_names_are_not_copied_for_each_layer(tmp_path):
  path = str(tmp_path / 'a.h5')
  with h5py.File(path, 'w') as f:
    # Of one name of 1 MiB in the file, 4,000 references.
    kind = h5py.string_dtype()
    space = h5py.h5s.create_simple((4000,))
    attribute = h5py.h5a.create(
      f.id, b'layer_names', h5py.h5t.py_create(kind, logical=True), space
    )
    del attribute
    f.attrs['x'] = 'a' * (1 << 20)
  with pytest.raises(ValueError, match="attribute 'layer_names' is too long"):
    hdf5.read_hdf5(path)


@pytest.mark.parametrize('value', [1, [1.5, 2], np.zeros(3)])
def test_names_are_texts(tmp_path, value):
  path = str(tmp_path / 'a.h5')
  with h5py.File(path, 'w') as f:
    f.attrs['layer_names'] = value
  with pytest.raises(ValueError, match="'layer_names' is no text"):
    hdf5.read_hdf5(path)


def test_names_that_hdf5_would_read_for_ever_are_damage(tmp_path):
  path = tmp_path / 'a.h5'
  legacy(str(path))
  data = bytearray(path.read_bytes())
  heap = data.index(b'GCOL\1')
  size = int.from_bytes(data[heap + 8 : heap + 16], 'little')
  item = heap + 16
  while data[item : item + 2] != b'\0\0':  # up to the free space
    length = int.from_bytes(data[item + 8 : item + 16], 'little')
    item += 16 + (length + 7) // 8 * 8
  assert item < heap + size
  for length in (0, 8, 2**64 - 8, size):
    data[item + 8 : item + 16] = length.to_bytes(8, 'little')
    path.write_bytes(data)
    with pytest.raises(ValueError, match='its names are damaged'):
      hdf5.read_hdf5(str(path))


def keras_archive(path, content, compression=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('model.weights.h5', content)


def test_damaged_archives_are_one_sentence(tmp_path):
  weights = tmp_path / 'model.weights.h5'
  numbered(weights)
  path = tmp_path / 'a.keras'
  keras_archive(path, weights.read_bytes())
  whole = path.read_bytes()
  assert hdf5.read_hdf5(str(path)).keys() == hdf5.read_hdf5(weights).keys()
  # In the name, the compressed data, the directory's flags and its method.
  directory = whole.index(b'PK\1\2')
  for place in (30, 60, 100, directory + 8, directory + 10, directory + 24):
    damaged = bytearray(whole)
    damaged[place : place + 8] = bytes(8 * [255])
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r'a\.keras is not a whole'):
      hdf5.read_hdf5(str(path))


def test_sizes_are_compared_before_anything_is_inflated(tmp_path, monkeypatch):
  path = tmp_path / 'a.keras'
  keras_archive(path, bytes(4 << 20))

  def read(*_):
    raise AssertionError('inflated')

  with monkeypatch.context() as patch:
    patch.setattr(zipfile.ZipFile, 'read', read)
    with pytest.raises(ValueError, match='more than 20 times its own size'):
      hdf5.read_hdf5(str(path))
  keras_archive(path, b'', zipfile.ZIP_LZMA)
  with pytest.raises(ValueError, match='is compressed by method 14'):
    hdf5.read_hdf5(str(path))


def test_damage_is_one_sentence_with_the_path(tmp_path):
  path = tmp_path / 'a.h5'
  legacy(str(path))
  whole = path.read_bytes()
  for length in (0, 4, 600, len(whole) // 2):
    cut = tmp_path / 'cut.h5'
    cut.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r'cut\.h5 is not a whole'):
      hdf5.read_hdf5(str(cut))
  with h5py.File(path, 'w') as f:
    f['x'] = 1
  with pytest.raises(ValueError, match='no weights of Keras layers'):
    hdf5.read_hdf5(str(path))
  f = io.BytesIO()
  with zipfile.ZipFile(f, 'w') as archive:
    archive.writestr('config.json', '{}')
  path.write_bytes(f.getvalue())
  with pytest.raises(ValueError, match=r'model\.weights\.h5'):
    hdf5.read_hdf5(str(path))
