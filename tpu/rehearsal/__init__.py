"""Emulation of Google Cloud on this computer, for the tests and `bert-jax tpu local`."""
