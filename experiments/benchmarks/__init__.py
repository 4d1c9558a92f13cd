"""Side-by-side benchmarks, run by hand and never as timed tests."""
