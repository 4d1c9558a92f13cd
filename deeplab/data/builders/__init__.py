"""tfds builders that prepare data sets, one file for each."""
