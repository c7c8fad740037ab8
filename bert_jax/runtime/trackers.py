"""Trackers that receive the metrics of a run: TensorBoard, Weights & Biases."""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UserError, one_line
from bert_jax.runtime.imports import absent
from bert_jax.runtime.paths import at, is_remote

# tensorboardX imports PyTorch and clients of two clouds where they are installed. That takes longer
# than the whole start of a run, and nothing here needs them.
with absent("torch", "boto3", "google.cloud.storage"):
    # RecordWriter is public. The public SummaryWriter was tried: its thread prints a traceback when
    # the disk is full and drops the values. So the messages are built here, from the modules that
    # SummaryWriter builds them from.
    from tensorboardX import RecordWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    # RecordWriter's own support of gs:// was tried: it needs another client library than gcsfs.
    from tensorboardX.record_writer import register_writer_factory
    from tensorboardX.summary import scalar

TENSORBOARD = "tensorboard"
WANDB_ID = "wandb-id"  # the file with the run's id at Weights & Biases
_TIMEOUT = 30.0  # seconds that Weights & Biases may delay the start and the end of a run


class Tracker:
    """Receives the metrics of a run in the process that writes ``metrics.jsonl``."""

    def start_at(self, step: int) -> None:
        """Start, or roll back, after update `step`; values of later updates are void."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Receive the metrics of update `step`."""

    def flush(self) -> None:
        """Return when all values are stored, if a checkpoint relies on that."""

    def close(self) -> None:
        """End, also after a failure."""


class _BucketFiles:
    """Opens event files in buckets for tensorboardX."""

    @staticmethod
    def open(path: str) -> AppendedObject:
        return AppendedObject(at(path))


register_writer_factory("gs", _BucketFiles)


class TensorBoard(Tracker):
    """Writes event files to the run folder; a full disk raises, as for ``metrics.jsonl``."""

    def __init__(self, run_dir: Path) -> None:
        """Start a new file."""
        if not is_remote(run_dir):
            (run_dir / TENSORBOARD).mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._file = RecordWriter(str(run_dir / TENSORBOARD / name))
        self._write(file_version="brain.Event:2")

    def start_at(self, step: int) -> None:
        """Make TensorBoard drop the points of later updates."""
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one point per value."""
        for name, value in values.items():
            self._write(step=step, summary=scalar(name, value))

    def _write(self, **fields: Any) -> None:
        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def flush(self) -> None:
        """Write everything to the disk or bucket."""
        self._file.flush()

    def close(self) -> None:
        """Close the file; a full disk or unreachable bucket was reported before."""
        with suppress(OSError, UserError):
            self._file.flush()
            self._file.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases; its failures are reported once and never end the training.

    Weights & Biases requires increasing steps, which a rollback does not provide. So the step is
    logged as a value, and is the x axis of the other values; repeated updates are drawn over lost
    ones. No checkpoint relies on it, so `flush` does not wait.
    """

    def __init__(self, run_dir: Path, project: str, config: dict[str, Any]) -> None:
        """Start the run, or resume the one whose id is in the folder."""
        # Otherwise it prompts for a key on the terminal and waits.
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run: Any = None
        self._attempt(lambda: self._start(run_dir, project, config))

    def _start(self, run_dir: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,  # the address of a remote may contain a password
            init_timeout=_TIMEOUT,
            finish_timeout=_TIMEOUT,
        )
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            id=_run_id(run_dir),
            resume="allow",
            dir=None if is_remote(run_dir) else run_dir,
            config=config,
            settings=settings,
        )
        self._run.define_metric("*", step_metric="step")
        offline = f"offline; upload with: wandb sync {Path(self._run.dir).parent}"
        say(f"Weights & Biases: {offline if self._run.offline else self._run.url}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values to its process."""
        if self._run is not None:
            self._attempt(lambda: self._run.log({"step": step, **values}))

    def close(self) -> None:
        """Wait for the upload, but at most 30 seconds."""
        if self._run is not None:
            failed = sys.exception() is not None
            self._attempt(lambda: self._run.finish(exit_code=int(failed)))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        # wandb raises many kinds of exceptions. None may end the training.
        except Exception as error:
            self._run = None
            reason = str(error).replace(os.environ.get("WANDB_API_KEY") or "\0", "…")
            reason = one_line(f"{type(error).__name__}: {reason}")
            say(f"Weights & Biases: {reason}; training continues without it")


def _run_id(run_dir: Path) -> str:
    """Return the id of the run in all its sessions, wherever its folder is moved."""
    file = run_dir / WANDB_ID
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:12] + "\n", "utf-8")
    return file.read_text("utf-8").strip()


def require(project: str) -> None:
    """Check that Weights & Biases is installed if a run uses it.

    Raises:
        BadInputError: It is not installed.
    """
    # A folder of that name, such as the one it writes, can be imported too, but has no origin.
    if project and getattr(find_spec("wandb"), "origin", None) is None:
        raise BadInputError(
            "wandb is set but not installed; install it with: pip install 'bert-jax[wandb]'"
        )


def trackers(run_dir: Path, project: str, config: dict[str, Any]) -> list[Tracker]:
    """Return the trackers of a run; with Weights & Biases if `project` is set."""
    board: list[Tracker] = [TensorBoard(run_dir)]
    return [*board, WeightsAndBiases(run_dir, project, config)] if project else board
