"""Data sets, augmentation and input pipelines; none imports JAX."""
