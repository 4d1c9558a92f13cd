"""Bounds on what a weight file may ask of this machine.

A damaged or hostile file may declare sizes that have nothing to do with its
own: 1 MiB of a compressed archive holds 1 GiB of zeros, and a name that a
thousand tables share is copied a thousand times. Readers charge what they are
about to read to a budget, before they read it.
"""

import zipfile

# Bytes that a file may take in memory, times its own. Float weights compress
# to about 90 %, those of a pruned network to a few percent.
MAX_EXPANSION = 20
# Tiny files are allowed a little more, for instance a scalar in 8 KiB.
_MIN_BYTES = 1 << 20


class ByteBudget:
  """The bytes that the contents of a file may take in memory."""

  def __init__(self, file_bytes: int):
    self._left = MAX_EXPANSION * file_bytes + _MIN_BYTES

  def spend(self, count: int) -> None:
    """Charges bytes that are about to be read.

    Raises:
      ValueError: the file would take more than it may.
    """
    self._left -= count
    if count < 0 or self._left < 0:
      raise ValueError(
        f'its contents would take more than {MAX_EXPANSION} times its own size'
      )


def check_archive(archive: zipfile.ZipFile, file_bytes: int) -> None:
  """Checks the directory of a zip archive before anything is inflated.

  Raises:
    ValueError: its members are larger than they may be, or packed in a way
      that frameworks do not use.
  """
  budget = ByteBudget(file_bytes)
  for member in archive.infolist():
    budget.spend(member.file_size)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise ValueError(
        f'its member {member.filename!r} is compressed by method '
        f'{member.compress_type}, which no framework uses'
      )
