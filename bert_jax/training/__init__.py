"""Training: batches, the step over all devices, optimizers, checkpoints and the loop."""
