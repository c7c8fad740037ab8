"""Tables of labeled data."""
