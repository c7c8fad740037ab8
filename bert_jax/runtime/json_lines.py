"""JSON Lines: files with one JSON object per line that stay readable after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse(line: str) -> dict[str, Any]:
    """Return the object in a line; an empty one if the line is torn or contains something else."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file that may be missing; damaged lines are left out."""
    content = path.read_bytes() if path.is_file() else b""
    return [
        values for line in content.decode("utf-8", "replace").split("\n") if (values := parse(line))
    ]


def to_line(values: dict[str, Any]) -> bytes:
    """Return the line for an object."""
    return (json.dumps(values) + "\n").encode()
