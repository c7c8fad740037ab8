"""From a token store to training batches."""
