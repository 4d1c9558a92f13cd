"""Post-training quantization: calibration, folding, equalization, GPTQ."""
