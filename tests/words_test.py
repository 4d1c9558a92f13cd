from deeplab import words


def test_counts():
  assert [words.count(n, 'image') for n in (0, 1, 2)] == [
    *('0 images', '1 image', '2 images'),
  ]
  assert [words.count(n, 'class', 'classes') for n in (1, 2)] == [
    *('1 class', '2 classes'),
  ]
