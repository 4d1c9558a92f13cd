"""Annotation formats of a user's own data, one file a format."""
