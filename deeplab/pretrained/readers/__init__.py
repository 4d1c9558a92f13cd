"""Readers of weight files, one a file format."""
