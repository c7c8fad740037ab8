"""What every program needs: paths, errors, console, signals, trackers and status files."""
