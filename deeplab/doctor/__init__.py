"""Scans a data set before training, and says what is wrong with it."""
