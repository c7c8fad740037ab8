"""What the machines and their watcher tell each other: small files in the run folder.

    RUN/launch/…                     what the machines install and run; see `bundle`
    RUN/status/worker-N.json         heartbeat of each host
    RUN/status/DONE.json             the run is complete
    RUN/status/FAILED.json           it cannot go on; starting again does not help
    RUN/status/STOPPED.json          it was saved and ended because CONTROL said so
    RUN/status/attempts/0001.json    each slice that was created, and why it ended
    RUN/control/STOP                 save and end
    RUN/control/watch.json           the newest look of a watcher
    RUN/control/endpoint             of the emulated cloud, during a rehearsal
    RUN/logs/attempt-0001/worker-N.log

Ages are differences of modification times that the storage itself set, so that no clock but its own
matters. Every file is replaced as a whole.
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
_LARGEST = 1 << 53  # of whole numbers: beyond it they are none as seconds
ENDINGS = ("DONE", "FAILED", "STOPPED")

# What a host says of its training process.
STARTING, TRAINING, BUSY, ENDED = "starting", "training", "busy", "ended"

M = TypeVar("M", bound="DataclassInstance")
# Types of fields as the dataclasses here spell them.
_PLAIN: dict[Any, Any] = {
    "int": int, "str": str, "float": int | float, "int | None": int | None,
}  # fmt: skip


@dataclass(frozen=True)
class Heartbeat:
    """Heartbeat of a host.

    Attributes:
        worker: Number of the host.
        attempt: Number of the slice that it belongs to.
        state: starting, training, busy (another process holds the chips) or ended.
        step: Done so far; -1 before the first.
        restarts: Of the training process on this slice.
        busy: How many starts in a row found the chips held.
        exit_code: Of the newest process that ended; None before.
        pid: Of the training process.
        note: Last line that it said when it ended.
        age: Seconds since it was written.
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
    """DONE, FAILED or STOPPED, said by host 0.

    Attributes:
        spec: Of the launch that ended so.
        attempt: Number of the slice.
        step: Reached.
        note: Why.
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
        spec: Of the launch.
        zone: Where.
        step: Of the run when it was created; -1 before the first.
        created: Seconds since 1970.
        active: When it was first seen to be there; 0 before.
        ended: Why it was given up: preempted, capacity, silent (no host was ever heard of),
            stalled, busy, maintenance, broken, failed, done, stopped; empty while it is there.
        ended_at: Seconds since 1970.
        ended_step: Of the run then.
        note: The same in words.
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
class Markers:
    """All that stands in a run folder.

    Attributes:
        beats: Of the hosts, in order, of any attempt.
        endings: DONE, FAILED, STOPPED -> what was said.
        attempts: In order.
        stop: Whether the run was asked to stop.
        stop_age: Seconds since then.
    """

    beats: tuple[Heartbeat, ...] = ()
    endings: dict[str, Outcome] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    stop: bool = False
    stop_age: float = 0.0


def look(run: Path) -> tuple[Markers, float]:
    """The markers of a run, and what time it is by the clock of the storage."""
    _write(run / _WATCH, {})
    now = _changed(run / _WATCH)
    beats = []
    for path in _listed(run / STATUS, "worker-*.json"):
        if (beat := _read(path, Heartbeat)) is not None:
            beats.append(replace(beat, age=max(0.0, now - _changed(path))))
    endings = {name: _read(run / STATUS / f"{name}.json", Outcome) for name in ENDINGS}
    markers = Markers(
        beats=tuple(sorted(beats, key=lambda beat: beat.worker)),
        endings={name: ending for name, ending in endings.items() if ending is not None},
        attempts=attempts(run),
        stop=stop_asked(run),
    )
    if markers.stop:
        markers = replace(markers, stop_age=max(0.0, now - _changed(run / _STOP)))
    return markers, now


def attempts(run: Path) -> tuple[Attempt, ...]:
    """The slices of a run, in order."""
    found = [_read(path, Attempt) for path in _listed(run / _ATTEMPTS, "*.json")]
    return tuple(attempt for attempt in found if attempt is not None)


def newest_beat(run: Path) -> float:
    """When a host was heard of last, by the clock of the storage; 0 if never."""
    return max(map(_changed, _listed(run / STATUS, "worker-*.json")), default=0.0)


def beat(run: Path, sent: Heartbeat) -> None:
    """Writes the heartbeat of a host."""
    _write(run / STATUS / f"worker-{sent.worker}.json", asdict(sent))


def end(run: Path, name: str, ending: Outcome) -> None:
    """Writes DONE, FAILED or STOPPED."""
    _write(run / STATUS / f"{name}.json", asdict(ending))


def ended(run: Path, name: str) -> Outcome | None:
    """What was said with DONE, FAILED or STOPPED, if it was."""
    return _read(run / STATUS / f"{name}.json", Outcome)


def record(run: Path, attempt: Attempt) -> None:
    """Writes down an attempt."""
    _write(run / _ATTEMPTS / f"{attempt.number:04}.json", asdict(attempt))


def endpoint(run: Path) -> str:
    """Where the emulated cloud of a rehearsal is; empty when it is over."""
    path = run / _ENDPOINT
    return text_of(path).strip() if _there(path) else ""


def set_endpoint(run: Path, url: str) -> None:
    """Tells where it is; empty that it is over."""
    if url:
        put(run / _ENDPOINT, url.encode())
        return
    with failures_explained(str(run)):
        (run / _ENDPOINT).unlink(missing_ok=True)


def ask_to_stop(run: Path) -> None:
    """Asks the machines to save and end, and watchers to create no more of them."""
    _write(run / _STOP, {})


def stop_asked(run: Path) -> bool:
    """Whether the run was asked to stop."""
    return _there(run / _STOP)


def clear(run: Path) -> None:
    """Before a new submission: what was said to and by an earlier one does not count any more."""
    for path in [run / _STOP, *(run / STATUS / f"{name}.json" for name in ENDINGS)]:
        with failures_explained(str(path)):
            path.unlink(missing_ok=True)


def log_file(run: Path, attempt: int, worker: int) -> Path:
    """The log of a host."""
    return run / LOGS / f"attempt-{attempt:04}" / f"worker-{worker}.log"


def put(path: Path, content: bytes) -> None:
    """Writes or replaces a file; nobody sees half of it.

    Raises:
        OSError: It cannot be written.
        UserError: So in a bucket.
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


def text_of(path: Path) -> str:
    """The text of a small file of a run or machine; bytes that are not UTF-8 are replaced.

    Raises:
        OSError: It cannot be read.
        UserError: So in a bucket, or it is no file.
    """
    check_kind(path)
    with failures_explained(str(path)):
        return path.read_bytes().decode("utf-8", "replace")


def typed(kind: type[M], text: str) -> M:
    """The dataclass of plain fields that `text`, a JSON object, describes.

    Raises:
        ValueError: It describes something else.
    """
    try:
        found = kind(**json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for field_ in fields(found):
        value, wanted = getattr(found, field_.name), _PLAIN[field_.type]
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise ValueError(f"{field_.name} is {value!r:.40}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field_.name} is {value}")
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise ValueError(f"{field_.name} is {value!r:.40}")
    return found


def _write(path: Path, content: dict[str, Any]) -> None:
    known = {key: value for key, value in content.items() if key != "age"}
    put(path, f"{json.dumps(known)}\n".encode())


def _read(path: Path, kind: type[M]) -> M | None:
    try:
        return typed(kind, text_of(path))
    except FileNotFoundError:
        return None
    except ValueError:
        say(f"{path} is no marker of this version; passed over")
        return None


def _changed(path: Path) -> float:
    with failures_explained(str(path)):
        found: Any = path.stat()
    return float(found.mtime if is_remote(path) else found.st_mtime)


def _there(path: Path) -> bool:
    with failures_explained(str(path)):
        return path.exists()


def _listed(folder: Path, pattern: str) -> list[Path]:
    with failures_explained(str(folder)):
        return sorted(folder.glob(pattern)) if folder.exists() else []
