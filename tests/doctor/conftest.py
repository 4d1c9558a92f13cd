"""The fixtures of `tests/data`: the doctor reads the same folders."""

from tests.data.conftest import config  # noqa: F401
from tests.data.conftest import root  # noqa: F401
from tests.data.conftest import server  # noqa: F401
from tests.data.conftest import shared  # noqa: F401
