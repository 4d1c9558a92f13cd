"""Encoders, one file a family. The contract they share is in `contract.py`."""
