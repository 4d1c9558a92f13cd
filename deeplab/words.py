"""Numbers in sentences."""


def count(number: int, noun: str, plural: str = '') -> str:
  """Returns '1 image', '2 images'."""
  return f'{number} {noun if number == 1 else plural or f"{noun}s"}'
