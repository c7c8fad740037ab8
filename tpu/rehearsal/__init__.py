"""Parts of Google Cloud on this machine: for the tests, and for `python -m tpu local`."""
