"""README.md and docs/: the commands of each page run in their order.

Only their size is reduced: configs and texts of the same names are small here, and so are the
numbers in `REDUCED`. `NOT_RUN` lists the commands that are not run, with reasons.
"""

from __future__ import annotations

import configparser
import lzma
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest
import yaml

from bert_jax.config.run import DataConfig, RunConfig
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner
from pipelines.data.store.prepare import prepare
from pipelines.data.tokenizers.vocabulary import train_vocabulary
from pipelines.pretraining import pretrain
from support import doc_blocks, gcs_emulator, submitted_run
from support.commands import ROOT, command, environment, invoke
from support.corpora import VOCABULARY, story, write_corpus
from support.ports import free_port
from support.scripted_cloud import ScriptedCloud
from support.shared import Shared
from tpu.launch.provider import ENDPOINT
from tpu.rehearsal import fake_rest
from tpu.rehearsal.fake_cloud import Delays

README, TUTORIAL = ROOT / "README.md", ROOT / "docs/tutorial/index.md"
PRETRAIN = ROOT / "docs/how-to/pretrain.md"
SHELL = {
    page: blocks
    for page in doc_blocks.pages()
    if (blocks := [b for b in doc_blocks.blocks(page) if b.language in doc_blocks.SHELL])
}

# Pattern in a command -> its replacement.
REDUCED = (
    (r"--vocab-size \d+", f"--vocab-size {VOCABULARY}"),
    (r"--words \d+", "--words 5"),
    (r"--train\.epochs \d+", "--train.epochs 1"),
    (r"--model\.preset \S+", "--model.preset bert-tiny"),
    (r"--optimizer\.warmup_steps \d+", "--optimizer.warmup_steps 1"),
    (r"length: \d+, steps: \d+", "length: 32, steps: 2"),
    (r"--corpus python-docs", "--corpus text:corpus.txt"),
    (r"--held-out 0\.05", "--held-out 0.1"),
    (r"make_task\.py data/whose-docs", r"\g<0> --per-library 10"),
    (r" /shared/", " shared/"),
)

# Start of a line -> reason why it is not run here.
NOT_RUN = {
    ".": "the tests have an environment",
    "pip install": "it installs packages; the test checks that the extra exists",
    "python3 -m venv": "it installs packages",
    "make": "many minutes, or this test itself; the test checks that the target exists",
    ".venv/bin/pytest": "this test itself",
    "srun": "there is no Slurm",
    "gcloud": "it asks for an account",
    "for": "of gcloud",
    "done": "of gcloud",
    "xpk": "it asks for an account",
    "bert-jax tpu preflight": "minutes of the TPU compiler; tests/compiler compiles less",
    "bert-jax tpu local": "minutes; test_tpu_gs.py runs it",
}


class World:
    """A folder with everything that the pages use, under the same names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cloud = folder, ExitStack()
        self.background: list[subprocess.Popen[str]] = []
        self.port = free_port()

    @cached_property
    def storage(self) -> dict[str, str]:
        """Environment of an emulated bucket and cloud, which start when a page needs them."""
        url, variables = self.cloud.enter_context(gcs_emulator.emulator())
        gcs_emulator.make_bucket(url, "my-bucket")
        fake = ScriptedCloud(Delays(0.0, None, 0.0, 0.0, 0.0))
        self.cloud.callback(fake.close)
        return {**variables, ENDPOINT: self.cloud.enter_context(fake_rest.serve(fake))}

    def run(self, line: str) -> str:
        """Run a line of a page at reduced size; return its output."""
        for pattern, replacement in (
            *REDUCED,
            (r"127\.0\.0\.1:8000|host0:1234", f"127.0.0.1:{self.port}"),
            (r"bert-jax serve .*", rf"\g<0> --port {self.port}"),
        ):
            line = re.sub(pattern, replacement, line)
        words = shlex.split(line, comments=True)
        if words[0] == "curl":
            # An earlier line started the server.
            retries = ["--fail-with-body", "--retry-connrefused", "--retry", "60"]
            return self.end(self.start([*words, *retries]))
        if words[0].startswith("JAX_"):
            return self.run_both(words)
        if words[:2] == ["bert-jax", "serve"]:
            self.background.append(self.start(command(*words[1:])))
        elif words[:2] == ["bert-jax", "tpu"]:
            return self.in_the_cloud(words[2:])
        elif words[0] == "bert-jax":
            return checked(invoke(*words[1:], folder=self.folder))
        else:
            assert words[0] == "python", line
            return self.end(self.start([sys.executable, *words[1:]]))
        return ""

    def run_both(self, words: list[str]) -> str:
        """Run a line for the second of two processes, together with the first."""
        variables = dict(word.split("=") for word in words[:3])
        assert list(variables)[2] == "JAX_PROCESS_ID"
        processes = [
            self.start(command(*words[4:]), **{**variables, "JAX_PROCESS_ID": number})
            for number in ("0", "1")
        ]
        return "".join(self.end(process) for process in processes)

    def in_the_cloud(self, words: list[str]) -> str:
        """Run a command against the emulated cloud; a watcher continues in the background."""
        variables = {"GOOGLE_CLOUD_PROJECT": submitted_run.PROJECT, **self.storage}
        process = self.start(submitted_run.command(*words), **variables)
        if "--watch" not in words:
            return self.end(process)
        self.background.append(process)
        assert process.stderr is not None
        output = []
        for line in process.stderr:
            output.append(line)
            if "QUEUED" in line:
                return ""
        raise AssertionError(f"{words} ended at once: {output}")

    def start(self, words: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        """Start a process."""
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=environment(4, PYTHONPATH=str(ROOT), **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> str:
        """Wait for the end of a process; return its output."""
        out, err = process.communicate(timeout=240)
        return checked(subprocess.CompletedProcess(process.args, process.returncode, out, err))

    def close(self) -> None:
        """End the background processes: a server exits with 0, a watcher with 75."""
        for process in self.background:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
            assert process.returncode == (75 if "--watch" in process.args else 0), err
        self.cloud.close()


def checked(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, f"{result.args}: {result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def stored(config_base: RunConfig, corpus: Path, shared: Shared) -> tuple[Path, Path]:
    """Make a store and a run of four steps, with special tokens and positions as in the paper."""

    def build(folder: Path) -> None:
        words, store = folder / "tokenizer", folder / "store"
        lines = [line for line in corpus.read_text("utf-8").splitlines() if line]
        train_vocabulary("wordpiece", lines, VOCABULARY, uncased=True).save(words)
        with (words / "vocab.txt").open("a", encoding="utf-8") as file:
            file.writelines(f"[unused{n}]\n" for n in range(8))
        prepare([f"text:{corpus}"], words, store, 0.1)
        config = replace(
            config_base,
            run_dir=str(folder / "run"),
            data=DataConfig(store=str(store)),
            model=replace(config_base.model, max_positions=512, vocab_size=0),
            optimizer=replace(config_base.optimizer, warmup_steps=1),
            phases=(replace(config_base.phases[0], steps=4),),
        )
        pretrain(config, Partitioner(devices()[:1]))

    folder = shared("model-of-the-docs", build)
    return folder / "store", folder / "run"


@contextmanager
def open_world(folder: Path, stored: tuple[Path, Path]) -> Iterator[World]:
    for name in ("books", "field", "finnish"):
        (folder / name).mkdir()
        text = write_corpus(folder / name / "a.txt", 100)
    (folder / "finnish/a.txt.xz").write_bytes(lzma.compress(text.read_bytes()))
    shutil.copy(text, folder / "corpus.txt")
    store, run = stored
    for name in ("shared/store", "data/wiki-books/uncased"):
        shutil.copytree(store, folder / name)
    for name in ("MODEL", "runs/tiny", "runs/slower", "runs/phase-one"):
        shutil.copytree(run, folder / name)
    (folder / "docs").symlink_to(ROOT / "docs")
    write_tables(folder)
    write_small_configs(folder / "configs")
    world = World(folder)
    yield world
    world.close()


@pytest.fixture
def world(stored: tuple[Path, Path], tmp_path: Path) -> Iterator[World]:
    with open_world(tmp_path, stored) as opened:
        yield opened


def write_small_configs(folder: Path) -> None:
    shutil.copytree(ROOT / "configs", folder)
    for file in folder.rglob("*.yaml"):
        config = yaml.safe_load(file.read_text("utf-8").replace("YOUR-BUCKET", "my-bucket"))
        if "phases" in config:
            config["model"] = {"preset": "bert-tiny", "hidden_size": 32, "dtype": "float32"}
            config["phases"] = [{"length": 32, "steps": 4}]
            config["train"] |= {"batch_size": 8, "eval_every": 4, "eval_batches": 1}
            config["checkpoint"]["every"] = 2
            config["optimizer"]["warmup_steps"] = 1
        elif "model" in config:
            config["model"].pop("preset", None)
        file.write_text(yaml.safe_dump(config), "utf-8")


def write_tables(folder: Path) -> None:
    rng = random.Random(0)  # noqa: S311
    texts = [story(rng, 1)[0] for _ in range(16)]
    rows = [f'"{text}",{rng.choice(["glad", "sad"])}\n' for text in texts]
    for name in ("train", "dev", "new"):
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(rows), "utf-8")
    (folder / "texts.txt").write_text("\n".join(texts[:4]) + "\n", "utf-8")


def not_run(line: str) -> bool:
    """Return True if a line is in `NOT_RUN`; check what is possible without running it."""
    start = next((start for start in NOT_RUN if f"{line} ".startswith(f"{start} ")), None)
    if start == "pip install":
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = re.findall(r"[\[,](\w+)", line)
        assert {*extras} <= {*setup["options.extras_require"]}, line
    if start == "make":
        targets = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
        checked(
            subprocess.run(
                ["make", "--dry-run", *targets],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )
        )  # fmt: skip
    return start is not None


def shell(page: Path) -> list[str]:
    return [line for block in SHELL[page] for line in block.lines()]


def repeated(page: Path) -> int:
    """Count the first lines of a page that README.md also has, in the same order."""
    lines, readme = shell(page), iter(shell(README))
    return next((n for n, line in enumerate(lines) if line not in readme), len(lines))


REPEATING = [page for page in SHELL if page != README and repeated(page) > 0]


def check(page: Path, world: World, first: int = 0) -> str:
    """Run the lines of a page, starting with number `first`; return their output."""
    return "".join(world.run(line) for line in shell(page)[first:] if not not_run(line))


def test_the_commands_of_the_readme_run(world: World) -> None:
    """Pages that start with the same commands run from where README.md ends."""
    check(README, world)
    assert PRETRAIN in REPEATING
    for page in REPEATING:
        check(page, world, repeated(page))


@pytest.mark.full
@pytest.mark.parametrize(
    "page",
    sorted({*SHELL} - {TUTORIAL, README, *REPEATING}),
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_commands_of_a_page_run(page: Path, world: World) -> None:
    check(page, world)


@pytest.mark.full
def test_the_tutorial_writes_its_results(world: World) -> None:
    shutil.rmtree(world.folder / "runs/tiny")
    printed = check(TUTORIAL, world)
    assert "[CLS]" in printed
    assert "constant_guess_accuracy" in printed
    assert (world.folder / "runs/whose-docs/test.jsonl").stat().st_size
    for run in ("tiny", "whose-docs"):
        assert "<svg" in (world.folder / f"runs/{run}/report.html").read_text("utf-8")
    assert (world.folder / "data/whose-docs-hf/model.safetensors").is_file()


def test_every_reduction_and_exception_is_used() -> None:
    text = "\n".join(line for page in SHELL for line in shell(page))
    for pattern, _ in REDUCED:
        assert re.search(pattern, text), pattern
    for start in NOT_RUN:
        assert re.search(rf"^{re.escape(start)}(\s|$)", text, re.M), start
