"""README.md and docs/: the commands that are shown run to their end, in the order of their page.

Nothing of them is changed but what makes them long: configs and texts of the same names are small
here, and so are the numbers in `REDUCED`. What is not run stands in `NOT_RUN`, with the reason.
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
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import gcs
import shown
import submitted
from bert_jax.config import DataConfig, RunConfig
from bert_jax.parallel import Layout, devices
from conftest import ROOT, bert_jax, command, environment
from pipelines.data import tokenizer_training
from pipelines.prepare import prepare
from pipelines.pretrain import pretrain
from ports import free_port
from stories import VOCABULARY, story, write_corpus
from tpu.provider import ENDPOINT
from tpu.testing import rest
from tpu.testing.cloud import Delays, FakeCloud

TUTORIAL = ROOT / "docs" / "tutorial" / "index.md"
SHELL = {
    page: blocks
    for page in shown.pages()
    if (blocks := [b for b in shown.blocks(page) if b.language in shown.SHELL])
}

# As it stands -> what is run instead.
REDUCED = (
    (r"--vocab-size \d+", f"--vocab-size {VOCABULARY}"),
    (r"--words \d+", "--words 5"),
    (r"--train\.epochs \d+", "--train.epochs 1"),
    (r"--model\.preset \S+", "--model.preset bert-tiny"),
    (r"--optimizer\.warmup_steps \d+", "--optimizer.warmup_steps 1"),
    (r"length: \d+, steps: \d+", "length: 32, steps: 2"),
    (r"--corpus python-docs", "--corpus text:corpus.txt"),
    (r"--heldout 0\.05", "--heldout 0.1"),
    (r"make_task\.py data/whose-docs", r"\g<0> --per-library 10"),
    (r" /shared/", " shared/"),
)

# How a line begins -> why it is not run here.
NOT_RUN = {
    ".": "the tests have an environment",
    "pip install": "it installs packages; that the extra is there is tested here",
    "python3 -m venv": "it installs packages",
    "make": "many minutes, or this test itself; its commands are tested, here that it is there",
    ".venv/bin/pytest": "this test itself",
    "srun": "there is no Slurm",
    "gcloud": "it asks for an account",
    "for": "of gcloud",
    "done": "of gcloud",
    "xpk": "it asks for an account",
    "python -m tpu preflight": "minutes of the TPU compiler; test_preflight.py asks it for less",
    "python -m tpu local": "minutes; test_tpu_gs.py runs it",
}


class World:
    """A folder with everything that the pages take to be there, under the same names."""

    def __init__(self, folder: Path, storage: dict[str, str]) -> None:
        self.folder, self.storage = folder, storage
        self.beside: list[subprocess.Popen[str]] = []
        self.port = free_port()

    def run(self, line: str) -> str:
        """A line of a page, made smaller, to its end; what it printed."""
        for pattern, small in (
            *REDUCED,
            (r"127\.0\.0\.1:8000|host0:1234", f"127.0.0.1:{self.port}"),
            (r"bert-jax serve .*", rf"\g<0> --port {self.port}"),
        ):
            line = re.sub(pattern, small, line)
        words = shlex.split(line, comments=True)
        if words[0] == "curl":
            # The server was started by a line before.
            patient = ["--fail-with-body", "--retry-connrefused", "--retry", "60"]
            return self.end(self.start([*words, *patient]))
        if words[0].startswith("JAX_"):
            return self.run_both(words)
        if words[:2] == ["bert-jax", "serve"]:
            self.beside.append(self.start(command(*words[1:])))
        elif words[:3] == ["python", "-m", "tpu"]:
            return self.in_the_cloud(words[3:])
        elif words[0] == "bert-jax":
            return well(bert_jax(*words[1:], folder=self.folder))
        else:
            assert words[0] == "python", line
            return self.end(self.start([sys.executable, *words[1:]]))
        return ""

    def run_both(self, words: list[str]) -> str:
        """A line for the second of two processes, which waits for the first."""
        given = dict(word.split("=") for word in words[:3])
        assert list(given)[2] == "JAX_PROCESS_ID"
        both = [
            self.start(command(*words[4:]), **{**given, "JAX_PROCESS_ID": number})
            for number in ("0", "1")
        ]
        return "".join(self.end(process) for process in both)

    def in_the_cloud(self, words: list[str]) -> str:
        """Of the imitation; what watches goes on beside the lines that follow."""
        variables = {"GOOGLE_CLOUD_PROJECT": submitted.PROJECT, **self.storage}
        watching = self.start(submitted.command(*words), **variables)
        if "--watch" not in words:
            return self.end(watching)
        self.beside.append(watching)
        assert watching.stderr is not None
        said = []
        for line in watching.stderr:
            said.append(line)
            if "QUEUED" in line:
                return ""
        raise AssertionError(f"{words} ended at once: {said}")

    def start(self, words: Sequence[str], **variables: str) -> subprocess.Popen[str]:
        """A process of its own."""
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=environment(4, PYTHONPATH=str(ROOT), **variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> str:
        """Waits for its end; what it printed."""
        out, err = process.communicate(timeout=240)
        return well(subprocess.CompletedProcess(process.args, process.returncode, out, err))

    def close(self) -> None:
        """What was started beside is told to end, and does: a server is done, a watch is not."""
        for process in self.beside:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
            assert process.returncode == (75 if "--watch" in process.args else 0), said


def well(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, f"{result.args}: {result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def stored(
    config_base: RunConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A store and a run of four steps, with a vocabulary and positions like those of the paper."""
    folder = tmp_path_factory.mktemp("model")
    words, store, run = (folder / name for name in ("tokenizer", "store", "run"))
    lines = [line for line in corpus.read_text("utf-8").splitlines() if line]
    tokenizer_training.train("wordpiece", lines, VOCABULARY, uncased=True).save(words)
    with (words / "vocab.txt").open("a", encoding="utf-8") as file:
        file.writelines(f"[unused{n}]\n" for n in range(8))
    prepare([f"text:{corpus}"], words, store, 0.1)
    config = replace(
        config_base,
        run_dir=str(run),
        data=DataConfig(store=str(store)),
        model=replace(config_base.model, max_positions=512, vocab_size=0),
        optimizer=replace(config_base.optimizer, warmup_steps=1),
        phases=(replace(config_base.phases[0], steps=4),),
    )
    pretrain(config, Layout(devices()[:1]))
    return store, run


@pytest.fixture
def world(stored: tuple[Path, Path], tmp_path: Path) -> Iterator[World]:
    for name in ("books", "field", "finnish"):
        (tmp_path / name).mkdir()
        text = write_corpus(tmp_path / name / "a.txt", 600)
    (tmp_path / "finnish/a.txt.xz").write_bytes(lzma.compress(text.read_bytes()))
    shutil.copy(text, tmp_path / "corpus.txt")
    store, run = stored
    for name in ("shared/store", "data/wiki-books/uncased"):
        shutil.copytree(store, tmp_path / name)
    for name in ("MODEL", "runs/tiny", "runs/slower", "runs/phase-one"):
        shutil.copytree(run, tmp_path / name)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    write_tables(tmp_path)
    write_small_configs(tmp_path / "configs")
    cloud = FakeCloud(Delays(0.0, None, 0.0, 0.0, 0.0))
    with gcs.emulator() as (url, storage), rest.serve(cloud) as served:
        gcs.make_bucket(url, "my-bucket")
        made = World(tmp_path, {**storage, ENDPOINT: served})
        yield made
        made.close()
    cloud.close()


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


def left_out(line: str) -> bool:
    """Whether a line is one of `NOT_RUN`; what can be seen of it without running it is right."""
    start = next((start for start in NOT_RUN if f"{line} ".startswith(f"{start} ")), None)
    if start == "pip install":
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = re.findall(r"[\[,](\w+)", line)
        assert {*extras} <= {*setup["options.extras_require"]}, line
    if start == "make":
        targets = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word]
        well(
            subprocess.run(
                ["make", "--dry-run", *targets],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )
        )  # fmt: skip
    return start is not None


def shell(page: Path) -> list[str]:
    return [line for block in SHELL[page] for line in block.lines()]


@pytest.mark.parametrize(
    "page", sorted({*SHELL} - {TUTORIAL}), ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_a_page_shows_runs_as_it_stands_but_smaller(page: Path, world: World) -> None:
    for line in shell(page):
        if not left_out(line):
            world.run(line)


def test_the_tutorial_leads_to_what_it_says(world: World) -> None:
    shutil.rmtree(world.folder / "runs/tiny")
    said = "".join(world.run(line) for line in shell(TUTORIAL) if not left_out(line))
    assert "[CLS]" in said
    assert "constant_guess_accuracy" in said
    assert (world.folder / "runs/whose-docs/test.jsonl").stat().st_size
    for run in ("tiny", "whose-docs"):
        assert "<svg" in (world.folder / f"runs/{run}/report.html").read_text("utf-8")
    assert (world.folder / "data/whose-docs-hf/model.safetensors").is_file()


def test_every_reduction_and_exception_is_still_of_use() -> None:
    text = "\n".join(line for page in SHELL for line in shell(page))
    for pattern, _ in REDUCED:
        assert re.search(pattern, text), pattern
    for start in NOT_RUN:
        assert re.search(rf"^{re.escape(start)}(\s|$)", text, re.M), start
