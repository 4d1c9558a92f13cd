"""The page: what is drawn of an example, and names that look like HTML."""

import numpy as np

from deeplab.data import datasets
from deeplab.doctor import diagnosis
from deeplab.doctor import example_loader
from deeplab.doctor import report

PALETTE = ((10, 20, 30), (200, 0, 0))
GREY = np.full((2, 3, 3), 100, np.uint8)
IDS = np.array([[0, 1, 255], [0, 1, 1]], np.uint8)
PLACE = example_loader.ExampleRef('train', 'a.png', 'b.png')


def test_masks_are_drawn_over_images_with_wrong_pixels_in_magenta():
  wrong = np.zeros((2, 3), bool)
  wrong[1, 0] = True
  example = example_loader.LoadedExample(PLACE, GREY, IDS, wrong)
  (drawn,) = report.draw_example(example, PALETTE, masked=True)
  # 0.4 of the grey and 0.6 of the colour; the ignored pixel is the image's.
  assert drawn[0].tolist() == [[46, 52, 58], [160, 40, 40], [100, 100, 100]]
  assert drawn[1, 0].tolist() == [255, 0, 255]
  (bare,) = report.draw_example(example, PALETTE, masked=False)
  np.testing.assert_array_equal(bare, GREY)
  assert (GREY == 100).all()


def test_what_cannot_be_laid_over_each_other_stands_alone():
  tall = example_loader.LoadedExample(PLACE, GREY, IDS.T)
  image, mask = report.draw_example(tall, PALETTE, masked=True)
  np.testing.assert_array_equal(image, GREY)
  assert mask.shape == (3, 2, 3)
  assert mask[1, 0].tolist() == [200, 0, 0]
  (mask,) = report.draw_example(
    example_loader.LoadedExample(PLACE, label=IDS), PALETTE, True
  )
  assert mask[0, 1].tolist() == [200, 0, 0]
  (image,) = report.draw_example(
    example_loader.LoadedExample(PLACE, GREY), PALETTE, True
  )
  np.testing.assert_array_equal(image, GREY)
  assert (
    report.draw_example(example_loader.LoadedExample(PLACE), PALETTE, True)
    == []
  )


def test_sizes_that_differ_are_told():
  told = report._describe_size_mismatch(
    example_loader.LoadedExample(PLACE, GREY, IDS.T)
  )
  assert told == ' (image 3x2, mask 2x3)'
  assert (
    report._describe_size_mismatch(
      example_loader.LoadedExample(PLACE, GREY, IDS)
    )
    == ''
  )
  assert (
    report._describe_size_mismatch(example_loader.LoadedExample(PLACE, GREY))
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
  faults = [
    example_loader.Issue('files', f'<b>{i}</b> & co') for i in range(150)
  ]
  config.data.class_names = ('<i>', 'road', 'tree')
  dataset = datasets.Dataset(config.data)
  result = diagnosis.diagnose((), faults, config, dataset)
  page = report.render_html(result, dataset)
  assert '&lt;b&gt;99&lt;/b&gt; &amp; co' in page
  assert '<b>99' not in page
  assert '>and 50 more<' in page
  assert '&lt;i&gt;' in page
  assert '<i>' not in page


def test_an_old_report_is_replaced(config, tmp_path):
  dataset = datasets.Dataset(config.data)
  result = diagnosis.diagnose((), (), config, dataset)
  path = tmp_path / 'report.html'
  path.write_text('old')
  report.write_html(path, result, dataset)
  assert path.read_text().startswith('<!doctype html>')
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']
