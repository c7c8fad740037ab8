"""When a run was at work, from its event files: every process that trains begins one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog

from bert_jax.runtime.paths import check_kind, failures_explained
from bert_jax.runtime.trackers import TENSORBOARD, machine_of

_HEADER, _FOOTER = 12, 4  # bytes round an event: its size and two checksums


@dataclass(frozen=True)
class Session:
    """What one process did.

    Attributes:
        begun: Seconds since 1970.
        ended: When it wrote last.
        reached: The last step that it wrote of.
        starts: The steps that it went on from: the first when it was started, others in rollbacks.
        devices: On which it trained, over all processes; 0 if that is not known.
        kind: What they are called.
        stopped: The step that it saved when it was told to end; None if it ended otherwise.
    """

    begun: float
    ended: float
    reached: int
    starts: tuple[int, ...]
    devices: int
    kind: str
    stopped: int | None


def sessions(run_dir: Path) -> list[Session]:
    """Those of a run, in order; what was cut off or damaged is left out.

    Raises:
        BadInputError: An event file is a pipe or a device.
        UserError: The bucket cannot be reached.
    """
    folder = run_dir / TENSORBOARD
    with failures_explained(str(folder)):
        files = list(folder.iterdir()) if folder.is_dir() else []
        files = [path for path in files if "tfevents" in path.name]
        for path in files:
            check_kind(path)
        found = [_sitting(path.read_bytes()) for path in files]
    return sorted((one for one in found if one is not None), key=lambda one: one.begun)


def _sitting(content: bytes) -> Session | None:
    starts: list[int] = []
    times: list[float] = []
    reached, stopped, machine = 0, None, ""
    for event in _events(content):
        if event.session_log.status == SessionLog.START:
            starts.append(max(0, event.step - 1))
            machine = event.session_log.msg
        elif starts:
            reached = event.step
            if event.session_log.status == SessionLog.STOP:
                stopped = event.step
        if starts:
            times.append(event.wall_time)
    if not starts:
        return None
    reached = max(reached, starts[-1])
    return Session(min(times), max(times), reached, tuple(starts), *machine_of(machine), stopped)


def _events(content: bytes) -> Iterator[Event]:
    place = 0
    while place + _HEADER <= len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        begin, place = place + _HEADER, place + _HEADER + size + _FOOTER
        if place > len(content):
            return
        try:
            yield Event.FromString(content[begin : begin + size])
        except DecodeError:
            return
