"""Encoders, one file per family; `contract.py` has their interface."""
