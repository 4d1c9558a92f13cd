"""Numbers in sentences."""


def count(number: int, noun: str) -> str:
  """Returns '1 image', '2 images'."""
  return f'{number} {noun}{"s" * (number != 1)}'
