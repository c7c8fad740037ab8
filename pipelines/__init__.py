"""Text to batches to commands: everything that knows files and corpora."""
