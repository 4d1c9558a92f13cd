"""Data sets on disk: raw files, downloads, records."""
