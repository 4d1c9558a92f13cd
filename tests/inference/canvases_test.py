"""Few canvases for many sizes: the plan by literals, and its promises."""

import numpy as np
import pytest

from deeplab.inference import canvases

# Sizes of photographs of COCO, VOC and ADE20K.
PHOTOS = (
  *((230, 352), (338, 500), (360, 640), (364, 500), (375, 500), (388, 640)),
  *((423, 500), (426, 640), (427, 640), (428, 640), (500, 351), (500, 640)),
  *((511, 640), (512, 683), (640, 427), (640, 480)),
)


def padding(sizes, plan):
  """Returns the share of pixels that a plan adds."""
  padded = [canvases.choose_canvas(size, plan) for size in sizes]
  return sum(h * w for h, w in padded) / sum(h * w for h, w in sizes) - 1


def test_similar_sizes_share_a_canvas():
  sizes = [(100, 200), (98, 200), (100, 190), (300, 300)]
  plan = canvases.plan_canvases(sizes, 0.15)
  assert plan == ((100, 200), (300, 300))
  assert [canvases.choose_canvas(size, plan) for size in sizes] == [
    *[(100, 200)] * 3,
    (300, 300),
  ]


def test_a_canvas_need_not_be_the_size_of_an_image():
  assert canvases.plan_canvases([(100, 90), (90, 100)], 0.15) == ((100, 100),)
  assert canvases.plan_canvases([(100, 90), (90, 100)], 0.1) == (
    (90, 100),
    (100, 90),
  )


def test_sixteen_sizes_of_photographs_need_five_canvases():
  plan = canvases.plan_canvases(PHOTOS, 0.15)
  assert len(plan) == 5
  assert 0 < padding(PHOTOS, plan) <= 0.15


def test_no_padding_is_allowed():
  assert canvases.plan_canvases(PHOTOS, 0.0) == PHOTOS


def test_an_image_is_never_small_in_its_canvas():
  # Together they would be 0.1% more pixels, and the small one mostly padding.
  sizes = [(1000, 1000), (30, 30)]
  assert canvases.plan_canvases(sizes, 0.15) == ((30, 30), (1000, 1000))
  assert canvases.choose_canvas((30, 30), [(1000, 1000)]) == (30, 30)


@pytest.mark.parametrize('count', [200, 1500])
def test_hundreds_of_sizes(count):
  """Like VOC: the longer side has 500 pixels."""
  rng = np.random.default_rng(0)
  shorter = rng.integers(330, 501, count).tolist()
  sizes = [(n, 500) if n % 4 else (500, n) for n in shorter]
  plan = canvases.plan_canvases(sizes, 0.15)
  assert len(set(sizes)) > 110
  assert len(plan) <= 4
  assert padding(sizes, plan) <= 0.15
  assert all(canvases.choose_canvas(size, plan) in plan for size in sizes)


def test_nothing_to_plan():
  assert canvases.plan_canvases([], 0.15) == ()
  assert canvases.choose_canvas((5, 7), ()) == (5, 7)
