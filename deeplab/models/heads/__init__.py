"""Segmentation heads, one file a family. Heads never ask which encoder."""
