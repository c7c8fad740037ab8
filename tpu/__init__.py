"""Machines: what Cloud TPU slices are, and whether and how fast a run goes on one."""
