"""Data sets, augmentation and input pipelines. Imports no JAX."""
