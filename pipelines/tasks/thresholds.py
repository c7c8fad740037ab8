"""Thresholds of a run, tuned on its validation examples.

RUN/thresholds.json    {step: {class: the probability from which it is predicted}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bert_jax.runtime.errors import BadInputError
from pipelines.json_files import read_json

FILE = "thresholds.json"


def read(folder: Path, step: int, classes: Sequence[str]) -> tuple[float, ...]:
    """Return the thresholds of a checkpoint, one per class; empty if none were tuned.

    Raises:
        BadInputError: The file is damaged, or has other classes.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    values = read_json(path).get(str(step))
    if values is None:
        return ()
    if not isinstance(values, Mapping) or list(values) != list(classes):
        raise BadInputError(
            f"{path}: step {step} has other classes than the model; restore the file, or remove it"
            " to use 0.5"
        )
    wrong = (name for name, x in values.items() if type(x) is not float or not 0 <= x <= 1)
    if (name := next(wrong, None)) is not None:
        raise BadInputError(
            f"{path}: step {step}: the threshold of {name!r:.60} is not from 0 to 1; restore the"
            " file, or remove it to use 0.5"
        )
    return tuple(values.values())


def write(folder: Path, step: int, classes: Sequence[str], thresholds: Sequence[float]) -> None:
    """Add the thresholds of a checkpoint to the file."""
    path = folder / FILE
    steps = read_json(path) if path.is_file() else {}
    steps[str(step)] = dict(zip(classes, map(float, thresholds), strict=True))
    draft = path.with_name(f"{FILE}.tmp")
    draft.write_text(json.dumps(steps, indent=1) + "\n", "utf-8")
    draft.replace(path)
