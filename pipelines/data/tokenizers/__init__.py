"""Vocabularies: learn, read, write and apply them."""
