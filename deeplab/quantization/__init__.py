"""Quantization to int8: rules, post-training steps and the simulator."""
