"""Trained weights of other systems, and of earlier runs, for our networks."""
