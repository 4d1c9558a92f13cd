"""Converters from a network to the bytes of each file format."""
