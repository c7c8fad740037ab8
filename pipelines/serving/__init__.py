"""The page and the JSON API of ``bert-jax serve``."""
