"""Steps, losses, optimizers, checkpoints and records of training."""
