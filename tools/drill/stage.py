"""What all faults are done to: a small corpus, its tokenizer and store, and a short run."""

from __future__ import annotations

import json
import random
import re
import shutil
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
from support.process_harness import Circumstances, Life, run, start
from tools.drill.report import Row

STEPS, EVERY = 40, 5
_DOCUMENTS = 80

_CONFIG: dict[str, Any] = {
    "model": {
        "preset": "bert-tiny",
        "vocab_size": 2000,  # embeddings that take a while to be saved
        "hidden_size": 64,
        "max_positions": 64,
        "dtype": "float32",
    },
    "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
    "train": {"batch_size": 8, "log_every": 1, "eval_every": 10, "eval_batches": 2},
    "phases": [{"length": 32, "steps": STEPS}],  # another would have to be compiled, too
    "checkpoint": {"every": EVERY, "keep": 3},
}


@dataclass(frozen=True)
class Fault:
    """Something that is done to a run.

    Attributes:
        name: In the table.
        trial: Does it, once or a few times, and tells what came of it.
        jobs: How often the drill calls `trial`.
        quick: How often the tests do; 0 = they leave it to the drill.
        alone: Whether nothing else may run beside it.
    """

    name: str
    trial: Callable[[Stage, random.Random], Row]
    jobs: int = 1
    quick: int = 1
    alone: bool = False


@dataclass
class Stage:
    """Where the drill takes place.

    Attributes:
        folder: Everything is in there.
    """

    folder: Path
    _numbers: Any = field(default_factory=count)
    _kept: dict[str, Any] = field(default_factory=dict)
    _lock: Any = field(default_factory=RLock)

    def place(self) -> Path:
        """A new empty folder."""
        folder = self.folder / f"trial-{next(self._numbers):04}"
        folder.mkdir()
        return folder

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all that ask."""
        with self._lock:
            if name not in self._kept:
                self._kept[name] = make()
            return self._kept[name]

    @cached_property
    def corpus(self) -> Path:
        """A text."""
        return write_corpus(self.folder / "stories.txt", _DOCUMENTS)

    @cached_property
    def tokenizer(self) -> Path:
        """Of the text."""
        out = self.folder / "tokenizer"
        expect(self.learn(self.place(), out), 0)
        return out

    @cached_property
    def store(self) -> Path:
        """Of the text."""
        out = self.folder / "store"
        expect(self.prepare(self.place(), out), 0)
        return out

    @cached_property
    def undisturbed(self) -> Life:
        """The run that is never struck; it is in `folder`/undisturbed."""
        life = self.pretrain(self.place(), self.folder / "undisturbed")
        life.end()
        expect(life, 0)
        return life

    @cached_property
    def digest(self) -> str:
        """Of the parameters at the end of a run that is never struck."""
        _ = self.undisturbed
        return self.digest_of(self.folder / "undisturbed")

    @cached_property
    def losses(self) -> list[tuple[int, float, int]]:
        """Of a run that is never struck."""
        _ = self.undisturbed
        return losses(self.folder / "undisturbed")

    def longest(self, moment: str) -> float:
        """Seconds that a moment of the run takes at most, undisturbed."""
        return process_events.longest(self.undisturbed.notes, moment)

    def prepared(self) -> None:
        """Makes everything that is shared, so that jobs beside each other only read it."""
        _ = self.digest, self.losses

    def learn(self, place: Path, out: Path, corpus: Path | None = None) -> Life:
        """Starts the command that makes a tokenizer; that of the stage unless told otherwise."""
        options = ("--vocab-size", str(VOCABULARY), "--out", out)
        return start(
            place, "train-tokenizer", "--corpus", f"text:{corpus or self.corpus}", *options
        )

    def prepare(
        self,
        place: Path,
        out: Path,
        corpus: Path | None = None,
        tokenizer: Path | None = None,
        workers: int = 1,
    ) -> Life:
        """Starts the command that makes a store; that of the stage unless told otherwise."""
        options = ("--tokenizer", tokenizer or self.tokenizer, "--held-out", "0.1", "--out", out)
        texts = ("--corpus", f"text:{corpus or self.corpus}", "--workers", str(workers))
        return start(place, "prepare", *texts, *options)

    def pretrain(
        self, place: Path, run_dir: Path, *options: str | Path, under: Circumstances | None = None
    ) -> Life:
        """Starts the run, or starts it again."""
        config = place / "config.yaml"
        content = _CONFIG | {"run_dir": str(run_dir), "data": {"store": str(self.store)}}
        config.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
        arguments = ("pretrain", "--config", config, *options)
        return start(place, *arguments, under=under or Circumstances())

    def digest_of(self, run_dir: Path) -> str:
        """Of the parameters of the newest checkpoint."""
        place = self.place()
        life = run(place, "inspect", run_dir, "--json")
        expect(life, 0)
        return str(json.loads(life.out.read_text("utf-8"))["digest"])

    def complaint(self, run_dir: Path) -> str:
        """What is different about a run that ended, from one that was never struck."""
        if losses(run_dir) != self.losses:
            return "metrics.jsonl is not that of an undisturbed run"
        if (found := self.digest_of(run_dir)) != self.digest:
            return f"the parameters are not those of an undisturbed run ({found[:12]})"
        return ""

    def remove(self, place: Path) -> None:
        """Makes room; what failed is kept."""
        shutil.rmtree(place)


def expect(life: Life, code: int) -> None:
    """Ends the drill if something that nobody struck does not work."""
    if (found := life.end()) != code:
        raise RuntimeError(f"exit code {found}, not {code}: {life.said}")


def files_of(folder: Path) -> list[Path]:
    """All files in a folder, by their names in it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def content_of(folder: Path) -> dict[Path, bytes]:
    """All files in a folder, with what is in them."""
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def unlike(folder: Path, content: dict[Path, bytes]) -> str:
    """What is wrong with a folder that should have this content; see `content_of`."""
    found = content_of(folder)
    names = sorted(n for n in found | content if found.get(n) != content.get(n))
    return f"{folder.name}: other content in {', '.join(map(str, names[:5]))}" if names else ""


def newest_checkpoint(run_dir: Path) -> int:
    """The newest step that is whole on disk; 0 if none."""
    folder = run_dir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


def losses(run_dir: Path) -> list[tuple[int, float, int]]:
    """Steps, losses and tokens of a run."""
    return [(x["step"], x["loss"], x["tokens"]) for x in metrics.read(run_dir) if "loss" in x]


def resumed_at(life: Life) -> int | None:
    """The step that a process went on from; 0 for a new run, None if it did not come so far."""
    if "new run in" in life.said:
        return 0
    found = re.search(r"resuming at step ([\d,]+)", life.said)
    return int(found[1].replace(",", "")) if found else None
