"""What a person sees in a terminal, and what a pipe gets."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice, permutations
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.run import RunConfig
from bert_jax.runtime import console
from pipelines.commands.cli import COMMANDS
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import SPECIALS, WordPieceTokenizer
from pipelines.help import EXAMPLES, GROUPS, example, finetune_example
from pipelines.models.evaluate import masked_sentence
from pipelines.settings import parse, parser_of
from pipelines.tasks.registry import TASKS
from support.commands import ROOT, invoke, refused, write_config
from tpu.__main__ import COMMANDS as TPU_COMMANDS

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# A progress that has something to show, and a summary.
_SCRIPT = """
import time
from bert_jax.runtime.console import progress, summary
with progress("step", 4) as show:
    for step in range(1, 5):
        time.sleep(0.15)
        show(step, "loss 1.5  phase 1/2")
summary("out: done", time.monotonic() - 61, ("evaluate", "my run"), held_out_loss="1.5", empty="")
"""


def in_terminal(*command: str, columns: int = 80, **variables: str) -> str:
    """What a command draws in a terminal of that width."""
    master, slave = pty.openpty()
    names = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), **variables}
    process = subprocess.Popen(
        command, cwd=ROOT, env=names, stdin=slave, stdout=slave, stderr=slave, close_fds=True
    )
    os.close(slave)
    drawn = b""
    try:
        while part := os.read(master, 1 << 16):
            drawn += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(master)
    assert process.wait() == 0, drawn.decode()
    return drawn.decode()


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    drawn = in_terminal(sys.executable, "-c", _SCRIPT)
    assert _COLOUR.search(drawn)
    bars = [line for line in _ESCAPE.sub("", drawn).replace("\r", "\n").split("\n") if "━" in line]
    assert "4/4" in bars[-1]
    assert "left 0:00:00" in bars[-1]
    assert bars[-1].rstrip().endswith("loss 1.5  phase 1/2")
    assert all(len(bar) <= 80 for bar in bars)


def test_no_color_keeps_the_bar_and_drops_the_colours() -> None:
    drawn = in_terminal(sys.executable, "-c", _SCRIPT, NO_COLOR="1")
    assert "━" in drawn
    assert not _COLOUR.search(drawn)


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_plain_lines(variables: dict[str, str]) -> None:
    command = [sys.executable, "-c", _SCRIPT]
    names = {**os.environ, **variables}
    piped = subprocess.run(command, cwd=ROOT, env=names, capture_output=True, check=True)
    assert piped.stdout == b""
    assert b"\r" not in piped.stderr
    said = _COLOUR.sub("", piped.stderr.decode())  # colours were asked for
    assert variables or said == piped.stderr.decode()
    assert "\x1b" not in said
    assert said.splitlines() == [
        "step 4/4, 0:00:00 left  loss 1.5  phase 1/2",
        "out: done",
        "  held out loss  1.5",
        "  took           0:01:01",
        "  next           bert-jax evaluate 'my run'",
    ]


def test_a_terminal_that_cannot_draw_gets_plain_lines() -> None:
    drawn = in_terminal(sys.executable, "-c", _SCRIPT, TERM="dumb")
    assert "step 4/4, 0:00:00 left" in drawn
    assert "\x1b[2K" not in drawn


def test_the_first_update_may_wait_for_the_compiler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing about the time that the others take."""
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.progress("step", 100) as show:
        for step, now in ((1, 90.0), (2, 91.0)):  # noqa: B007
            show(step, "")
    assert capsys.readouterr().err.splitlines() == ["step 1/100", "step 2/100, 0:01:38 left"]


def test_every_command_ends_with_what_was_made_and_what_comes_next(
    corpus: Path, config: RunConfig, tmp_path: Path
) -> None:
    """From text to a model, each step being what the one before proposes."""
    tokenizer, store, run = tmp_path / "tokenizer", tmp_path / "store", Path(config.run_dir)
    said = invoke(
        *("train-tokenizer", "--corpus", f"text:{corpus}", "--vocab-size", "70"),
        *("--out", tokenizer),
    ).stderr
    assert _next(said) == f"prepare --corpus text:{corpus} --tokenizer {tokenizer} --out {store}"
    said = invoke(*_next(said).split(), "--held-out", "0.1").stderr
    assert _next(said) == f"pretrain --config configs/tiny.yaml --data.store {store} " + (
        "--run-dir runs/tiny"
    )
    assert f"  described in  {store}/card.md\n" in said
    file, phases = (
        write_config(config, tmp_path),
        "[{length: 32, steps: 2}, {length: 32, steps: 2}]",
    )
    trained = ("pretrain", "--config", file, "--data.store", store, "--phases", phases)
    said = invoke(*trained, "--train.eval_every", "2", "--checkpoint.every", "4").stderr
    assert re.search(r"^step 4/4, .* loss [\d.]+  [\d,]+ tokens/s  phase 2/2$", said, re.MULTILINE)
    assert re.search(r"^  held out mlm accuracy +[\d.]+$", said, re.MULTILINE)
    assert re.search(rf"^  curves +tensorboard --logdir {run}$", said, re.MULTILINE)
    assert _next(said) == f"evaluate {run}"
    measured = invoke(*_next(said).split())
    *command, text = shlex.split(_next(measured.stderr))
    assert command == ["fill-mask", str(run)]
    lines = [line.casefold().rstrip(".").split() for line in corpus.read_text("utf-8").splitlines()]
    before, after = (part.casefold().rstrip(" .").split() for part in text.split("[MASK]"))
    place, end = len(before), len(before) + 1 + len(after)
    same = [line for line in lines if len(line) == end and line[:place] == before]
    assert any(line[place + 1 :] == after for line in same), "no sentence of the corpus"
    assert invoke("fill-mask", run, text).returncode == 0
    assert measured.stdout.startswith("loss ")
    parsed = invoke("evaluate", run, "--json")
    assert json.loads(parsed.stdout)["step"] == 4
    assert "next" not in parsed.stderr
    converted = invoke("convert", run, tmp_path / "hf", "--to", "hf").stderr
    assert _next(converted) == f"inspect {tmp_path / 'hf'}"


def test_what_uses_a_model_ends_so_too(finetuned: Callable[[str], Path], tmp_path: Path) -> None:
    """On standard error; what a program reads from standard output is not disturbed."""
    given = finetuned("classification") / "validation.csv"
    run, out = Path(shutil.copytree(given.parent / "run", tmp_path / "run")), tmp_path / "out.jsonl"
    told = invoke("predict", run, "--input", given, "--output", out, "--score")
    assert set(json.loads(told.stdout)) == {"accuracy", "f1", "mcc"}
    assert f"{out}: 33 predictions\n  task  classification\n" in told.stderr
    assert _next(told.stderr) == f"serve {run}"
    texts, vectors = tmp_path / "texts.txt", tmp_path / "vectors.npz"
    texts.write_text("the man\na store\n")
    told = invoke("extract-features", run, "--input", texts, "--output", vectors)
    assert told.stdout == ""
    (opened,) = re.findall(r"^  opened by  (.*)$", told.stderr, re.MULTILINE)
    assert len(eval(opened, {"numpy": np})) > 0  # noqa: S307
    assert _next(told.stderr) == f"serve {run}"
    told = invoke("report", run)
    assert told.stdout == ""
    assert "  of    run (complete, step 48)\n" in told.stderr
    assert _next(told.stderr) == f"serve {run}"


def test_a_tokenizer_with_more_words_is_next_to_prepare_with(tmp_path: Path) -> None:
    base, new = tmp_path / "base", tmp_path / "new"
    pieces = [*SPECIALS, "[unused0]", *"abc", "##a", "##b"]
    WordPieceTokenizer(pieces, uncased=True).save(base)
    (tmp_path / "text.txt").write_text("cab cab cab cab cab cab\n\ncab\n")
    corpus = ("--corpus", f"text:{tmp_path / 'text.txt'}")
    told = invoke("extend-tokenizer", base, *corpus, "--words", "1", "--out", new)
    assert "  words  cab\n" in told.stderr
    then = f"prepare {' '.join(corpus)} --tokenizer {new} --out {tmp_path / 'store'}"
    assert _next(told.stderr) == then
    assert invoke(*then.split()).returncode == 0


@pytest.mark.parametrize("words", ["кот пёс дом лес идёт спит видит и", "猫 狗 家 林 走 睡 看 和"])
def test_what_to_fill_in_is_of_the_language_of_the_model(words: str, tmp_path: Path) -> None:
    known = words.split()
    tokenizer = WordPieceTokenizer([*SPECIALS, *known, "."], uncased=False)
    tokenizer.save(tmp_path / "tokenizer")
    lines = [" ".join(order) + ".\n" for order in islice(permutations(known), 40)]
    (tmp_path / "text.txt").write_text("\n".join(lines), "utf-8")
    prepare([f"text:{tmp_path / 'text.txt'}"], tmp_path / "tokenizer", tmp_path / "store", 0.3)
    text = masked_sentence(Store(tmp_path / "store"))
    ids = tokenizer.encode_masked(text)
    assert ids.count(tokenizer.mask_id) == 1
    assert tokenizer.unk_id not in ids
    assert len(ids) == 9, "a whole sentence"
    # Of a text that the tokenizer does not know, nothing is shown.
    (tmp_path / "text.txt").write_text(
        "\n".join(f"foreign words of number {n}\n" for n in range(40))
    )
    prepare([f"text:{tmp_path / 'text.txt'}"], tmp_path / "tokenizer", tmp_path / "other", 0.3)
    assert masked_sentence(Store(tmp_path / "other")).count("[MASK]") == 1


def _next(said: str) -> str:
    found = re.search(r"^  took +\d:\d\d:\d\d\n  next +bert-jax (.*)$", said, re.MULTILINE)
    assert found, said
    return found[1]


def test_the_help_lists_every_command_once_by_what_it_is_for() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    said = invoke("--help").stdout
    assert said == invoke("help").stdout
    assert said.rstrip().endswith(example("pretrain"))
    assert said.index("Data:") < said.index("Pre-train:") < said.index("Terms:")
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", said, re.MULTILINE)


def test_every_command_has_an_example_that_can_be_typed() -> None:
    commands = {*COMMANDS, *(f"tpu {name}" for name in TPU_COMMANDS)}
    assert set(EXAMPLES) == commands
    assert all(text.split()[: len(name.split())] == name.split() for name, text in EXAMPLES.items())
    for name, task in TASKS.items():
        assert f"bert-jax finetune {name} --init" in finetune_example(name, task.example_file)


@pytest.mark.parametrize("name", ["pretrain", "finetune qa", "fill-mask", "show-batch", "tpu"])
def test_the_help_of_a_command_ends_with_its_example(name: str) -> None:
    text = invoke(*name.split(), "--help").stdout
    end = (
        finetune_example("qa", TASKS["qa"].example_file) if name == "finetune qa" else example(name)
    )
    assert text.rstrip().endswith(end), text[-300:]


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in COMMANDS if name not in ("finetune", "tpu")),
        *(f"finetune {task}" for task in TASKS),
        *(f"tpu {name}" for name in TPU_COMMANDS),
    ],
)
def test_the_help_has_no_leftovers_of_the_parser(name: str) -> None:
    text = invoke(*name.split(), "--help").stdout
    assert f"usage: bert-jax {name}" in text
    for leftover in (
        "default: )",
        "default: null",
        "(type:",
        "Literal[",
        "configuration file",
        "``",
    ):
        assert leftover not in text, leftover
    assert not re.search(r"--(\S+\.help|\w+_[\w.]*) ", text)


def test_the_help_of_pretrain_begins_with_what_is_needed() -> None:
    lines = invoke("pretrain", "--help").stdout.splitlines()
    first = "\n".join(lines[:16])
    for option in ("--config FILE", "--data.store STORE", "--run-dir RUN", "--train.steps N"):
        assert f"  {option} " in first


def test_what_the_help_proposes_are_options() -> None:
    """Those of the short list are among all."""
    from pipelines.commands import finetune, pretrain
    from pipelines.help import ESSENTIALS

    parsers = {
        "pretrain": parser_of(pretrain.main),
        "finetune": parser_of(finetune.main, "qa"),
    }
    for name, text in ESSENTIALS.items():
        options = re.findall(r"^  (--\S+)", text, re.MULTILINE)
        assert set(options) <= set(parsers[name]._option_string_actions)
    assert parse(parsers["pretrain"], ["--train.steps", "3"]).train.steps == 3


def test_a_mistyped_command_names_the_nearest() -> None:
    refused(invoke("pretrian"), 64, "did you mean 'pretrain'")
    refused(invoke("finetune", "taging"), 64, "did you mean 'tagging'")
    refused(invoke("evaluate", "runs/x", "--jsno"), 64, "did you mean '--json'")
