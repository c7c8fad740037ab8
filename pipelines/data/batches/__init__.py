"""Training batches, made from a token store."""
