"""Segmentation heads, one file per family; `base.py` has their interface."""
