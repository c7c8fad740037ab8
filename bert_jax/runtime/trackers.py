"""Where the numbers of a run are shown besides ``metrics.jsonl``: TensorBoard, Weights & Biases."""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import register_writer_factory
from tensorboardX.summary import scalar

from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UserError, one_line
from bert_jax.runtime.paths import at, is_remote

TENSORBOARD = "tensorboard"
WANDB_ID = "wandb-id"  # the file with the name that Weights & Biases knows the run by
# Seconds that Weights & Biases may hold up the beginning and the end of a run.
_PATIENCE = 30.0


class Tracker(Protocol):
    """Shows the metrics of a run. Only the process that writes ``metrics.jsonl`` has any."""

    def begin(self, step: int) -> None:
        """Goes on after update `step`; what was logged of later ones is void."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes what is known of update `step`."""

    def stopped(self, step: int) -> None:
        """The process was told to end, and saved update `step`."""

    def flush(self) -> None:
        """Returns when what was taken is where it shall be, if something relies on that."""

    def close(self) -> None:
        """Ends, after whatever happened."""


class _InBucket:
    """How tensorboardX opens an event file there."""

    @staticmethod
    def open(path: str) -> AppendedObject:
        return AppendedObject(at(path))


register_writer_factory("gs", _InBucket)


class TensorBoard:
    """Event files in the folder of the run; a full disk is raised, as for ``metrics.jsonl``."""

    def __init__(self, run_dir: Path) -> None:
        """Begins a new file."""
        if not is_remote(run_dir):
            (run_dir / TENSORBOARD).mkdir(exist_ok=True)
        # Not SummaryWriter, whose thread reports a full disk with a traceback of its own.
        self._board = EventsWriter(str(run_dir / TENSORBOARD / "events"))

    def begin(self, step: int) -> None:
        """Has TensorBoard drop the points of later updates."""
        self._note(step + 1, SessionLog.START, _machine())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a point for each value."""
        for name, value in values.items():
            event = Event(step=step, summary=scalar(name, value), wall_time=time.time())
            self._board.write_event(event)

    def stopped(self, step: int) -> None:
        """Leaves a mark that TensorBoard passes over, and by which `sessions` knows the end."""
        self._note(step, SessionLog.STOP)

    def _note(self, step: int, status: int, message: str = "") -> None:
        log = SessionLog(status=status, msg=message)
        self._board.write_event(Event(step=step, session_log=log, wall_time=time.time()))

    def flush(self) -> None:
        """Writes what is left to the disk or bucket."""
        self._board.flush()

    def close(self) -> None:
        """Closes the file."""
        # What a full disk or an absent bucket did not take was reported before.
        with suppress(OSError, UserError):
            self._board.close()


def _machine() -> str:
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def machine_of(message: str) -> tuple[int, str]:
    """How many devices the process had that wrote this, and which; (0, "") of anything else."""
    found = re.fullmatch(r"([0-9]{1,7}) x (.{1,80})", message)
    return (int(found[1]), found[2]) if found else (0, "")


class WeightsAndBiases:
    """A run of Weights & Biases; whatever goes wrong there is said once, and ends nothing else.

    It asks for steps that only grow, which a rollback does not do: so ours is a value, and the x
    axis of the others.
    """

    def __init__(self, run_dir: Path, project: str, config: dict[str, Any]) -> None:
        """Begins the run, or goes on with the one that the folder remembers."""
        # Or it asks for a key on the terminal, and waits.
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run: Any = None
        self._harmless(lambda: self._start(run_dir, project, config))

    def _start(self, run_dir: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,  # the address of a remote may hold a password
            init_timeout=_PATIENCE,
            finish_timeout=_PATIENCE,
        )
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            id=_id(run_dir),
            resume="allow",
            dir=None if is_remote(run_dir) else run_dir,
            config=config,
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")
        later = f"offline; wandb sync {Path(self._run.dir).parent} shows it"
        say(f"Weights & Biases: {later if self._run.offline else self._run.url}")

    def begin(self, step: int) -> None:
        """Nothing: points of lost updates stay, and those done again are drawn over them."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hands the values to its own process."""
        if self._run is not None:
            self._harmless(lambda: self._run.log({"step": step, **values}))

    def stopped(self, step: int) -> None:
        """Nothing: it sees how the process ends."""

    def flush(self) -> None:
        """Nothing: no checkpoint relies on it."""

    def close(self) -> None:
        """Waits for what is on the way, but not for long."""
        if self._run is not None:
            failed = sys.exception() is not None
            self._harmless(lambda: self._run.finish(exit_code=int(failed)))

    def _harmless(self, action: Callable[[], None]) -> None:
        try:
            action()
        # Of its many exceptions none is worth a day of training.
        except Exception as error:
            self._run = None
            said = str(error).replace(os.environ.get("WANDB_API_KEY") or "\0", "…")
            said = one_line(f"{type(error).__name__}: {said}")
            say(f"Weights & Biases: {said}; the run goes on without it")


def _id(run_dir: Path) -> str:
    """What the run is known by, over all its sittings, wherever its folder is moved."""
    file = run_dir / WANDB_ID
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n", "utf-8")
    return file.read_text("utf-8").strip()


def require(project: str) -> None:
    """Looks for Weights & Biases before a run begins that asks for it.

    Raises:
        BadInputError: It is not installed.
    """
    # A folder of that name, such as the one it writes, can be imported too, and has no origin.
    if project and getattr(find_spec("wandb"), "origin", None) is None:
        raise BadInputError(
            "wandb is set, and not installed; mend with: pip install 'bert-jax[wandb]'"
        )


def trackers(run_dir: Path, project: str, config: dict[str, Any]) -> list[Tracker]:
    """Those of a run; of Weights & Biases if it names a `project`."""
    found: list[Tracker] = [TensorBoard(run_dir)]
    return [*found, WeightsAndBiases(run_dir, project, config)] if project else found
