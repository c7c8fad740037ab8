"""What a report of a run shows, and how it is drawn."""
