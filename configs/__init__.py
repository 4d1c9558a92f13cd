"""Experiment configurations: one page an experiment."""
