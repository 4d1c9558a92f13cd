"""Examines a data set before training and reports its mistakes."""
