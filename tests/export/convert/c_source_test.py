"""C projects: their contents, and that they compile and compute."""

import ctypes
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from deeplab.inference import interpreters
from export.convert import c_source
from export.devices import tflm
from export.graph import tflite_graph
from tests.export import small

needs_gcc = pytest.mark.skipif(
  not (shutil.which('gcc') and shutil.which('g++')), reason='no gcc'
)
FLAGS = ('-Wall', '-Wextra', '-Werror', '-O1')

CARD = {
  'input_size': list(small.SIZE),
  'value_range': [0, 255],
  'mean': [0.0] * 3,
  'std': [1.0] * 3,
  'normalization_in_graph': True,
  'output': 'logits',
  'classes': ['a "b"', *'cdef'],
  'palette': [[0, 0, 0]] * small.CLASSES,
}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
  folder = tmp_path_factory.mktemp('c') / 'c'
  c_source.write_c_project(
    str(folder),
    small.int8(),
    CARD,
    small.image(),
    tflm.recommend_arena_bytes(small.int8()),
  )
  return folder


def compile_(tree, output, *sources, flags=()):
  compiler = 'g++' if any(s.endswith('.cc') for s in sources) else 'gcc'
  subprocess.run(
    [compiler, *FLAGS, *flags, *sources, '-o', output, '-lm'],
    cwd=tree,
    check=True,
  )


def test_macros_of_the_header(tree):
  text = (tree / 'model.h').read_text()
  macros = dict(re.findall(r'#define (\w+) (.+)', text))
  graph = tflite_graph.read_tflite(small.int8())
  wanted = tflite_graph.tensor_qparams(graph.tensors[graph.outputs[0]])
  assert macros['MODEL_BYTES'] == str(len(small.int8()))
  assert macros['MODEL_INPUT_HEIGHT'] == '16'
  assert macros['MODEL_INPUT_ZERO_POINT'] == '-128'
  scale = np.float32(macros['MODEL_OUTPUT_SCALE'].rstrip('f'))
  assert scale == np.float32(wanted['scale'])
  assert int(macros['MODEL_OUTPUT_ZERO_POINT']) == wanted['zero_point']
  assert r'"a \"b\"", "c"' in macros['MODEL_CLASS_NAMES']
  assert int(macros['MODEL_ARENA_BYTES']) >= 3072


def test_the_resolver_has_every_operator(tree):
  text = (tree / 'runner_tflm.cc').read_text()
  added = re.findall(r'resolver\.Add(\w+)\(\)', text)
  assert added == [
    *('Add', 'AveragePool2D', 'Concatenation', 'Conv2D', 'DepthwiseConv2D'),
    'ResizeBilinear',
  ]
  assert f'MicroMutableOpResolver<{len(added)}>' in text


def test_resolver_methods():
  """Names that are not capitalized words, of micro_mutable_op_resolver.h."""
  names = ('BATCH_MATMUL', 'L2_POOL_2D', 'CONV_2D', 'CUMSUM', 'ARG_MAX')
  assert [c_source._resolver_method(name) for name in names] == [
    *('AddBatchMatMul', 'AddL2Pool2D', 'AddConv2D', 'AddCumSum', 'AddArgMax'),
  ]


@needs_gcc
def test_the_array_is_the_file(tree, tmp_path):
  (tmp_path / 'dump.c').write_text(
    '#include <stdio.h>\n#include "model.h"\nint main(void) {\n'
    '  return fwrite(model_data, 1, MODEL_BYTES, stdout) != MODEL_BYTES;\n}\n'
  )
  program = str(tmp_path / 'dump')
  compile_(
    tree, program, str(tmp_path / 'dump.c'), 'model.c', flags=(f'-I{tree}',)
  )
  done = subprocess.run([program], capture_output=True, check=True)
  assert done.stdout == small.int8()


@needs_gcc
def test_a_build_without_tflm_says_so(tree, tmp_path):
  program = str(tmp_path / 'segment')
  compile_(tree, program, 'main.c', 'model.c', 'sample.c', 'runner_none.c')
  done = subprocess.run([program], capture_output=True, text=True, check=False)
  assert done.returncode == 3
  assert 'build with -DTFLM_DIR' in done.stderr
  done = subprocess.run(
    [program, str(tree / 'main.c')],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2
  wanted = 'is not a file of 1152 bytes: 16 x 24 pixels of 3 channels'
  assert wanted in done.stderr


@needs_gcc
@pytest.mark.parametrize('channels', [1, 4])
def test_images_with_other_numbers_of_channels(tmp_path, channels):
  """There is one mean and one byte of a pixel per channel."""
  tree = tmp_path / 'c'
  means = [10.0 * (i + 1) for i in range(channels)]
  card = {
    **CARD,
    'mean': means,
    'std': [2.0] * channels,
    'normalization_in_graph': False,
  }
  pixels = np.full((*small.SIZE, channels), 30, np.uint8)
  content = small.int8(channels=channels)
  arena = tflm.recommend_arena_bytes(content)
  c_source.write_c_project(str(tree), content, card, pixels, arena)
  (tmp_path / 'fake.c').write_text(
    f"""
#include <stdio.h>
#include "runner.h"
#include "sample.h"
static model_input_t input[sizeof sample_pixels];
model_input_t *runner_open(void) {{ return input; }}
const model_output_t *runner_invoke(void) {{
  for (int c = 0; c < {channels}; ++c)
    printf("%g ", (input[c] - MODEL_INPUT_ZERO_POINT) * MODEL_INPUT_SCALE);
  return NULL;
}}
"""
  )
  program = str(tmp_path / 'segment')
  sources = ('main.c', 'model.c', 'sample.c', str(tmp_path / 'fake.c'))
  compile_(tree, program, *sources, flags=(f'-I{tree}',))
  done = subprocess.run([program], capture_output=True, text=True, check=False)
  found = [float(x) for x in done.stdout.split()]
  # Values below the range of the input are clipped to its lower end.
  assert found == pytest.approx([max(0, 30 - m) / 2 for m in means], abs=0.51)


@needs_gcc
@pytest.mark.parametrize('wrong', [0, 7])
def test_the_example_compares_with_python(tree, tmp_path, wrong):
  """A runner that returns Python's scores, `wrong` pixels of them changed."""
  (tmp_path / 'fake.c').write_text(
    f"""
#include <string.h>
#include "runner.h"
#include "sample.h"
static model_input_t input[sizeof sample_pixels];
static model_output_t
    output[MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH * MODEL_OUTPUT_CHANNELS];
model_input_t *runner_open(void) {{ return input; }}
const model_output_t *runner_invoke(void) {{
  for (size_t i = 0; i < sizeof sample_pixels; ++i)
    if (input[i] != sample_pixels[i] - 128) return NULL;  /* scale 1 */
  memset(output, 0, sizeof output);
  for (int i = 0; i < MODEL_OUTPUT_HEIGHT * MODEL_OUTPUT_WIDTH; ++i)
    output[i * MODEL_OUTPUT_CHANNELS +
           (sample_ids[i] + (i < {wrong})) % MODEL_CLASSES] = 5;
  return output;
}}
"""
  )
  program = str(tmp_path / 'segment')
  sources = ('main.c', 'model.c', 'sample.c', str(tmp_path / 'fake.c'))
  compile_(tree, program, *sources, flags=(f'-I{tree}',))
  done = subprocess.run([program], capture_output=True, text=True, check=False)
  assert f'{wrong} of 384 pixels differ from Python' in done.stdout
  assert done.returncode == int(wrong > 0)


@needs_gcc
@pytest.mark.skipif(not interpreters.has_tflm(), reason='no tflite-micro')
@pytest.mark.parametrize('damage', [False, True])
def test_the_example_by_tflm(tree, tmp_path, damage):
  """C quantizes the pixels and compares the classes; TFLM is the package."""
  (tmp_path / 'runner.c').write_text(
    """
#include "runner.h"
static model_input_t *input;
static const model_output_t *(*invoke)(void);
void set_runner(model_input_t *i, const model_output_t *(*f)(void)) {
  input = i;
  invoke = f;
}
model_input_t *runner_open(void) { return input; }
const model_output_t *runner_invoke(void) { return invoke(); }
"""
  )
  library = str(tmp_path / 'segment.so')
  sources = ('main.c', 'model.c', 'sample.c', str(tmp_path / 'runner.c'))
  flags = ('-shared', '-fPIC', '-Dmain=segment', f'-I{tree}')
  compile_(tree, library, *sources, flags=flags)
  c = ctypes.CDLL(library)
  size = len(small.int8())
  content = bytes((ctypes.c_ubyte * size).in_dll(c, 'model_data'))
  runner = interpreters.open_tflm(content)
  given = np.zeros((1, *small.SIZE, 3), np.int8)
  scores = np.zeros((1, *small.SIZE, small.CLASSES), np.int8)

  def invoke():
    runner.set_input(given, 0)
    runner.invoke()
    scores[:] = runner.get_output(0)
    if damage:
      scores[0, 3, 4] = -scores[0, 3, 4] - 1
    return scores.ctypes.data

  callback = ctypes.CFUNCTYPE(ctypes.c_void_p)(invoke)
  c.set_runner(ctypes.c_void_p(given.ctypes.data), callback)
  assert c.segment(1, None) == int(damage)
  assert given.any()


@needs_gcc
def test_the_calls_of_tflm_compile(tree, tmp_path):
  """Compiles against declarations, because the sources may be absent."""
  lite = tmp_path / 'tensorflow' / 'lite'
  (lite / 'micro').mkdir(parents=True)
  (lite / 'schema').mkdir()
  (lite / 'schema' / 'schema_generated.h').write_text(
    'namespace tflite { struct Model; const Model* GetModel(const void*); }\n'
  )
  methods = set(
    re.findall(r'resolver\.(\w+)\(', (tree / 'runner_tflm.cc').read_text())
  )
  (lite / 'micro' / 'micro_mutable_op_resolver.h').write_text(
    '#pragma once\nenum TfLiteStatus { kTfLiteOk, kTfLiteError };\n'
    'namespace tflite { struct MicroOpResolver {};\n'
    'template <unsigned int n> struct MicroMutableOpResolver : MicroOpResolver '
    '{ ' + ' '.join(f'TfLiteStatus {m}();' for m in sorted(methods)) + ' };}\n'
  )
  (lite / 'micro' / 'micro_interpreter.h').write_text(
    '#pragma once\n#include <cstdint>\n#include <cstddef>\n'
    '#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"\n'
    'namespace tflite { struct Model; }\n'
    'union TfLitePtrUnion { void* data; };\n'
    'struct TfLiteTensor { TfLitePtrUnion data; };\n'
    'namespace tflite { struct MicroInterpreter {\n'
    '  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t*,\n'
    '                   size_t);\n'
    '  TfLiteStatus AllocateTensors(); TfLiteStatus Invoke();\n'
    '  TfLiteTensor* input(size_t); TfLiteTensor* output(size_t); };}\n'
  )
  subprocess.run(
    [
      *('g++', *FLAGS, '-std=c++17', f'-I{tmp_path}', '-c', 'runner_tflm.cc'),
      *('-o', str(tmp_path / 'runner.o')),
    ],
    cwd=tree,
    check=True,
  )


@pytest.mark.skipif(not shutil.which('cmake'), reason='no cmake')
@needs_gcc
def test_cmake(tree, tmp_path):
  build = str(tmp_path / 'build')
  for command in (
    ('cmake', '-S', str(tree), '-B', build),
    ('cmake', '--build', build),
  ):
    subprocess.run(command, capture_output=True, check=True)
  assert (pathlib.Path(build) / 'segment').exists()


def _fork(folder):
  """Lays out a published fork of TFLite Micro as a checkout.

  The fork has its own namespace, and its tensors have all fields.

  Returns:
    Flags of CMake.
  """
  package = importlib.util.find_spec('xmos_ai_tools')
  tensorflow = importlib.util.find_spec('tensorflow')
  own = pathlib.Path(package.submodule_search_locations[0] if package else '.')
  library = own / 'xinterpreters' / 'libs' / 'linux' / 'xtflm_python.so'
  if not (library.is_file() and tensorflow):
    pytest.skip(
      'set TFLM_DIR to a checkout of tflite-micro, or on Linux pip install '
      '--no-deps xmos-ai-tools, which has its headers and kernels'
    )
  headers = own / 'runtime' / 'include'
  others = pathlib.Path(tensorflow.submodule_search_locations[0]) / 'include'
  downloads = folder / 'tensorflow/lite/micro/tools/make/downloads'
  (downloads / 'flatbuffers').mkdir(parents=True)
  (downloads / 'flatbuffers' / 'include').symlink_to(headers)
  (downloads / 'gemmlowp').symlink_to(others / 'external' / 'gemmlowp')
  return (
    f'-DTFLM_DIR={folder}',
    f'-DTFLM_LIBRARY={library}',
    '-DCMAKE_CXX_FLAGS=-Dtflite=tflite_micro -UTF_LITE_STATIC_MEMORY',
  )


@pytest.mark.skipif(not shutil.which('cmake'), reason='no cmake')
@needs_gcc
def test_cmake_with_tflm(tree, tmp_path):
  """Runs the commands of the project's README."""
  if 'TFLM_DIR' in os.environ:
    flags = (f'-DTFLM_DIR={os.environ["TFLM_DIR"]}',)
  else:
    flags = _fork(tmp_path / 'tflm')
  build = str(tmp_path / 'build')
  for command in (
    ('cmake', '-S', str(tree), '-B', build, *flags),
    ('cmake', '--build', build),
  ):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
  example = pathlib.Path(build) / 'segment'
  done = subprocess.run([example], capture_output=True, text=True, check=False)
  assert '0 of 384 pixels differ from Python' in done.stdout
  assert done.returncode == 0
  picture = tmp_path / 'image.raw'
  picture.write_bytes(bytes(16 * 24 * 3))
  done = subprocess.run(
    [example, picture], capture_output=True, text=True, check=False
  )
  counts = [int(line.split()[-1]) for line in done.stdout.splitlines()]
  assert sum(counts) == 384 and done.returncode == 0
