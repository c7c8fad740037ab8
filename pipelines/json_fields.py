"""Tables of the keys of JSON files that other programs write: used, harmless or rejected."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError


@dataclass(frozen=True)
class Field:
    """How a key is treated.

    Attributes:
        is_used: bert-jax reads the value.
        accepts: Return whether a value can be used or ignored. Other values are rejected.
        remedy: What another value means and what to do; empty if every value is accepted.
    """

    is_used: bool = False
    accepts: Callable[[Any], bool] = lambda value: True
    remedy: str = ""


USED = Field(is_used=True)
HARMLESS = Field()


def only(*values: Any, remedy: str, is_used: bool = False) -> Field:
    """Return a field that rejects every value except null and `values`."""
    return Field(is_used, lambda value: value is None or value in values, remedy)


def check_fields(content: Mapping[str, Any], fields: Mapping[str, Field], path: Path) -> None:
    """Reject values that a table excludes, and print the keys that it does not contain.

    Args:
        content: Of the file `path`.
        fields: The table.
        path: For messages.

    Raises:
        BadInputError: A value is rejected.
    """
    for key, value in content.items():
        if key in fields and not fields[key].accepts(value):
            text = json.dumps(value, ensure_ascii=False)[:60]
            raise BadInputError(f"{path}: {key}: {text} is not supported: {fields[key].remedy}")
    if unknown := [key for key in content if key not in fields]:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        say(f"{path}: ignoring unknown keys: {', '.join(map(repr, unknown[:10]))}{more}")
