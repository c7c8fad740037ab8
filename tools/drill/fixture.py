"""The fixture of all faults: a small corpus, its tokenizer and store, and a short run."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

import yaml

from bert_jax.training import metrics
from support import process_events
from support.corpora import VOCABULARY, write_corpus
from support.process_harness import NORMAL, Environment, Process, run, start
from tools.drill.report import Row

STEPS, EVERY = 40, 5
_DOCUMENTS = 80
_REPEATED = re.compile(r"repeating ([\d,]+) step")

_CONFIG: dict[str, Any] = {
    "model": {
        "preset": "bert-tiny",
        "vocab_size": 2000,  # large embeddings make a save slow
        "hidden_size": 64,
        "max_positions": 64,
        "dtype": "float32",
    },
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
    "train": {"batch_size": 8, "log_every": 1, "eval_every": 10, "eval_batches": 2},
    "phases": [{"length": 32, "steps": STEPS}],  # a second phase would compile again
    "checkpoint": {"every": EVERY, "keep": 3},
}


@dataclass(frozen=True)
class Fault:
    """A fault that is injected into runs.

    Attributes:
        name: Name in the table.
        trial: Injects the fault once or a few times and returns the results.
        jobs: How often the drill calls `trial`.
        quick: How often the tests call it; 0 leaves the fault to the drill.
        alone: Whether nothing else may run meanwhile.
    """

    name: str
    trial: Callable[[Fixture, random.Random], Row]
    jobs: int = 1
    quick: int = 1
    alone: bool = False


@dataclass
class Fixture:
    """Everything that trials share, and their folders.

    Attributes:
        root: Folder of all files.
    """

    root: Path
    _numbers: Any = field(default_factory=count)
    _cache: dict[str, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=RLock)

    def new_folder(self) -> Path:
        """Create an empty folder for a trial."""
        folder = self.root / f"trial-{next(self._numbers):04}"
        folder.mkdir()
        return folder

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the result of `make`, which is called once for each name."""
        with self._lock:
            if name not in self._cache:
                self._cache[name] = make()
            return self._cache[name]

    @cached_property
    def corpus(self) -> Path:
        """Return a text file."""
        return write_corpus(self.root / "corpus.txt", _DOCUMENTS)

    @cached_property
    def tokenizer(self) -> Path:
        """Return a tokenizer trained on the corpus."""
        out = self.root / "tokenizer"
        expect_exit(self.train_tokenizer(self.new_folder(), out), 0)
        return out

    @cached_property
    def store(self) -> Path:
        """Return the token store of the corpus."""
        out = self.root / "store"
        expect_exit(self.prepare(self.new_folder(), out), 0)
        return out

    @property
    def reference_run(self) -> Path:
        """Return the folder of the run without faults; `build` creates it."""
        return self.root / "reference"

    @cached_property
    def reference_process(self) -> Process:
        """Return the finished process of the run without faults."""
        process = self.pretrain(self.new_folder(), self.reference_run)
        expect_exit(process, 0)
        return process

    @cached_property
    def reference_digest(self) -> str:
        """Return the digest of the parameters after the run without faults."""
        _ = self.reference_process
        return self.digest_of(self.reference_run)

    @cached_property
    def reference_losses(self) -> list[tuple[int, float, int]]:
        """Return steps, losses and tokens of the run without faults."""
        _ = self.reference_process
        return losses(self.reference_run)

    def longest(self, event: str) -> float:
        """Return the longest duration of an event in the run without faults, in seconds."""
        return process_events.longest(self.reference_process.events_file, event)

    def build(self) -> None:
        """Create everything that is shared, so that parallel jobs only read it."""
        _ = self.reference_digest, self.reference_losses

    def train_tokenizer(self, folder: Path, out: Path, corpus: Path | None = None) -> Process:
        """Start train-tokenizer, by default on the shared corpus."""
        options = ("--vocab-size", str(VOCABULARY), "--out", out)
        return start(
            folder, "train-tokenizer", "--corpus", f"text:{corpus or self.corpus}", *options
        )

    def prepare(
        self,
        folder: Path,
        out: Path,
        corpus: Path | None = None,
        tokenizer: Path | None = None,
        workers: int = 1,
    ) -> Process:
        """Start prepare, by default on the shared corpus with the shared tokenizer."""
        options = ("--tokenizer", tokenizer or self.tokenizer, "--held-out", "0.1", "--out", out)
        texts = ("--corpus", f"text:{corpus or self.corpus}", "--workers", str(workers))
        return start(folder, "prepare", *texts, *options)

    def pretrain(
        self,
        folder: Path,
        run_dir: Path,
        *options: str | Path,
        environment: Environment = NORMAL,
    ) -> Process:
        """Start or resume a run."""
        config = folder / "config.yaml"
        content = _CONFIG | {"run_dir": str(run_dir), "data": {"store": str(self.store)}}
        config.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
        arguments = ("pretrain", "--config", config, *options)
        return start(folder, *arguments, environment=environment)

    def digest_of(self, run_dir: Path) -> str:
        """Return the digest of the parameters in the newest checkpoint."""
        process = run(self.new_folder(), "inspect", run_dir, "--json")
        expect_exit(process, 0)
        return str(json.loads(process.stdout_file.read_text("utf-8"))["digest"])

    def difference(self, run_dir: Path) -> str:
        """Return how a finished run differs from the run without faults; empty if it does not."""
        if losses(run_dir) != self.reference_losses:
            return "metrics.jsonl differs from that of the run without faults"
        if (digest := self.digest_of(run_dir)) != self.reference_digest:
            return f"the parameters differ from those of the run without faults ({digest[:12]})"
        return ""


def expect_exit(process: Process, code: int) -> None:
    """Raise an error if a process that no fault affects has another exit code."""
    if (actual := process.wait()) != code:
        raise RuntimeError(f"exit code {actual}, not {code}: {process.stderr}")


def files_of(folder: Path) -> list[Path]:
    """Return the paths of all files in a folder, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def content_of(folder: Path) -> dict[Path, bytes]:
    """Return the content of all files in a folder."""
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def content_difference(folder: Path, expected: dict[Path, bytes]) -> str:
    """Return how the files of a folder differ from `content_of` another; empty if they do not."""
    actual = content_of(folder)
    names = sorted(n for n in actual | expected if actual.get(n) != expected.get(n))
    return f"{folder.name}: other content in {', '.join(map(str, names[:5]))}" if names else ""


def newest_checkpoint(run_dir: Path) -> int:
    """Return the newest complete step on disk; 0 if there is none."""
    folder = run_dir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def losses(run_dir: Path) -> list[tuple[int, float, int]]:
    """Return steps, losses and tokens of a run."""
    return [(x["step"], x["loss"], x["tokens"]) for x in metrics.read(run_dir) if "loss" in x]


def resume_step(process: Process) -> int | None:
    """Return the step at which a process resumed; 0 for a new run, None before either."""
    if "new run in" in process.stderr:
        return 0
    match = re.search(r"resuming at step ([\d,]+)", process.stderr)
    return int(match[1].replace(",", "")) if match else None


def repeated_steps(text: str) -> tuple[str, int]:
    """Return the line that reports repeated steps, and their number; ("", 0) if there is none."""
    for line in text.splitlines():
        if match := _REPEATED.search(line):
            return line, int(match[1].replace(",", ""))
    return "", 0
