"""Small files in the run folder through which TPU VMs and their watcher communicate.

    RUN/launch/…                     what the VMs install and run; see `tpu.launch.bundle`
    RUN/status/worker-N.json         heartbeat of each host
    RUN/status/DONE.json             the run is complete
    RUN/status/FAILED.json           the run failed and a restart does not help
    RUN/status/STOPPED.json          the run was saved and stopped on request
    RUN/status/attempts/0001.json    each slice that was created, and why it ended
    RUN/control/STOP                 request to save and stop
    RUN/control/watch.json           written by every read; its time is the clock of the storage
    RUN/control/endpoint             URL of the emulated cloud, during a rehearsal
    RUN/logs/attempt-0001/worker-N.log

Ages are differences of modification times that the storage itself set, so only its clock matters.
Every write replaces the whole file.
"""

from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bert_jax.runtime.console import say
from bert_jax.runtime.paths import check_kind, failures_explained, is_remote

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STATUS = "status"
LOGS = "logs"
_STOP = "control/STOP"
_WATCH = "control/watch.json"
_ENDPOINT = "control/endpoint"
_ATTEMPTS = "status/attempts"
_LARGEST = 1 << 53  # larger integers are not exact as floats
OUTCOMES = ("DONE", "FAILED", "STOPPED")

# States of the training process of a host.
STARTING, TRAINING, BUSY, ENDED = "starting", "training", "busy", "ended"

M = TypeVar("M", bound="DataclassInstance")
# Annotations of the dataclasses here -> type of a JSON value.
_FIELD_TYPES: dict[Any, Any] = {
    "int": int, "str": str, "float": int | float, "int | None": int | None,
}  # fmt: skip


@dataclass(frozen=True)
class Heartbeat:
    """Heartbeat of a host.

    Attributes:
        worker: Number of the host.
        attempt: Number of the slice.
        state: starting, training, busy (another process uses the chips) or ended.
        step: Last completed step; -1 before the first.
        restarts: Restarts of the training process on this slice.
        busy: Consecutive starts that found the chips in use.
        exit_code: Exit code of the last process that ended; None before.
        pid: Process id of the training process.
        note: Last line of the log of the process that ended.
        age: Seconds since the heartbeat was written.
    """

    worker: int
    attempt: int
    state: str = STARTING
    step: int = -1
    restarts: int = 0
    busy: int = 0
    exit_code: int | None = None
    pid: int = 0
    note: str = ""
    age: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """DONE, FAILED or STOPPED; written by host 0.

    Attributes:
        spec: Digest of the launch that ended.
        attempt: Number of the slice.
        step: Last completed step.
        note: Reason.
    """

    spec: str
    attempt: int
    step: int
    note: str = ""


@dataclass(frozen=True)
class Attempt:
    """A slice that was created.

    Attributes:
        number: From 1.
        spec: Digest of the launch.
        zone: Zone of the slice.
        step: Step of the run at creation; -1 before the first.
        created: Time of creation, seconds since 1970.
        active: Time at which it was first seen active; 0 before.
        ended: Why it ended: preempted, capacity, silent (no host ever reported), stalled, busy,
            maintenance, broken, failed, done or stopped; empty while it exists.
        ended_at: Time of its end, seconds since 1970.
        ended_step: Step of the run at its end.
        note: The reason in words.
    """

    number: int
    spec: str
    zone: str
    step: int
    created: float
    active: float = 0.0
    ended: str = ""
    ended_at: float = 0.0
    ended_step: int = -1
    note: str = ""


@dataclass(frozen=True)
class RunStatus:
    """The status files of a run folder.

    Attributes:
        heartbeats: Heartbeats of the hosts, in order, of any attempt.
        outcomes: DONE, FAILED, STOPPED -> outcome.
        attempts: Attempts, in order.
        stop: True if a stop was requested.
        stop_age: Seconds since that request.
    """

    heartbeats: tuple[Heartbeat, ...] = ()
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    stop: bool = False
    stop_age: float = 0.0


def read_status(run: Path) -> tuple[RunStatus, float]:
    """Read the status of a run, and the time by the clock of the storage."""
    _write_json(run / _WATCH, {})
    now = _modified_at(run / _WATCH)
    heartbeats = []
    for path in _glob(run / STATUS, "worker-*.json"):
        if (heartbeat := _read(path, Heartbeat)) is not None:
            heartbeats.append(replace(heartbeat, age=max(0.0, now - _modified_at(path))))
    outcomes = {name: read_outcome(run, name) for name in OUTCOMES}
    status = RunStatus(
        heartbeats=tuple(sorted(heartbeats, key=lambda heartbeat: heartbeat.worker)),
        outcomes={name: outcome for name, outcome in outcomes.items() if outcome is not None},
        attempts=read_attempts(run),
        stop=stop_requested(run),
    )
    if status.stop:
        status = replace(status, stop_age=max(0.0, now - _modified_at(run / _STOP)))
    return status, now


def read_attempts(run: Path) -> tuple[Attempt, ...]:
    """Read the attempts of a run, in order."""
    attempts = [_read(path, Attempt) for path in _glob(run / _ATTEMPTS, "*.json")]
    return tuple(attempt for attempt in attempts if attempt is not None)


def newest_heartbeat(run: Path) -> float:
    """Return the time of the newest heartbeat by the clock of the storage; 0 if there is none."""
    return max(map(_modified_at, _glob(run / STATUS, "worker-*.json")), default=0.0)


def write_heartbeat(run: Path, heartbeat: Heartbeat) -> None:
    """Write the heartbeat of a host."""
    _write_json(run / STATUS / f"worker-{heartbeat.worker}.json", asdict(heartbeat))


def write_outcome(run: Path, name: str, outcome: Outcome) -> None:
    """Write DONE, FAILED or STOPPED."""
    _write_json(run / STATUS / f"{name}.json", asdict(outcome))


def read_outcome(run: Path, name: str) -> Outcome | None:
    """Read DONE, FAILED or STOPPED; None if the run has no such outcome."""
    return _read(run / STATUS / f"{name}.json", Outcome)


def write_attempt(run: Path, attempt: Attempt) -> None:
    """Write the record of an attempt."""
    _write_json(run / _ATTEMPTS / f"{attempt.number:04}.json", asdict(attempt))


def read_endpoint(run: Path) -> str:
    """Return the URL of the emulated cloud of a rehearsal; empty if it has ended."""
    path = run / _ENDPOINT
    return read_text(path).strip() if _exists(path) else ""


def write_endpoint(run: Path, url: str) -> None:
    """Write the URL of the emulated cloud; an empty one removes it."""
    if url:
        write_file(run / _ENDPOINT, url.encode())
        return
    with failures_explained(str(run)):
        (run / _ENDPOINT).unlink(missing_ok=True)


def request_stop(run: Path) -> None:
    """Request that the hosts save and stop, and that watchers create no more slices."""
    _write_json(run / _STOP, {})


def stop_requested(run: Path) -> bool:
    """Return True if a stop was requested."""
    return _exists(run / _STOP)


def clear(run: Path) -> None:
    """Remove outcomes and the stop request of earlier submissions."""
    for path in [run / _STOP, *(run / STATUS / f"{name}.json" for name in OUTCOMES)]:
        with failures_explained(str(path)):
            path.unlink(missing_ok=True)


def log_file(run: Path, attempt: int, worker: int) -> Path:
    """Return the path of the log of a host."""
    return run / LOGS / f"attempt-{attempt:04}" / f"worker-{worker}.log"


def write_file(path: Path, content: bytes) -> None:
    """Write or replace a file; readers never see a part of it.

    Raises:
        OSError: The file cannot be written.
        UserError: The object cannot be written to its bucket.
    """
    with failures_explained(str(path)):
        if is_remote(path):  # an object appears as a whole
            path.write_bytes(content)
            return
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Two watchers may write the same file.
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.replace(path)


def read_text(path: Path) -> str:
    """Read a small text file of a run or a host; bytes that are not UTF-8 are replaced.

    Raises:
        OSError: The file cannot be read.
        UserError: The object cannot be read from its bucket, or the path is not a file.
    """
    check_kind(path)
    with failures_explained(str(path)):
        return path.read_bytes().decode("utf-8", "replace")


def from_json(kind: type[M], text: str) -> M:
    """Read a dataclass with plain fields from a JSON object.

    Raises:
        ValueError: The text describes something else.
    """
    try:
        instance = kind(**json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for field_ in fields(instance):
        value = getattr(instance, field_.name)
        if isinstance(value, bool) or not isinstance(value, _FIELD_TYPES[field_.type]):
            raise ValueError(f"{field_.name} is {value!r:.40}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field_.name} is {value}")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise ValueError(f"{field_.name} is {value!r:.40}")
    return instance


def _write_json(path: Path, content: dict[str, Any]) -> None:
    stored = {key: value for key, value in content.items() if key != "age"}
    write_file(path, f"{json.dumps(stored)}\n".encode())


def _read(path: Path, kind: type[M]) -> M | None:
    try:
        return from_json(kind, read_text(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        say(f"{path} ignored: it is not a status file of this version ({error})")
        return None


def _modified_at(path: Path) -> float:
    with failures_explained(str(path)):
        stat: Any = path.stat()
    return float(stat.mtime if is_remote(path) else stat.st_mtime)


def _exists(path: Path) -> bool:
    with failures_explained(str(path)):
        return path.exists()


def _glob(folder: Path, pattern: str) -> list[Path]:
    with failures_explained(str(folder)):
        return sorted(folder.glob(pattern)) if folder.exists() else []
