"""Estimates from the TPU compiler before a slice is requested."""
