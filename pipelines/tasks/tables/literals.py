"""Lists that a table has as text, as pandas and NumPy write them to CSV."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

LITERAL = re.compile(r"[\[({].*[\])}]|set\(\)", re.DOTALL)
_TEXT = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")(\s+(?=['"]))?""", re.DOTALL)


def list_in(text: str) -> list[Any] | dict[Any, Any]:
    """Read a list as JSON, Python or NumPy write it.

    Raises:
        ValueError: It is not one; also SyntaxError, RecursionError or MemoryError.
    """
    text = text.strip()
    if not LITERAL.fullmatch(text):
        raise ValueError(text)
    if text == "set()":
        return []
    try:
        value = json.loads(text)
    except ValueError:
        inside = text[1:-1]
        if re.fullmatch(r"[-\d.\s]+", inside):  # numbers of NumPy
            value = [float(part) for part in inside.split()]
        elif "'" in inside or '"' in inside or not inside.strip():
            value = ast.literal_eval(_TEXT.sub(_with_comma, text))
        elif "," in inside and re.fullmatch(r"[-\d.,\s]+", inside):
            value = ast.literal_eval(text)
        else:
            value = [part.strip() for part in inside.split(",")]
    if isinstance(value, dict):
        return value
    if not isinstance(value, list | tuple | set):
        value = [value]  # (a) is not a tuple
    return sorted(value, key=str) if isinstance(value, set) else list(value)


def _with_comma(match: re.Match[str]) -> str:
    """Separate texts of an array of NumPy, which Python would join."""
    return f"{match[1]}, " if match[2] else match[1]
