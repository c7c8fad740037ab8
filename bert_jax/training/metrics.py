"""Numbers of a run: ``metrics.jsonl`` and its trackers, written without stopping the devices.

The host may launch an update while earlier ones still run; `MetricsLog.push` reads values only a
few updates later, when they are ready, and so also keeps the host from running far ahead.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax

from bert_jax.config.phases import number_of
from bert_jax.config.run import as_dict
from bert_jax.runtime.bucket_append import AppendedObject
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import NotFiniteError, UserError
from bert_jax.runtime.paths import check_kind, is_remote
from bert_jax.runtime.trackers import trackers
from bert_jax.training.experiment import Experiment
from bert_jax.training.flops import PEAK_FLOPS
from bert_jax.training.step import Metrics

FILE = "metrics.jsonl"

# Updates that may be under way at once: enough that devices never wait for the host, few enough
# that a request to stop is followed soon.
IN_FLIGHT = 3


@dataclass(frozen=True)
class Pushed:
    """An update whose metrics are not read yet; without any if it was skipped."""

    step: int
    metrics: Metrics
    tokens: int
    sequences: int


class MetricsLog:
    """Collects the metrics of a run and writes those of every ``train.log_every``-th update.

    Attributes:
        tokens: Trained on so far, without padding, of all updates that were pushed.
        last: The newest line about updates.
    """

    def __init__(
        self, run_dir: Path, experiment: Experiment, step: int, tokens: int, seconds: float
    ):
        """Goes on at `step`; lines of later, lost updates are dropped."""
        self._work = experiment
        self._begun = time.monotonic() - seconds
        self._path = run_dir / FILE
        self._looks_at_all = experiment.config.train.on_nonfinite == "rollback"
        self._writes = jax.process_index() == 0
        if self._writes:
            self._remote = is_remote(run_dir)
            self._trackers = trackers(run_dir, experiment.config.wandb, as_dict(experiment.config))
        self._go_on(step, tokens)

    def rewind(self, step: int, tokens: int) -> None:
        """Goes back to `step`, as if opened anew; the time spent counts.

        Raises:
            UserError: What was written cannot be stored.
        """
        if self._writes:
            self._file.close()
        self._go_on(step, tokens)

    def _go_on(self, step: int, tokens: int) -> None:
        self.tokens = tokens
        self._pushed = step
        self._queue: deque[Pushed] = deque()
        self._finite_until = step
        self.last: dict[str, Any] = {}
        if self._writes:
            self._file = _without_lines_after(self._path, step)
            for tracker in self._trackers:
                tracker.begin(step)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measures the speed from here, after something other than training took time."""
        self._since = time.monotonic()
        self._tokens_since = self.tokens - self._tokens_in_queue()

    @property
    def seconds(self) -> float:
        """Spent on the run so far, over all restarts."""
        return time.monotonic() - self._begun

    def note(self) -> str:
        """The newest loss and speed, and the phase if there are several, for a progress bar."""
        phases, parts = self._work.config.phases, []
        if "loss" in self.last:
            parts = [f"loss {self.last['loss']:.3f}"]
            parts += [f"{self.last['tokens_per_second']:,.0f} tokens/s"]
        if len(phases) > 1:
            parts += [f"phase {number_of(self._pushed, phases)}/{len(phases)}"]
        return "  ".join(parts)

    def push(self, step: int, metrics: Metrics, tokens: int, sequences: int) -> None:
        """Takes the metrics of update `step`, which may still run; none if it was skipped."""
        self.tokens += tokens
        self._pushed = step
        self._queue.append(Pushed(step, metrics, tokens, sequences))
        while len(self._queue) > IN_FLIGHT:
            if self._settle(self._queue.popleft()):
                self.restart_clock()

    def settle(self) -> None:
        """Reads everything that was pushed, and looks whether the last update was sound.

        Raises:
            NotFiniteError: A loss or gradient is not finite.
        """
        last = self._queue[-1] if self._queue else None
        while self._queue:
            self._settle(self._queue.popleft())
        if last is not None:
            self.check_finite(last.step, jax.device_get(last.metrics))
            self.restart_clock()

    def held_out(self, step: int, found: dict[str, Any]) -> None:
        """Writes and says what an evaluation found.

        Raises:
            NotFiniteError: A loss is not finite.
        """
        self.check_finite(step, found)
        self.write(step, {f"eval_{name}": value for name, value in found.items()})
        shown = ", ".join(f"{name} {x:.4g}" for name, x in found.items() if x is not None)
        say(f"step {step:,} held out: {shown}")
        self.restart_clock()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes one line, and the same numbers to the trackers.

        Raises:
            UserError: The disk is full, or the folder cannot be written any more.
        """
        if not self._writes or not values:
            return
        try:
            self._file.write(_line({"step": step, **values}))
            known = {name: value for name, value in values.items() if value is not None}
            for tracker in self._trackers:
                tracker.log(step, known)
            if not self._remote:
                self._flush()
        except OSError as error:
            raise UserError(
                f"{self._file.name}: {error.strerror}; the last checkpoint is safe, the same"
                " command goes on from it"
            ) from None

    def store(self) -> None:
        """Returns when what was written is safe, for before a checkpoint that relies on it.

        Raises:
            UserError: It cannot be stored.
        """
        if self._writes and self._remote:
            self._flush()

    def stopped(self, step: int) -> None:
        """Notes that the process was told to end, and saved update `step`."""
        if self._writes:
            # The step is safe, whether a full disk or an absent bucket takes the note or not.
            with suppress(OSError, UserError):
                for tracker in self._trackers:
                    tracker.stopped(step)

    def close(self) -> None:
        """Closes the files."""
        if self._writes:
            self._writes = False
            for tracker in self._trackers:
                tracker.close()
            # What a full disk or an absent bucket did not take was reported before.
            with suppress(OSError, UserError):
                self._file.close()

    def _flush(self) -> None:
        self._file.flush()
        for tracker in self._trackers:
            tracker.flush()

    def _settle(self, pushed: Pushed) -> bool:
        """Waits for an update; whether its metrics were written."""
        if not pushed.metrics:
            self.write(pushed.step, {"skipped": 1})
            return False
        if self._looks_at_all:
            self.check_finite(pushed.step, jax.device_get(_telling(pushed.metrics)))
        if pushed.step % self._work.config.train.log_every:
            jax.block_until_ready(pushed.metrics)
            return False
        values: dict[str, Any]
        values = {name: float(x) for name, x in jax.device_get(pushed.metrics).items()}
        self.check_finite(pushed.step, values)
        values |= dict.fromkeys(self._work.absent)
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
        peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
        if peak is None:
            return None
        flops = self._work.flops(pushed.tokens, pushed.sequences)
        per_second = flops * tokens_per_second / pushed.tokens
        return round(per_second / (peak * jax.device_count()), 4)

    def check_finite(self, step: int, values: dict[str, Any]) -> None:
        """Refuses to go on with a state that is lost.

        Raises:
            NotFiniteError: A loss or gradient is not finite.
        """
        wrong = {name: x for name, x in _telling(values).items() if not math.isfinite(x)}
        if wrong:
            found = f"{' and '.join(wrong)} became {next(iter(wrong.values()))}"
            raise NotFiniteError(found, step, self._finite_until)
        self._finite_until = step


def _telling(values: dict[str, Any]) -> dict[str, Any]:
    """Those that are not finite as soon as anything is not."""
    return {name: values[name] for name in ("loss", "grad_norm") if name in values}


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; one that was cut off by a crash is left out."""
    path = run_dir / FILE
    lines = path.read_bytes().decode("utf-8", "replace").split("\n") if path.is_file() else []
    found = []
    for line in lines:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and type(values.get("step")) is int:
            found.append(values)
    return found


def is_evaluation(line: dict[str, Any]) -> bool:
    """Whether it is one that `MetricsLog.held_out` wrote."""
    return any(key.startswith("eval_") for key in line)


def evaluated(run_dir: Path, step: int) -> bool:
    """Whether ``metrics.jsonl`` has an evaluation after `step`."""
    return any(line["step"] == step and is_evaluation(line) for line in read(run_dir))


def _line(values: dict[str, Any]) -> bytes:
    return (json.dumps(values) + "\n").encode()


def _without_lines_after(path: Path, step: int) -> AppendedObject | BinaryIO:
    """The file, opened to append; lines of later steps are dropped."""
    check_kind(path)
    known = read(path.parent)
    kept = b"".join(_line(line) for line in known if line["step"] <= step)
    if step and not path.exists():
        say(f"{path} is not there: it begins with step {step + 1:,}")
    if is_remote(path):
        return AppendedObject(path, kept)
    if path.is_file():
        if (lost := path.read_bytes().count(b"\n") - len(known)) > 0:
            say(f"{path}: {lost:,} line(s) could not be read and are left out")
        draft = path.with_suffix(".tmp")
        draft.write_bytes(kept)
        draft.rename(path)
    return path.open("ab")
