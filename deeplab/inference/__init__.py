"""Predictors of checkpoints and exported files."""
