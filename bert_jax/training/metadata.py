"""The metadata of a checkpoint, with a checksum of each array.

Its SHA-256 of itself detects damage, not intent: anybody can write a valid one, so the types of all
values are checked as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

Checksums = dict[str, list[int]]


class DamagedError(Exception):
    """A checkpoint cannot be read, or differs from what was saved."""


FOLDER = "checkpoints"  # in a run folder


@dataclass(frozen=True)
class Meta:
    """Metadata of a checkpoint.

    Attributes:
        step: Number of updates done.
        tokens: Tokens trained on so far, without padding.
        seconds: Time spent on training so far, over all sessions.
        config: Resolved config of the run; of converted weights only the section ``model``.
        data: Digests that the data must have.
        architecture: Hugging Face's name of the network with its heads.
        labels: Names of the classes of a task head.
        problem_type: Kind of these labels; see `tensor_names.ModelWeights`.
        text_columns: Names of the columns of text and pair in the training data of a task.
        parts: Names of the existing parts of the parameters (see `tensor_names`); empty = those of
            pre-training.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    architecture: str = "BertForPreTraining"
    labels: list[str] = field(default_factory=list)
    problem_type: str = ""
    text_columns: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


_EMPTY = Meta()


def signed(meta: Meta, sums: Checksums) -> dict[str, Any]:
    """Return the JSON values to write."""
    return _signed(asdict(meta) | {"checksums": sums})


def verified(saved: dict[str, Any], step: int) -> tuple[Meta, Checksums]:
    """Return the metadata and the checksums that `signed` made at `step`.

    Raises:
        DamagedError: It differs from what was saved.
        Exception: Of many types, for values that `signed` never returns.
    """
    content = {key: value for key, value in saved.items() if key != "sha256"}
    if saved != _signed(content):
        raise DamagedError("the SHA-256 of meta differs")
    sums = content.pop("checksums")
    meta = Meta(**content)
    if meta.step != step:
        raise DamagedError(f"it was saved as step {meta.step}")
    for key in (each.name for each in fields(Meta)):
        value, default = getattr(meta, key), getattr(_EMPTY, key)
        if type(value) is not type(default) and not (key == "seconds" and type(value) is int):
            raise DamagedError(f"{key} is {value!r:.40}")
    names = (*meta.labels, *meta.text_columns, *meta.parts)
    texts = [meta.architecture, meta.problem_type, *names, *meta.data.values()]
    if not all(isinstance(text, str) for text in texts):
        raise DamagedError("a label, column, part or digest is not a string")
    return meta, sums


def _signed(content: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(content))  # tuples become lists, as they will be when read
    text = json.dumps(plain, sort_keys=True)
    return plain | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
