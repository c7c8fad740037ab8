"""Tokenizers: train, read, write and apply them."""
