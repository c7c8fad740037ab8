"""A run folder as a report reads it, without changing anything in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from bert_jax.config.run import RunConfig
from bert_jax.runtime import json_lines, status_files
from bert_jax.runtime.errors import BadInputError, one_line
from bert_jax.runtime.paths import absolute, check_kind, failures_explained, is_remote
from bert_jax.runtime.sessions import Session, read_sessions
from bert_jax.training import metrics
from bert_jax.training.checkpoint import newest_meta
from bert_jax.training.metadata import FOLDER, Meta
from pipelines.folders import RUN_CONFIG, RUN_LAUNCH, RUN_RESULTS, absent
from pipelines.models.formats import google_research, hugging_face
from pipelines.settings import config_from_dict, yaml_values
from pipelines.tasks.config import FinetuneConfig

_MAX_INT = 1 << 53  # larger integers are not exact as floats
_MAX_FLOAT = 3.5e38  # metrics are float32
_SILENCE = 600.0  # seconds after which a run counts as interrupted
_PREEMPTED = "preempted"

State = Literal["complete", "in progress", "interrupted", "failed", "stopped", "not started"]


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        path: Its folder.
        name: Its name in the report.
        config: Its config, resolved.
        lines: Finite values of metrics.jsonl, by step.
        sessions: Processes that trained it, oldest first; empty without sessions.jsonl.
        attempts: Slices of Cloud TPUs that were requested for it.
        checkpoints: Steps that can be restored, ascending.
        damaged: Names of damaged checkpoints.
    """

    path: Path
    name: str
    config: RunConfig | FinetuneConfig
    lines: list[dict[str, float]]
    sessions: list[Session]
    attempts: tuple[status_files.Attempt, ...]
    checkpoints: list[int]
    damaged: list[str]

    @cached_property
    def trained(self) -> list[dict[str, float]]:
        """Lines about updates."""
        return [line for line in self.lines if "loss" in line]

    @cached_property
    def evaluated(self) -> list[dict[str, float]]:
        """Lines about evaluations."""
        return [line for line in self.lines if metrics.is_evaluation(line)]

    @cached_property
    def skipped(self) -> list[int]:
        """Steps whose batches were skipped."""
        return [int(line["step"]) for line in self.lines if line.get("skipped")]

    @cached_property
    def restarts(self) -> list[int]:
        """Steps from which a session resumed after one that did not stop on request."""
        pairs = pairwise(self.sessions)
        return [after.first_step for before, after in pairs if before.ending != "stop"]

    @cached_property
    def preemptions(self) -> list[int]:
        """Steps at which a session stopped on request, or a slice was preempted."""
        stopped = [session.last_step for session in self.sessions if session.ending == "stop"]
        preempted = [a.ended_step for a in self.attempts if a.ended == _PREEMPTED]
        return stopped + [step for step in preempted if step >= 0]

    @cached_property
    def kind(self) -> str:
        """The task, or pre-training."""
        return self.config.task if isinstance(self.config, FinetuneConfig) else "pre-training"

    @cached_property
    def evaluation(self) -> str:
        """Its evaluation data: "validation" examples or "held-out" text."""
        return "validation" if isinstance(self.config, FinetuneConfig) else "held-out"

    @cached_property
    def step(self) -> int:
        """Newest step in checkpoints and metrics.jsonl."""
        return max([0, *self.checkpoints[-1:], *(int(line["step"]) for line in self.lines[-1:])])

    @cached_property
    def meta(self) -> Meta | None:
        """Metadata of the newest checkpoint."""
        return newest_meta(self.path)

    @cached_property
    def results(self) -> dict[str, Any]:
        """Last evaluation of a fine-tuning; empty without one."""
        return json_lines.parse(text(self.path / RUN_RESULTS))

    @cached_property
    def written(self) -> float:
        """Time of the last line in the logs, in seconds since 1970; 0 if unknown."""
        return max([0.0, *(session.ended for session in self.sessions)])

    @cached_property
    def state(self) -> tuple[State, str]:
        """Its state, and the reason."""
        failed = status_files.read_outcome(self.path, "FAILED")
        if failed is not None:
            return "failed", one_line(failed.note)
        # A copy of a run may have no checkpoints.
        saved = self.checkpoints[-1] if self.checkpoints else self.step
        if saved >= self.config.steps > 0:
            return "complete", ""
        if not self.lines and not self.checkpoints:
            return "not started", ""
        if status_files.read_outcome(self.path, "STOPPED") is not None:
            return "stopped", "on request"
        if self.sessions and self.sessions[-1].ending == "stop":
            return "stopped", f"on request, at step {self.sessions[-1].last_step:,}"
        recent = time.time() - self.written < _SILENCE
        return ("in progress" if recent else "interrupted"), ""


def open_run(path: Path, name: str) -> Run:
    """Open the run in `path`.

    Raises:
        BadInputError: There is none, or its config cannot be read.
        UserError: The bucket cannot be reached.
    """
    with failures_explained(str(path)):
        _check(path)
        checkpoints, damaged = _checkpoints(path)
        lines = _lines(path)
        return Run(
            path=path,
            name=name,
            config=_config(path),
            lines=lines,
            sessions=read_sessions(path, lines),
            attempts=status_files.read_attempts(path),
            checkpoints=checkpoints,
            damaged=damaged,
        )


def text(path: Path) -> str:
    """Return the text of a file that may be missing; bytes that are not UTF-8 are replaced."""
    check_kind(path)
    with failures_explained(str(path)):
        return status_files.read_text(path) if path.is_file() else ""


def _check(path: Path) -> None:
    if not path.exists():
        raise absent(path, "give the folder of a run (its run_dir)")
    if not path.is_dir():
        raise BadInputError(f"{path} is a file; give the folder of a run (its run_dir)")
    if hugging_face.is_folder(path) or google_research.is_folder(path):
        raise BadInputError(
            f"{path} is a model, not a run, and has no record of its training; give the folder of"
            f" a run, or print the model with: bert-jax inspect {path}"
        )
    parent = absolute(path).parent
    if parent.name == FOLDER:
        raise BadInputError(f"{path} is a checkpoint; give the run, {parent.parent}")


def _config(path: Path) -> RunConfig | FinetuneConfig:
    for file in (path / RUN_CONFIG, path / RUN_LAUNCH / RUN_CONFIG):
        check_kind(file)
        if file.is_file():
            values = yaml_values(file.read_bytes(), file)
            if not isinstance(values, Mapping):
                raise BadInputError(f"{file} has no keys and values; restore it from a copy")
            return _typed(values, str(file))
    meta = newest_meta(path)
    if meta is not None and "phases" in meta.config:
        return _typed(meta.config, str(path))
    if meta is not None:
        raise BadInputError(
            f"{path} contains converted weights, not a run; give the run that trained them"
        )
    raise BadInputError(
        f"{path} is not a run: it has neither {RUN_CONFIG} nor {FOLDER}; give the folder of a run"
    )


def _typed(values: Mapping[str, Any], source: str) -> RunConfig | FinetuneConfig:
    values = {key: value for key, value in values.items() if key != "tpu"}
    if "task" in values:
        return config_from_dict(values, source, FinetuneConfig)
    return config_from_dict(values, source, RunConfig)


def _lines(path: Path) -> list[dict[str, float]]:
    check_kind(path / metrics.FILE)
    lines = [
        {key: float(x) for key, x in line.items() if _is_number(x)}
        for line in metrics.read(path)
        if 0 <= line["step"] < _MAX_INT
    ]
    return sorted(lines, key=lambda line: line["step"])


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < _MAX_INT
    return type(value) is float and abs(value) < _MAX_FLOAT  # false for NaN


def _checkpoints(path: Path) -> tuple[list[int], list[str]]:
    folder = absolute(path) / FOLDER
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    steps = sorted(int(name) for name in names if name.isdecimal() and len(name) < 16)
    return steps, sorted(name for name in names if name.endswith(".damaged"))


def size(folder: Path) -> int | None:
    """Return the bytes of all files in a folder; None in a bucket."""
    if is_remote(folder):
        return None
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:  # a checkpoint is removed in the meantime
        return None
