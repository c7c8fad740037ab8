"""From text to training batches."""
