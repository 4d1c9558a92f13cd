"""Int8: simulated in JAX as the device computes it, ranges, and repairs."""
