"""BERT pre-training in JAX: the model and how it learns."""

__version__ = "0.1.0"
