"""Side-by-side measurements. Run by hand, never as a timed test."""
