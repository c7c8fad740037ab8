"""A run folder as a report reads it; nothing in it is changed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from bert_jax.config.run import RunConfig
from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError, UserError, one_line
from bert_jax.runtime.paths import absolute, check_kind, failures_explained, is_remote
from bert_jax.runtime.sessions import Session, sessions
from bert_jax.training import metrics
from bert_jax.training.checkpoint import FOLDER, newest_meta
from bert_jax.training.metadata import Meta
from pipelines.commands.finetune import RESULTS
from pipelines.folders import RUN_CONFIG, RUN_LAUNCH, absent
from pipelines.models.formats import google_research, hugging_face
from pipelines.settings import config_from_dict, yaml_values
from pipelines.tasks.config import FinetuneConfig

_LARGEST = 1 << 53  # of whole numbers: beyond it a float is none
_MOST = 3.5e38  # of float32, and so of what is measured
_SILENCE = 600.0  # seconds after which a run is taken for interrupted
_PREEMPTED = "preempted"

State = Literal["complete", "in progress", "interrupted", "failed", "stopped", "not begun"]


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        path: Of its folder.
        name: By which the report calls it.
        config: Of the run, resolved.
        lines: Of metrics.jsonl by step, as far as they are finite numbers.
        sessions: The processes that trained.
        attempts: Slices of Cloud TPUs that it was given.
        checkpoints: Steps that can be restored, ascending.
        damaged: Names of checkpoints that were set aside.
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
        """The lines about updates."""
        return [line for line in self.lines if "loss" in line]

    @cached_property
    def measured(self) -> list[dict[str, float]]:
        """The lines about held-out data."""
        return [line for line in self.lines if metrics.is_evaluation(line)]

    @cached_property
    def skipped(self) -> list[int]:
        """The steps whose batches were left out."""
        return [int(line["step"]) for line in self.lines if line.get("skipped")]

    @cached_property
    def restarts(self) -> list[int]:
        """The steps from which processes went on after one that nobody had told to stop."""
        return [after.starts[0] for one, after in pairwise(self.sessions) if one.stopped is None]

    @cached_property
    def preemptions(self) -> list[int]:
        """The steps at which processes were told to stop, or slices taken away."""
        told = [one.stopped for one in self.sessions if one.stopped is not None]
        taken = [a.ended_step for a in self.attempts if a.ended == _PREEMPTED]
        return told + [step for step in taken if step >= 0]

    @cached_property
    def kind(self) -> str:
        """What it is trained for."""
        return self.config.task if isinstance(self.config, FinetuneConfig) else "pre-training"

    @cached_property
    def step(self) -> int:
        """The newest that is known of."""
        return max([0, *self.checkpoints[-1:], *(int(line["step"]) for line in self.lines[-1:])])

    @cached_property
    def meta(self) -> Meta | None:
        """What stands beside the newest checkpoint."""
        return newest_meta(self.path)

    @cached_property
    def results(self) -> dict[str, Any]:
        """The last evaluation of a fine-tuning; empty without one."""
        try:
            found = json.loads(text(self.path / RESULTS))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def written(self) -> float:
        """When it was written to last, in seconds since 1970; 0 if that is not known."""
        return max([0.0, *(session.ended for session in self.sessions)])

    @cached_property
    def state(self) -> tuple[State, str]:
        """What has become of it, and why."""
        failed = status_files.ended(self.path, "FAILED")
        if failed is not None:
            return "failed", one_line(failed.note)
        # Without the folder of checkpoints, as in a copy of the log, that alone tells.
        saved = self.checkpoints[-1] if self.checkpoints else self.step
        if saved >= self.config.steps > 0:
            return "complete", ""
        if not self.lines and not self.checkpoints:
            return "not begun", ""
        if status_files.ended(self.path, "STOPPED") is not None:
            return "stopped", "it was asked to stop"
        if self.sessions and (stopped := self.sessions[-1].stopped) is not None:
            return "stopped", f"it was told to, at step {stopped:,}"
        recent = time.time() - self.written < _SILENCE
        return ("in progress" if recent else "interrupted"), ""


def open_run(path: Path, name: str) -> Run:
    """The run in `path`.

    Raises:
        BadInputError: There is none, or its config cannot be read.
        UserError: The bucket cannot be reached.
    """
    with failures_explained(str(path)):
        _check(path)
        checkpoints, damaged = _checkpoints(path)
        return Run(
            path=path,
            name=name,
            config=_config(path),
            lines=_lines(path),
            sessions=sessions(path),
            attempts=status_files.attempts(path),
            checkpoints=checkpoints,
            damaged=damaged,
        )


def text(path: Path) -> str:
    """The text of a file that may be absent; bytes that are not UTF-8 are replaced."""
    check_kind(path)
    with failures_explained(str(path)):
        return status_files.text_of(path) if path.is_file() else ""


def _check(path: Path) -> None:
    if not path.exists():
        raise absent(path, "give the folder of a run (its run_dir)")
    if not path.is_dir():
        raise BadInputError(f"{path} is a file; give the folder of a run (its run_dir)")
    if hugging_face.is_folder(path) or google_research.is_folder(path):
        raise BadInputError(
            f"{path} is a model, not a run: nothing says how it was trained; bert-jax inspect"
            f" {path} shows what it consists of"
        )
    whole = absolute(path)
    if whole.parent.name == FOLDER:
        raise BadInputError(f"{path} is a checkpoint; give the run, {whole.parent.parent}")


def _config(path: Path) -> RunConfig | FinetuneConfig:
    for file in (path / RUN_CONFIG, path / RUN_LAUNCH / RUN_CONFIG):
        check_kind(file)
        if file.is_file():
            values = yaml_values(file.read_bytes(), file)
            if not isinstance(values, Mapping):
                raise BadInputError(f"{file} holds no keys and values; restore it from a copy")
            return _typed(values, str(file))
    meta = newest_meta(path)
    if meta is not None and "phases" in meta.config:
        return _typed(meta.config, str(path))
    if meta is not None:
        raise BadInputError(f"{path} holds converted weights, not a run; give the run they are of")
    raise BadInputError(f"{path} is no run: it has neither {RUN_CONFIG} nor {FOLDER}")


def _typed(values: Mapping[str, Any], source: str) -> RunConfig | FinetuneConfig:
    known = {key: value for key, value in values.items() if key != "tpu"}
    if "task" in known:
        return config_from_dict(known, source, FinetuneConfig)
    return config_from_dict(known, source, RunConfig)


def _lines(path: Path) -> list[dict[str, float]]:
    check_kind(path / metrics.FILE)
    found = []
    for line in metrics.read(path):
        if 0 <= line["step"] < _LARGEST:
            found.append({key: float(x) for key, x in line.items() if _is_number(x)})
    return sorted(found, key=lambda line: line["step"])


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < _LARGEST
    return type(value) is float and abs(value) < _MOST  # NaN is not


def _checkpoints(path: Path) -> tuple[list[int], list[str]]:
    folder = absolute(path) / FOLDER
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    steps = sorted(int(name) for name in names if name.isdecimal() and len(name) < 16)
    return steps, sorted(name for name in names if name.endswith(".damaged"))


def size(folder: Path) -> int | None:
    """Bytes of all files in a folder on a disk."""
    if is_remote(folder):
        return None
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:  # a checkpoint that is removed while it is looked at
        return None


def explained(error: UserError) -> str:
    """Why a section of the report is missing."""
    return f"Not shown: {error}."
