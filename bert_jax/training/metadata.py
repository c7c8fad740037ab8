"""What is saved beside the arrays of a checkpoint, with a checksum of each of them.

It is signed with a SHA-256 of itself, which finds damage but keeps nobody from writing what he
likes; so its values are believed only as far as they are of the right types.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

Checksums = dict[str, list[int]]


class DamagedError(Exception):
    """A checkpoint cannot be read, or is not what was saved."""


@dataclass(frozen=True)
class Meta:
    """What is saved beside the arrays.

    Attributes:
        step: Updates done.
        tokens: Trained on so far, without padding.
        seconds: Spent on training so far, over all restarts.
        config: Of the run, resolved; of converted weights only the section ``model``.
        data: Digests that the data must have.
        architecture: Of the network with its heads, by Hugging Face's name.
        labels: Names of the classes of a task head.
        problem_type: Of them; see `convert.ModelWeights`.
        parts: Of the parameters (see `convert`) those that are there; empty = as in pre-training.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    architecture: str = "BertForPreTraining"
    labels: list[str] = field(default_factory=list)
    problem_type: str = ""
    parts: list[str] = field(default_factory=list)


_EMPTY = Meta()


def signed(meta: Meta, sums: Checksums) -> dict[str, Any]:
    """What is written."""
    return _signed(asdict(meta) | {"checksums": sums})


def believed(given: dict[str, Any], step: int) -> tuple[Meta, Checksums]:
    """What was written at `step`: the note and the checksums of the arrays.

    Raises:
        DamagedError: It is something else.
        Exception: Of many types, on what `signed` never gave.
    """
    content = {key: value for key, value in given.items() if key != "sha256"}
    if given != _signed(content):
        raise DamagedError("meta is not what was saved")
    sums = content.pop("checksums")
    meta = Meta(**content)
    if meta.step != step:
        raise DamagedError(f"it was saved as step {meta.step}")
    for one in fields(Meta):
        value, default = getattr(meta, one.name), getattr(_EMPTY, one.name)
        if type(value) is not type(default) and not (one.name == "seconds" and type(value) is int):
            raise DamagedError(f"{one.name} is {value!r:.40}")
    texts = [meta.architecture, meta.problem_type, *meta.labels, *meta.parts, *meta.data.values()]
    if not all(isinstance(text, str) for text in texts):
        raise DamagedError("a label, part or digest is no text")
    return meta, sums


def _signed(content: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(content))  # tuples become lists, as they will be when read
    text = json.dumps(plain, sort_keys=True)
    return plain | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
