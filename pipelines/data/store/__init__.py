"""From a corpus to a token store."""
