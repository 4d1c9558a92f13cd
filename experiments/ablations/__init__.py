"""Ablation studies, one per page; `experiments.sweep` runs them."""
