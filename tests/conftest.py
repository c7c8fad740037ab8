"""Eight emulated devices, strict numerics, and small real files that the tests share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compiling import QUICKLY

DEVICES = 8
ROOT = Path(__file__).parents[1]

# Before JAX is imported.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{QUICKLY} --xla_force_host_platform_device_count={DEVICES}"
# Programs compiled by one test or process are reused by the others, also small ones.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

from bert_jax.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    RunConfig,
    TrainConfig,
)
from bert_jax.parallel import Layout, devices
from drill import lives
from drill.lives import Circumstances
from pipelines.data import tokenizer_training
from pipelines.data.store import Store
from pipelines.prepare import prepare
from pipelines.pretrain import pretrain
from pipelines.settings import to_yaml
from poisoned import poison, rolling  # noqa: F401
from stories import VOCABULARY, write_corpus

pytest.register_assert_rewrite("browsers", "reported", "submitted")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What a shell starts in the background ignores SIGINT, and so would the processes of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Longest first, so that no process is left alone with them at the end.
_LONG = ("tpu_local", "docs_run", "processes", "guard_interrupted", "tpu_gs", "run", "drill", "gs")
_LONG += ("steps", "finetune", "guard", "drill_hostile", "preflight", "packing", "tpu_install")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files that take longest."""
    places = {f"test_{name}": place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(_LONG)))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "stories.txt", 80)


@pytest.fixture(scope="session")
def tokenizer_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    sentences = [line for line in corpus.read_text("utf-8").splitlines() if line]
    tokenizer_training.train("unigram", sentences, VOCABULARY, uncased=True).save(folder)
    return folder


@pytest.fixture(scope="session")
def store_dir(corpus: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    prepare([f"text:{corpus}"], tokenizer_dir, folder, 0.1)
    return folder


@pytest.fixture(scope="session")
def store(store_dir: Path) -> Store:
    return Store(store_dir)


@pytest.fixture(scope="session")
def config_base(store_dir: Path) -> RunConfig:
    """A run of 20 steps that takes seconds; float32, so that topologies can be compared."""
    return RunConfig(
        run_dir="unset",
        data=DataConfig(store=str(store_dir), short_seq_prob=0.5),
        model=ModelConfig(
            preset="bert-tiny",
            hidden_size=32,
            max_positions=64,
            vocab_size=VOCABULARY,
            dtype="float32",
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
        train=TrainConfig(batch_size=8, log_every=1, eval_every=10, eval_batches=2),
        phases=(Phase(length=32, steps=20),),
        checkpoint=CheckpointConfig(every=5),
    )


@pytest.fixture
def config(config_base: RunConfig, tmp_path: Path) -> RunConfig:
    """The same in a folder of the test's own."""
    return replace(config_base, run_dir=str(tmp_path / "run"))


@pytest.fixture(scope="session")
def trained(config_base: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of these 20 steps, to be read only."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    pretrain(replace(config_base, run_dir=str(folder)), Layout(devices()[:1]))
    return folder


@pytest.fixture
def still(config: RunConfig) -> RunConfig:
    """The same without dropout."""
    model = replace(config.model, hidden_dropout=0.0, attention_dropout=0.0)
    return replace(config, model=model)


@pytest.fixture(scope="session")
def all_devices() -> Layout:
    found = devices()
    assert len(found) == DEVICES, "the emulated devices are missing: was JAX imported too early?"
    return Layout(found)


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """For a process of its own with so many emulated devices."""
    return {**os.environ, "XLA_FLAGS": lives.flags(os.environ, devices), **variables}


def command(*arguments: str | Path) -> list[str]:
    """`bert-jax ARGUMENTS` in this interpreter, warnings being errors."""
    return [sys.executable, "-W", "error", "-m", "pipelines.cli", *map(str, arguments)]


def bert_jax(
    *arguments: str | Path, devices: int = 1, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder to its end and returns what it said.

    With variables, which JAX may read when it is imported, in a new interpreter; else in a process
    that is forked from one where all imports are done, which saves two seconds a call.
    """
    if not variables:
        return _forked(arguments, devices, folder)
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(devices, **variables),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _forked(
    arguments: tuple[str | Path, ...], devices: int, folder: Path
) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as notes:
        under = Circumstances(dict(os.environ), partial(os.chdir, folder), devices)
        life = lives.run(Path(notes), *arguments, under=under)
        return subprocess.CompletedProcess(
            arguments, life.end(), life.out.read_text("utf-8"), life.said
        )


def refused(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Asserts that a command ended with `code` and one readable last line that has `words`."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("bert-jax: ")
    for word in words:
        assert word in last


def start(*arguments: str | Path, devices: int = 1, **variables: str) -> subprocess.Popen[str]:
    """Starts a command that goes on beside the test."""
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(devices, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own, mounted with `options` (see mount(8)), where the user may mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def write_config(config: RunConfig, folder: Path) -> Path:
    """The config as a file for ``--config``."""
    file = folder / "config.yaml"
    file.write_text(to_yaml(config), "utf-8")
    return file


def inspected(model: Path) -> dict[str, Any]:
    """What ``bert-jax inspect MODEL --json`` prints."""
    result = bert_jax("inspect", model, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
