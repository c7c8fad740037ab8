"""Metrics of a run: writes ``metrics.jsonl`` and the trackers without stopping the devices.

The host may launch an update while earlier ones still run. `MetricsLog.push` reads values a few
updates later, when they are ready, which also keeps the host from running far ahead.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax

from bert_jax.config.accelerators import peak_flops
from bert_jax.config.phases import number_of
from bert_jax.config.run import as_dict
from bert_jax.runtime import json_lines
from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import NotFiniteError, UserError
from bert_jax.runtime.paths import check_kind, is_remote
from bert_jax.runtime.sessions import SessionLog
from bert_jax.runtime.trackers import trackers
from bert_jax.training.experiment import Experiment
from bert_jax.training.step import Metrics

FILE = "metrics.jsonl"

# Updates that may run at once: enough that devices never wait for the host, few enough that a
# request to stop takes effect soon.
IN_FLIGHT = 3


@dataclass(frozen=True)
class Pushed:
    """An update whose metrics are not read yet; a skipped one has none."""

    step: int
    metrics: Metrics
    tokens: int
    sequences: int


class MetricsLog:
    """Collects the metrics of a run and writes those of every ``train.log_every``-th update.

    Attributes:
        tokens: Number of tokens in all updates that were pushed, without padding.
        last: Newest line about an update.
    """

    def __init__(
        self, run_dir: Path, experiment: Experiment, step: int, tokens: int, seconds: float
    ):
        """Start or resume at `step`; lines of later, lost updates are dropped."""
        self._experiment = experiment
        self._started = time.monotonic() - seconds
        self._path = run_dir / FILE
        self._checks_all = experiment.config.train.on_nonfinite == "rollback"
        self._writes = jax.process_index() == 0
        if self._writes:
            self._remote = is_remote(run_dir)
            self._trackers = trackers(run_dir, experiment.config.wandb, as_dict(experiment.config))
            self._sessions = SessionLog(run_dir, step, seconds, read(run_dir))
        self._resume(step, tokens)

    def rewind(self, step: int, tokens: int) -> None:
        """Roll back to `step`, as if opened again; the time of lost updates counts.

        Raises:
            UserError: The lines cannot be stored.
        """
        if self._writes:
            self._file.close()
            self._sessions.roll_back(step)
        self._resume(step, tokens)

    def _resume(self, step: int, tokens: int) -> None:
        self.tokens = tokens
        self._pushed = self._logged = step
        self._queue: deque[Pushed] = deque()
        self._finite_until = step
        self.last: dict[str, Any] = {}
        if self._writes:
            self._file = open_truncated(self._path, step)
            for tracker in self._trackers:
                tracker.start_at(step)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the speed from here, after something other than training took time."""
        self._since = time.monotonic()
        self._tokens_since = self.tokens - self._tokens_in_queue()

    @property
    def seconds(self) -> float:
        """Seconds spent on the run so far, over all sessions."""
        return time.monotonic() - self._started

    def note(self) -> str:
        """Return newest loss, speed and, of several phases, the current one for a progress bar."""
        phases, parts = self._experiment.config.phases, []
        if "loss" in self.last:
            parts = [f"loss {self.last['loss']:.3f}"]
            parts += [f"{self.last['tokens_per_second']:,.0f} tokens/s"]
        if len(phases) > 1:
            parts += [f"phase {number_of(self._pushed, phases)}/{len(phases)}"]
        return "  ".join(parts)

    def push(self, step: int, metrics: Metrics, tokens: int, sequences: int) -> None:
        """Receive the metrics of update `step`, which may still run; none if it was skipped."""
        self.tokens += tokens
        self._pushed = step
        self._queue.append(Pushed(step, metrics, tokens, sequences))
        while len(self._queue) > IN_FLIGHT:
            if self._settle(self._queue.popleft()):
                self.restart_clock()

    def settle(self) -> None:
        """Read everything that was pushed, and check that the last update is finite.

        Raises:
            NotFiniteError: A loss or gradient is not finite.
        """
        last = self._queue[-1] if self._queue else None
        while self._queue:
            self._settle(self._queue.popleft())
        if last is not None:
            self.check_finite(last.step, jax.device_get(last.metrics))
            self.restart_clock()

    def log_evaluation(self, step: int, results: dict[str, Any]) -> None:
        """Write and print the results of an evaluation.

        Raises:
            NotFiniteError: A loss is not finite.
        """
        self.check_finite(step, results)
        self.write(step, {f"eval_{name}": value for name, value in results.items()})
        # Of the stores of a mixture only the whole loss; metrics.jsonl has its parts.
        shown = {n: x for n, x in results.items() if "/" not in n or n.startswith("loss/")}
        values = ", ".join(f"{name} {x:.4g}" for name, x in shown.items() if x is not None)
        say(f"evaluation at step {step:,}: {values}")
        self.restart_clock()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write one line, and the same values to the trackers.

        Raises:
            UserError: The disk is full, or the folder is not writable any more.
        """
        if not self._writes or not values:
            return
        try:
            self._file.write(json_lines.to_line({"step": step, **values}))
            self._logged = step
            numbers = {name: value for name, value in values.items() if value is not None}
            for tracker in self._trackers:
                tracker.log(step, numbers)
            if not self._remote:
                self._flush()
        except OSError as error:
            raise UserError(
                f"{self._file.name} cannot be written: {error.strerror}; fix this, then run the"
                " same command again to resume from the last checkpoint"
            ) from None

    def store(self) -> None:
        """Store everything that was written, before a checkpoint that relies on it.

        Raises:
            UserError: It cannot be stored.
        """
        if self._writes and self._remote:
            self._flush()

    def stopped(self, step: int) -> None:
        """Record that the process stops on request, after saving update `step`."""
        if self._writes:
            self._sessions.stop(step)

    def close(self) -> None:
        """Close the files."""
        if self._writes:
            self._writes = False
            for tracker in self._trackers:
                tracker.close()
            self._sessions.close(self._logged)
            # A full disk or an unreachable bucket was reported before.
            with suppress(OSError, UserError):
                self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        self._sessions.flush()
        for tracker in self._trackers:
            tracker.flush()

    def _settle(self, pushed: Pushed) -> bool:
        """Wait for an update. Return True if its metrics were written."""
        if not pushed.metrics:
            self.write(pushed.step, {"skipped": 1})
            return False
        if self._checks_all:
            self.check_finite(pushed.step, jax.device_get(_indicators(pushed.metrics)))
        if pushed.step % self._experiment.config.train.log_every:
            jax.block_until_ready(pushed.metrics)
            return False
        values: dict[str, Any]
        values = {name: float(x) for name, x in jax.device_get(pushed.metrics).items()}
        self.check_finite(pushed.step, values)
        values |= dict.fromkeys(self._experiment.absent)
        tokens = self.tokens - self._tokens_in_queue()
        speed = (tokens - self._tokens_since) / (time.monotonic() - self._since)
        self.last = values | {
            "tokens": tokens,
            "tokens_per_second": round(speed, 1),
            "mfu": self._mfu(pushed, speed),
            "seconds": round(self.seconds, 3),
        }
        self.write(pushed.step, self.last)
        return True

    def _tokens_in_queue(self) -> int:
        return sum(pushed.tokens for pushed in self._queue)

    def _mfu(self, pushed: Pushed, tokens_per_second: float) -> float | None:
        peak = peak_flops(jax.devices()[0].device_kind)
        if peak is None:
            return None
        flops = self._experiment.flops(pushed.tokens, pushed.sequences)
        per_second = flops * tokens_per_second / pushed.tokens
        return round(per_second / (peak * jax.device_count()), 4)

    def check_finite(self, step: int, values: dict[str, Any]) -> None:
        """Check the loss and the gradient norm of a step.

        Raises:
            NotFiniteError: A loss or gradient is not finite.
        """
        bad = {name: x for name, x in _indicators(values).items() if not math.isfinite(x)}
        if bad:
            problem = f"{' and '.join(bad)} became {next(iter(bad.values()))}"
            raise NotFiniteError(problem, step, self._finite_until)
        self._finite_until = step


def _indicators(values: dict[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in ("loss", "grad_norm") if name in values}


def read(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` in a run folder; torn or damaged ones are left out."""
    return [line for line in json_lines.read(run_dir / FILE) if type(line.get("step")) is int]


def is_evaluation(line: dict[str, Any]) -> bool:
    """Return True for a line of `MetricsLog.log_evaluation`."""
    return any(key.startswith("eval_") for key in line)


def evaluated(run_dir: Path, step: int) -> bool:
    """Return True if ``metrics.jsonl`` has an evaluation after update `step`."""
    return any(line["step"] == step and is_evaluation(line) for line in read(run_dir))


def open_truncated(path: Path, step: int) -> AppendedObject | BinaryIO:
    """Open ``metrics.jsonl`` to append to it, without the lines of updates after `step`.

    Raises:
        BadInputError: The path is a pipe or device.
    """
    check_kind(path)
    lines = read(path.parent)
    kept = b"".join(json_lines.to_line(line) for line in lines if line["step"] <= step)
    if step and not path.exists():
        say(f"{path} is missing; starting a new one at step {step + 1:,}")
    if is_remote(path):
        return AppendedObject(path, kept)
    if path.is_file():
        if (damaged := path.read_bytes().count(b"\n") - len(lines)) > 0:
            say(f"{path} had damaged lines; removed {damaged:,}")
        draft = path.with_suffix(".tmp")
        draft.write_bytes(kept)
        draft.rename(path)
    return path.open("ab")
