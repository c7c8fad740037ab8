"""Shared code of the tests: data, processes, servers and their peers."""
