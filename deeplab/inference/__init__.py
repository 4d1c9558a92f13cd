"""Inference: predictors of checkpoints and exported files, and protocols."""
