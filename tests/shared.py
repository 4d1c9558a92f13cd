"""Where real data and published models lie, which are part of no checkout."""

import pathlib

SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared'
