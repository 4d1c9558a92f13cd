"""The activation planner, on graphs small enough to plan by hand."""

from export.graph import memory
from export.graph import tflite_graph


def tensor(name, size, constant=False):
  return tflite_graph.Tensor(
    name, 'int8', (size,), size if constant else 0, 0, (), ()
  )


def make(tensors, operators, inputs, outputs):
  return tflite_graph.Graph(
    tuple(tensors),
    tuple(tflite_graph.Operator(*op) for op in operators),
    inputs,
    outputs,
    1,
  )


def test_lifetimes_of_a_skip_connection():
  """0 -A-> 1 -B-> 2 -C-> 3 = out, and C reads 1 too; 4 is a weight."""
  graph = make(
    [
      tensor('in', 10),
      tensor('a', 20),
      tensor('b', 40),
      tensor('out', 30),
      tensor('w', 99, constant=True),
    ],
    [('A', (0, 4), (1,)), ('B', (1,), (2,)), ('C', (1, 2), (3,))],
    (0,),
    (3,),
  )
  lives = memory.activation_lifetimes(graph)
  assert lives == [
    memory.Lifetime(10, 0, 0),
    memory.Lifetime(20, 0, 1 + 1),
    memory.Lifetime(40, 1, 2),
    memory.Lifetime(30, 2, 3),
  ]
  assert memory.lower_bound(lives) == 20 + 40 + 30
  # b at 0 (40 -> 48), out at 48 (30 -> 80), a at 80; in fits before b lives.
  assert memory.plan_arena(lives) == 80 + 20


def test_alignment_is_16_bytes():
  lives = [memory.Lifetime(17, 0, 0), memory.Lifetime(1, 0, 0)]
  assert memory.lower_bound(lives) == 18
  assert memory.plan_arena(lives) == 33


def test_arena_can_exceed_the_lower_bound():
  lives = [
    memory.Lifetime(16, 0, 2),  # at 64, beside the first large one
    memory.Lifetime(64, 1, 1),  # at 0
    memory.Lifetime(16, 2, 3),  # at 80, beside the second and a small one
    memory.Lifetime(64, 3, 4),  # at 0
  ]
  assert memory.lower_bound(lives) == 64 + 16
  assert memory.plan_arena(lives) == 80 + 16


def test_among_equal_sizes_the_last_is_placed_first():
  """TFLite Micro needs 3,072 bytes for these; the other order 3,456."""
  sizes = (1152, 768, 768, 768, 8, 768, 1536, 480, 1920)
  first = (0, 0, 1, 2, 3, 4, 5, 6, 7)
  last = (0, 2, 2, 5, 4, 5, 6, 7, 8)
  lives = [memory.Lifetime(*x) for x in zip(sizes, first, last, strict=True)]
  assert memory.plan_arena(lives) == 3072


def test_disjoint_lifetimes_share_memory():
  lives = [memory.Lifetime(100, step, step + 1) for step in (0, 2, 4)]
  assert memory.plan_arena(lives) == 100


def test_unpacked_weights_do_not_count_as_activations():
  graph = make(
    [
      tensor('w16', 8, constant=True),
      tensor('w', 16),
      tensor('x', 4),
      tensor('y', 4),
    ],
    [('DEQUANTIZE', (0,), (1,)), ('CONV_2D', (2, 1), (3,))],
    (2,),
    (3,),
  )
  assert memory.unpacked_weight_bytes(graph) == 16
  assert memory.lower_bound(memory.activation_lifetimes(graph)) == 8


def test_a_graph_without_activations():
  assert memory.lower_bound([]) == memory.plan_arena([]) == 0
