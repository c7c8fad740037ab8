"""What ``bert-jax serve`` consists of: a page and a JSON API to try a model."""
