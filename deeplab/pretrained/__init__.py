"""Pretrained weights of other frameworks, and of earlier runs."""
