"""Experiments around the library: benchmarks, sweeps, tables."""
