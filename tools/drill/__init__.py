"""The drill: every fault that a run must survive, done to real runs; ``make drill``."""
