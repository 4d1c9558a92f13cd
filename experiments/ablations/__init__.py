"""Studies, one a page; `experiments.sweep` runs them."""
