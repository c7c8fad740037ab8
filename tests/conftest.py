"""Eight emulated devices, strict numerics, and small real files that the tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support")

from support.xla_flags import DEVICES, QUICKLY

# Before JAX is imported.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{QUICKLY} --xla_force_host_platform_device_count={DEVICES}"
# Programs compiled by one test or process are reused by the others, also small ones.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax

from bert_jax.config.model import ModelConfig
from bert_jax.config.run import (
    CheckpointConfig,
    DataConfig,
    OptimizerConfig,
    Phase,
    RunConfig,
    TrainConfig,
)
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.vocabulary import train_vocabulary
from pipelines.pretraining import pretrain
from support import compilations, compiled_once
from support.commands import command, run_process, write_config
from support.corpora import VOCABULARY, write_corpus
from support.finetuned import options, run
from support.jobs import start_two, wait_for_all
from support.nan_batches import inject_nan, rollback_config  # noqa: F401
from support.shared import Shared, shared_folders

pytest_plugins = ["support.compilations"]
jax.config.update("jax_numpy_rank_promotion", "raise")

# What a shell starts in the background ignores SIGINT, and what nohup starts SIGHUP; so would the
# processes of the tests.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    compilations.record()
    with pytest.MonkeyPatch.context() as patch:
        compiled_once.install(patch)
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return shared_folders(tmp_path_factory)


@pytest.fixture(scope="session")
def corpus(shared: Shared) -> Path:
    return shared("corpus", lambda at: write_corpus(at / "stories.txt", 80)) / "stories.txt"


@pytest.fixture(scope="session")
def tokenizer_dir(corpus: Path, shared: Shared) -> Path:
    def build(folder: Path) -> None:
        sentences = [line for line in corpus.read_text("utf-8").splitlines() if line]
        train_vocabulary("unigram", sentences, VOCABULARY, uncased=True).save(folder)

    return shared("tokenizer", build)


@pytest.fixture(scope="session")
def store_dir(corpus: Path, tokenizer_dir: Path, shared: Shared) -> Path:
    return shared("store", lambda at: prepare([f"text:{corpus}"], tokenizer_dir, at, 0.1))


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
def trained(config_base: RunConfig, shared: Shared) -> Path:
    """The run folder of these 20 steps, to be read only."""

    def build(folder: Path) -> None:
        pretrain(replace(config_base, run_dir=str(folder / "run")), Partitioner(devices()[:1]))

    return shared("trained", build) / "run"


@pytest.fixture(scope="session")
def two_processes(config_base: RunConfig, shared: Shared) -> Path:
    """The same run by two processes with two devices each."""

    def build(folder: Path) -> None:
        config = write_config(replace(config_base, run_dir=str(folder / "run")), folder)
        results = wait_for_all(start_two(command("pretrain", "--config", config)))
        assert [result.returncode for result in results] == [0, 0], results[0].stderr
        # Only the first process prints what the run does.
        assert "2 process(es)" in results[0].stderr
        assert len(results[1].stderr.splitlines()) == 1

    return shared("two-processes", build) / "run"


@pytest.fixture(scope="session")
def finetuned(shared: Shared) -> Callable[[str], Path]:
    """Task -> a folder with its labeled files and, in ``run``, a model trained on them."""

    def folder(task: str) -> Path:
        return shared(f"finetuned-{task}", lambda at: run(options(task, at, at / "run")))

    return folder


@pytest.fixture(scope="session")
def two_phases(store_dir: Path) -> RunConfig:
    """Two phases, dropout on, many checkpoints; the embeddings make a save take a while."""
    return RunConfig(
        run_dir="unset",
        data=DataConfig(store=str(store_dir)),
        model=ModelConfig(preset="bert-tiny", vocab_size=5000, max_positions=64, dtype="float32"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
        train=TrainConfig(batch_size=4, log_every=1, eval_every=10, eval_batches=2),
        phases=(Phase(length=16, steps=24), Phase(length=32, steps=16, batch_size=2)),
        checkpoint=CheckpointConfig(every=4, keep=2),
    )


@pytest.fixture(scope="session")
def two_phase_run(two_phases: RunConfig, shared: Shared) -> Path:
    """The run of two phases, by a process of its own, never interrupted."""

    def build(folder: Path) -> None:
        config = write_config(replace(two_phases, run_dir=str(folder / "run")), folder)
        result = run_process("pretrain", "--config", config)
        assert result.returncode == 0, result.stderr

    return shared("two-phases", build) / "run"


@pytest.fixture
def still(config: RunConfig) -> RunConfig:
    """The same without dropout."""
    model = replace(config.model, hidden_dropout=0.0, attention_dropout=0.0)
    return replace(config, model=model)


@pytest.fixture(scope="session")
def all_devices() -> Partitioner:
    found = devices()
    assert len(found) == DEVICES, "the emulated devices are missing: was JAX imported too early?"
    return Partitioner(found)
