"""Which keys of a config a resumed run may change."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from typing import Any, Literal, get_type_hints


def free(default: Any, resume: Literal["print", "silent"] = "print") -> Any:
    """Declare a key that a resumed run may change, with or without a line about it.

    A key that is declared without this is fixed: a run is not resumed with another value. The
    metadata ``{"resume": "print"}`` of a section does the same for all its keys.
    """
    return field(default=default, metadata={"resume": resume})


def resume_policies(kind: type, prefix: str = "", above: str = "") -> dict[str, str]:
    """Return key -> fixed, print or silent for every key of a config, with dots."""
    hints, policies = get_type_hints(kind), dict[str, str]()
    for key in fields(kind):
        policy = above or key.metadata.get("resume", "")
        if is_dataclass(hints[key.name]):
            policies |= resume_policies(hints[key.name], f"{prefix}{key.name}.", policy)
        else:
            policies[f"{prefix}{key.name}"] = policy or "fixed"
    return policies
