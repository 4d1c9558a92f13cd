"""Exports trained models to files that devices run."""
