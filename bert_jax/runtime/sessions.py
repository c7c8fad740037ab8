"""Sessions of a run in ``sessions.jsonl``: which process trained when, and from which step.

    {"event": "start", "time": 1796000000.0, "step": 0, "seconds": 0.0,
     "devices": 8, "device_kind": "TPU v4"}               one line in the file
    {"event": "rollback", "time": 1796000100.0, "step": 5}
    {"event": "stop", "time": 1796000200.0, "step": 20}   on request; the step is saved
    {"event": "end", "time": 1796000300.0, "step": 40}    complete or failed; the last logged step

Lines are only appended. A process that is killed writes no last line. The next session writes it
instead, with step and time of the newest line in ``metrics.jsonl``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import jax

from bert_jax.runtime import json_lines
from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.errors import UserError
from bert_jax.runtime.paths import check_kind, failures_explained, is_remote

FILE = "sessions.jsonl"

_MAX_STEP = 1 << 53
_MAX_TIME = 4e9  # in the year 2096
_MAX_DEVICES = 10_000_000


@dataclass(frozen=True)
class Session:
    """A training process.

    Attributes:
        started: Start time in seconds since 1970.
        ended: Time of its last line in the logs, in seconds since 1970.
        first_step: Step from which it started.
        last_step: Newest step that it logged, or saved when it was stopped.
        rollbacks: Steps to which it rolled back.
        ending: "stop" (on request, saved), "end" (complete or failed), or "" (running or killed).
        devices: Number of devices over all processes.
        device_kind: Type of the devices.
        seconds: Training time of the run before this session.
    """

    started: float
    ended: float
    first_step: int
    last_step: int
    rollbacks: tuple[int, ...]
    ending: str
    devices: int
    device_kind: str
    seconds: float


def read_sessions(run_dir: Path, metrics: Sequence[Mapping[str, Any]]) -> list[Session]:
    """Return the sessions of a run, oldest first; damaged lines are left out.

    Args:
        run_dir: Folder of the run.
        metrics: Lines of its ``metrics.jsonl``, which date the end of a killed or running session.

    Raises:
        BadInputError: The file is a pipe or a device.
        UserError: The bucket cannot be reached.
    """
    path = run_dir / FILE
    check_kind(path)
    with failures_explained(str(path)):
        records = json_lines.read(path)
    sessions: list[Session] = []
    for record in records:
        if not (_is_number(record.get("time"), _MAX_TIME) and _is_step(record.get("step"))):
            continue
        if record.get("event") == "start":
            sessions += _started(record)
        elif sessions:
            sessions[-1] = _followed(sessions[-1], record)
    if sessions and not sessions[-1].ending:
        sessions[-1] = _dated(sessions[-1], metrics)
    return sessions


def _started(record: dict[str, Any]) -> list[Session]:
    when, step, seconds = float(record["time"]), record["step"], record.get("seconds")
    devices, kind = record.get("devices"), record.get("device_kind")
    if type(devices) is not int or not 0 <= devices < _MAX_DEVICES or not isinstance(kind, str):
        return []
    if seconds is None or not _is_number(seconds, _MAX_TIME):
        return []
    return [Session(when, when, step, step, (), "", devices, kind[:80], float(seconds))]


def _followed(session: Session, record: dict[str, Any]) -> Session:
    ended, step, event = max(session.ended, record["time"]), record["step"], record.get("event")
    if event == "rollback":
        rollbacks = (*session.rollbacks, step)
        return replace(session, ended=ended, last_step=step, rollbacks=rollbacks)
    if event in ("stop", "end"):
        return replace(session, ended=ended, last_step=step, ending=event)
    return session


def _dated(session: Session, metrics: Sequence[Mapping[str, Any]]) -> Session:
    """Return a session that has no last line with step and time of the newest line of metrics."""
    step = max((int(line["step"]) for line in metrics), default=0)
    newest = max(
        (line["seconds"] for line in metrics if _is_number(line.get("seconds"), _MAX_TIME)),
        default=0.0,
    )
    ended = session.started + newest - session.seconds
    return replace(
        session,
        ended=max(session.ended, min(ended, _MAX_TIME)),
        last_step=max(session.last_step, step),
    )


def _is_number(value: Any, limit: float) -> bool:
    return type(value) in (int, float) and 0 <= value < limit


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_STEP


class SessionLog:
    """Appends the lines of one session."""

    def __init__(
        self, run_dir: Path, step: int, seconds: float, metrics: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the start of a session, and before it the end of an earlier one that was killed.

        Args:
            run_dir: Folder of the run.
            step: Step from which the session starts.
            seconds: Training time of the run so far.
            metrics: Lines of ``metrics.jsonl`` that the earlier sessions wrote.
        """
        earlier = read_sessions(run_dir, metrics)
        path = run_dir / FILE
        content = path.read_bytes() if path.is_file() else b""
        torn = b"\n" if content and not content.endswith(b"\n") else b""
        self._open = True
        self._file: AppendedObject | BinaryIO
        self._file = AppendedObject(path, content) if is_remote(path) else path.open("ab")
        self._file.write(torn)
        if earlier and not earlier[-1].ending:
            self._write("end", earlier[-1].last_step, time=earlier[-1].ended)
        devices, kind = jax.device_count(), jax.devices()[0].device_kind
        self._write("start", step, seconds=round(seconds, 3), devices=devices, device_kind=kind)

    def roll_back(self, step: int) -> None:
        """Write that training resumes from an earlier step."""
        self._write("rollback", step)

    def stop(self, step: int) -> None:
        """Write that the process stops on request, after saving `step`."""
        self._finish("stop", step)

    def flush(self) -> None:
        """Return when all lines are on the disk or in the bucket."""
        self._file.flush()

    def close(self, step: int) -> None:
        """Write the end unless the session was stopped, and close the file.

        Args:
            step: Newest step that was logged.
        """
        if self._open:
            self._finish("end", step)
        with suppress(OSError, UserError):
            self._file.close()

    def _finish(self, event: str, step: int) -> None:
        # The state is saved, whether or not a full disk or unreachable bucket takes the line.
        self._open = False
        with suppress(OSError, UserError):
            self._write(event, step)

    def _write(self, event: str, step: int, **values: object) -> None:
        line = {"event": event, "time": time.time(), "step": step} | values
        self._file.write(json_lines.to_line(line))
        if not isinstance(self._file, AppendedObject):  # a bucket is written from time to time
            self._file.flush()
