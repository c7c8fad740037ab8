"""Repositories of the Hugging Face hub."""
