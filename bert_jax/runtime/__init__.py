"""Services for every program: paths, errors, console, signals, trackers, status files."""
