"""Passages for a query."""

from __future__ import annotations

from support.task_files.task_files import json_lines

SAMPLES = {
    "a.jsonl": json_lines(
        *({"query": "q", "passage": f"p{n}", "label": n % 2, "query_id": "1"} for n in range(4))
    )
}
