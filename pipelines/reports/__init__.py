"""The HTML report of a run: its content, tables and figures."""
