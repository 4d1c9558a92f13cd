"""Readers of annotation formats, one file for each format."""
