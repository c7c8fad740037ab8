"""One module per command of bert-jax: parse, call, print."""
