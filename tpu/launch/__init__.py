"""Requests for Cloud TPU slices: submit, watch and end them."""
