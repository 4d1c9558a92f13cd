"""Target devices: their limits, whether a file fits, device checks."""
