"""Preparing a data set once: raw files in, ArrayRecord out."""
