"""Files of other programs that are read or written here."""
