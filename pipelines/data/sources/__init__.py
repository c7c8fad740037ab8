"""Corpora: one module per source of text, listed in `registry`."""
