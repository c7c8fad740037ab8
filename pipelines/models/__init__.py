"""Trained models: open, convert, export and use them."""
