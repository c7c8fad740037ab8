"""What runs on a TPU VM."""
