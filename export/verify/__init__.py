"""Comparison of exported files with JAX: outputs, agreement and mIoU."""
