"""Comparison of exported files with JAX and their mIoU."""
