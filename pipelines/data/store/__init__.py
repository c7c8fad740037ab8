"""The token store: made from a corpus, copied, read."""
