"""Extractive summarization (BERTSUM, Liu 2019)."""
