"""Augmentation of images and their labels."""
