"""The interface of the modules in this package: `FILES` and, for the file fuzzer, `SAMPLES`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = ["the", "man", "and", "milk", "in", "a", "store", "on"]
OTHER_WORDS = [word for word in WORDS if word != "milk"]


@dataclass(frozen=True)
class Expected:
    """An example of a file.

    Attributes:
        input: Text in the column `TaskFiles.column` of the report.
        true: The right answer in the report.
        labels: Its labels in the report's table of labels.
        answer: Equals `TaskFiles.answer` if the prediction is right; None = the report has no
            column for that.
    """

    input: str
    true: str
    labels: tuple[str, ...] = ()
    answer: Any = None


@dataclass(frozen=True)
class TaskFiles:
    """Labeled files that a small model learns.

    Attributes:
        write: (path, number of examples, seed) -> path; writes a file.
        suffix: Of the file.
        metric: A metric of the task.
        reaches: Value of the metric after training.
        classes: Outputs of a model for this file.
        requests: Path -> requests to the server with the inputs of the examples.
        expected: Path -> what the report shows of the examples.
        column: Column of the report with the input.
        predicted: Record -> the prediction in the report.
        probability: Record -> its probability; None = the report has none.
        answer: Record -> see `Expected.answer`.
    """

    write: Callable[[Path, int, int], Path]
    suffix: str
    metric: str
    reaches: float
    classes: tuple[str, ...]
    requests: Callable[[Path], list[dict[str, Any]]]
    expected: Callable[[Path], list[Expected]]
    column: str
    predicted: Callable[[dict[str, Any]], str]
    probability: Callable[[dict[str, Any]], float] | None = None
    answer: Callable[[dict[str, Any]], Any] = lambda record: None


def write_csv(path: Path, rows: list[tuple[str, object]]) -> Path:
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def read_csv(path: Path) -> list[tuple[str, str]]:
    rows = [line.rpartition(",") for line in path.read_text("utf-8").splitlines()[1:]]
    return [(text, label) for text, _, label in rows]


def write_json_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json_lines(*records), "utf-8")
    return path


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def json_lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
