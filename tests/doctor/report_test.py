"""The HTML report: pictures of examples, and names that look like HTML."""

import numpy as np

from deeplab.data import datasets
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import report

PALETTE = ((10, 20, 30), (200, 0, 0))
GREY = np.full((2, 3, 3), 100, np.uint8)
IDS = np.array([[0, 1, 255], [0, 1, 1]], np.uint8)
REF = example_loader.ExampleRef('train', 'a.png', 'b.png')


def test_masks_are_drawn_over_images_with_invalid_pixels_in_magenta():
  invalid = np.zeros((2, 3), bool)
  invalid[1, 0] = True
  example = example_loader.LoadedExample(REF, GREY, IDS, invalid)
  (drawn,) = report.draw_example(example, PALETTE, masked=True)
  # 0.4 of the grey and 0.6 of the color; the ignored pixel is the image's.
  assert drawn[0].tolist() == [[46, 52, 58], [160, 40, 40], [100, 100, 100]]
  assert drawn[1, 0].tolist() == [255, 0, 255]
  (plain,) = report.draw_example(example, PALETTE, masked=False)
  np.testing.assert_array_equal(plain, GREY)
  assert (GREY == 100).all()


def test_images_and_masks_of_different_sizes_are_separate_pictures():
  tall = example_loader.LoadedExample(REF, GREY, IDS.T)
  image, mask = report.draw_example(tall, PALETTE, masked=True)
  np.testing.assert_array_equal(image, GREY)
  assert mask.shape == (3, 2, 3)
  assert mask[1, 0].tolist() == [200, 0, 0]
  (mask,) = report.draw_example(
    example_loader.LoadedExample(REF, label=IDS), PALETTE, True
  )
  assert mask[0, 1].tolist() == [200, 0, 0]
  (image,) = report.draw_example(
    example_loader.LoadedExample(REF, GREY), PALETTE, True
  )
  np.testing.assert_array_equal(image, GREY)
  assert (
    report.draw_example(example_loader.LoadedExample(REF), PALETTE, True) == []
  )


def test_different_sizes_are_in_the_caption():
  caption = report._describe_size_mismatch(
    example_loader.LoadedExample(REF, GREY, IDS.T)
  )
  assert caption == ' (image 3x2, mask 2x3)'
  assert (
    report._describe_size_mismatch(example_loader.LoadedExample(REF, GREY, IDS))
    == ''
  )
  assert (
    report._describe_size_mismatch(example_loader.LoadedExample(REF, GREY))
    == ''
  )


def test_the_legend_names_the_ignored_value(config):
  config.data.ignore_label = 11
  dataset = datasets.Dataset(config.data)
  page = report.render_html(
    diagnosis.diagnose((), (), config, dataset), dataset
  )
  assert 'rgb(224, 224, 192)"></span>ignored (11)' in page
  assert 'rgb(255, 0, 255)"></span>no class' in page


def test_names_are_escaped_and_long_lists_cut(config):
  issues = [
    example_loader.Issue('files', f'<b>{i}</b> & co') for i in range(150)
  ]
  config.data.class_names = ('<i>', 'road', 'tree')
  dataset = datasets.Dataset(config.data)
  result = diagnosis.diagnose((), issues, config, dataset)
  page = report.render_html(result, dataset)
  assert '&lt;b&gt;99&lt;/b&gt; &amp; co' in page
  assert '<b>99' not in page
  assert '>and 50 more<' in page
  assert '&lt;i&gt;' in page
  assert '<i>' not in page
