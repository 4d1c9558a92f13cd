"""tfds builders, one file a data set."""
