"""Targets, whether a model fits them, and what they measure."""
