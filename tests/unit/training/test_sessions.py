"""The file ``sessions.jsonl``: whole sessions, killed ones, and damaged lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import pytest

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.sessions import FILE, Session, SessionLog, read_sessions

# Lines of metrics.jsonl.
LINES = [{"step": step, "seconds": float(10 * step)} for step in range(1, 6)]


def records(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / FILE).read_text("utf-8").splitlines()]


def kill(run_dir: Path, log: SessionLog) -> None:
    """Leave the file as a process does that is killed."""
    content = (run_dir / FILE).read_bytes()
    log.close(0)
    (run_dir / FILE).write_bytes(content)


def only(sessions: list[Session]) -> Session:
    (session,) = sessions
    return session


def test_a_session_has_a_line_for_its_start_and_one_for_its_end(tmp_path: Path) -> None:
    log = SessionLog(tmp_path, 0, 0.0, [])
    assert [record["event"] for record in records(tmp_path)] == ["start"]
    log.roll_back(2)
    log.close(7)
    assert [(r["event"], r["step"]) for r in records(tmp_path)] == [
        ("start", 0),
        ("rollback", 2),
        ("end", 7),
    ]
    session = only(read_sessions(tmp_path, LINES))
    assert (session.first_step, session.last_step, session.ending) == (0, 7, "end")
    assert session.rollbacks == (2,)
    assert (session.devices, session.device_kind) == (jax.device_count(), "cpu")
    assert session.started <= session.ended


def test_a_stopped_session_has_no_other_end(tmp_path: Path) -> None:
    log = SessionLog(tmp_path, 3, 30.0, [])
    log.stop(5)
    log.close(4)
    session = only(read_sessions(tmp_path, LINES))
    assert (session.first_step, session.last_step, session.ending) == (3, 5, "stop")
    assert len(records(tmp_path)) == 2


def test_the_metrics_date_the_end_of_a_killed_session(tmp_path: Path) -> None:
    kill(tmp_path, SessionLog(tmp_path, 2, 20.0, []))
    killed = only(read_sessions(tmp_path, LINES))
    assert (killed.ending, killed.last_step) == ("", 5)
    assert killed.ended == pytest.approx(killed.started + 30)
    # The next session writes it down, before it drops the lines of lost steps.
    SessionLog(tmp_path, 4, 40.0, LINES).close(4)
    first, second = read_sessions(tmp_path, LINES[:4])
    assert (first.ending, first.last_step, first.ended) == ("end", 5, killed.ended)
    assert (second.first_step, second.last_step, second.ending) == (4, 4, "end")
    assert [r["event"] for r in records(tmp_path)] == ["start", "end", "start", "end"]


def test_a_torn_last_line_damages_no_other(tmp_path: Path) -> None:
    SessionLog(tmp_path, 0, 0.0, []).close(5)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-9])
    assert only(read_sessions(tmp_path, LINES)).ending == ""
    SessionLog(tmp_path, 5, 50.0, LINES).close(6)
    assert [(s.first_step, s.ending) for s in read_sessions(tmp_path, [])] == [
        (0, "end"),
        (5, "end"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"time": float("nan")},
        {"time": 1e300},
        {"step": -1},
        {"step": 1.5},
        {"step": 10**400},
        {"devices": True},
        {"devices": None},
        {"device_kind": 3},
        {"seconds": "0"},
    ],
    ids=str,
)
def test_damaged_lines_are_left_out(change: dict[str, Any], tmp_path: Path) -> None:
    SessionLog(tmp_path, 0, 0.0, []).close(5)
    start, end = records(tmp_path)
    lines = [json.dumps(start | change), "[" * 100_000, "3", '{"event": []}', json.dumps(start)]
    (tmp_path / FILE).write_text("\n".join([*lines, json.dumps(end | {"event": 7}), ""]), "utf-8")
    assert only(read_sessions(tmp_path, [])).ending == ""


def test_a_missing_file_has_no_sessions_and_a_pipe_is_refused(tmp_path: Path) -> None:
    assert read_sessions(tmp_path, LINES) == []
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(BadInputError):
        read_sessions(tmp_path, [])
