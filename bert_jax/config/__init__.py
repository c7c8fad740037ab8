"""Configs of runs, phases and published networks."""
