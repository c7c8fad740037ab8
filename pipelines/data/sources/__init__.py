"""Corpora: one module per source of text."""
