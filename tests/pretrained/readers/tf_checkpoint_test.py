import re

import numpy as np
import pytest
import tensorflow as tf

from deeplab.pretrained.readers import tf_checkpoint


def save(prefix, value):
  tf.raw_ops.SaveV2(
    prefix=str(prefix),
    tensor_names=['x', 'step', 'words'],
    shape_and_slices=['', '', ''],
    tensors=[np.full((2, 3), value, np.float32), np.int64(7), 'no weights'],
  )


@pytest.fixture
def prefix(tmp_path):
  save(tmp_path / 'model.ckpt-5', 0.5)
  return tmp_path / 'model.ckpt-5'


def test_every_path_of_a_checkpoint(prefix):
  for path in (prefix, f'{prefix}.index', prefix.parent):
    tensors = tf_checkpoint.read_tf_checkpoint(path)
    assert list(tensors) == ['step', 'x']
    np.testing.assert_array_equal(tensors['x'], np.full((2, 3), 0.5))
    assert tensors['step'] == 7


def test_characters_of_patterns_in_a_path(prefix, tmp_path):
  folder = tmp_path / 'lr[1] *?'
  folder.mkdir()
  for path in prefix.parent.glob('model*'):
    path.rename(folder / path.name)
  assert tf_checkpoint.read_tf_checkpoint(folder)['step'] == 7


def test_a_folder_of_several_needs_a_name(prefix):
  save(prefix.with_name('model.ckpt-9'), 0.25)
  with pytest.raises(ValueError, match=r'holds 2 checkpoints .* and no file'):
    tf_checkpoint.read_tf_checkpoint(prefix.parent)
  # Copied from another machine.
  (prefix.parent / 'checkpoint').write_text(
    'model_checkpoint_path: "/there/model.ckpt-9"\n'
    'all_model_checkpoint_paths: "/there/model.ckpt-5"\n'
  )
  assert tf_checkpoint.read_tf_checkpoint(prefix.parent)['x'].max() == 0.25


@pytest.mark.parametrize(
  ('content', 'name'),
  [
    *((b'\xff\xfe\x80', ''), (b'', ''), (b'x: "\xff"\n', '\ufffd')),
    *((b'x: "/', ''), (b'x: "a\0b"', 'a\0b')),
  ],
)
def test_a_damaged_list_of_checkpoints_is_one_sentence(prefix, content, name):
  (prefix.parent / 'checkpoint').write_bytes(content)
  with pytest.raises(
    ValueError, match=rf'checkpoint names {name}\.index, which'
  ):
    tf_checkpoint.find_index_file(prefix.parent)


def test_missing_and_damaged_files_fail(prefix):
  missing = prefix.with_name('model.ckpt-6')
  assert tf_checkpoint.find_index_file(missing) is None
  with pytest.raises(ValueError, match=re.escape(f'checkpoint {missing}')):
    tf_checkpoint.read_tf_checkpoint(missing)
  latest = prefix.with_name('checkpoint')
  latest.write_text('model_checkpoint_path: "model.ckpt-6"\n')
  with pytest.raises(ValueError, match=r'names model\.ckpt-6\.index, which is'):
    tf_checkpoint.find_index_file(prefix.parent)
  index = prefix.with_name(f'{prefix.name}.index')
  index.write_bytes(index.read_bytes()[:50])
  with pytest.raises(
    ValueError, match=re.escape(f'{index}, or the data beside')
  ):
    tf_checkpoint.read_tf_checkpoint(prefix)
  save(prefix, 0.5)
  data = prefix.with_name(f'{prefix.name}.data-00000-of-00001')
  data.write_bytes(data.read_bytes()[:8])
  with pytest.raises(
    ValueError, match=re.escape(f'{index}, or the data beside')
  ):
    tf_checkpoint.read_tf_checkpoint(prefix)
