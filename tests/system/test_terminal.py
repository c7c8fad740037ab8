"""Output in a terminal and in a pipe."""

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
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import SPECIALS, WordPieceTokenizer
from pipelines.help import COMMANDS, EXAMPLES, GROUPS, example, finetune_example
from pipelines.models.evaluate import masked_sentence
from pipelines.settings import parse, parser_of
from pipelines.tasks.registry import TASKS
from support.commands import ROOT, invoke, refused, write_config
from tpu.__main__ import COMMANDS as TPU_COMMANDS

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")

# Prints progress and a summary.
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
    """Return the output of a command in a terminal of that width."""
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
    except OSError:  # Linux reports a closed terminal this way
        pass
    os.close(master)
    assert process.wait() == 0, drawn.decode()
    return drawn.decode()


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    drawn = in_terminal(sys.executable, "-c", _SCRIPT)
    assert _COLOR.search(drawn)
    bars = [line for line in _ESCAPE.sub("", drawn).replace("\r", "\n").split("\n") if "━" in line]
    assert "4/4" in bars[-1]
    assert "left 0:00:00" in bars[-1]
    assert bars[-1].rstrip().endswith("loss 1.5  phase 1/2")
    assert all(len(bar) <= 80 for bar in bars)


def test_no_color_keeps_the_bar_without_colors() -> None:
    drawn = in_terminal(sys.executable, "-c", _SCRIPT, NO_COLOR="1")
    assert "━" in drawn
    assert not _COLOR.search(drawn)


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}])
def test_a_pipe_gets_plain_lines(variables: dict[str, str]) -> None:
    command = [sys.executable, "-c", _SCRIPT]
    names = {**os.environ, **variables}
    piped = subprocess.run(command, cwd=ROOT, env=names, capture_output=True, check=True)
    assert piped.stdout == b""
    assert b"\r" not in piped.stderr
    stderr = _COLOR.sub("", piped.stderr.decode())  # FORCE_COLOR adds colors
    assert variables or stderr == piped.stderr.decode()
    assert "\x1b" not in stderr
    assert stderr.splitlines() == [
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


def test_the_estimate_ignores_the_first_update(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It includes compilation."""
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with console.progress("step", 100) as show:
        for step, now in ((1, 90.0), (2, 91.0)):  # noqa: B007
            show(step, "")
    assert capsys.readouterr().err.splitlines() == ["step 1/100", "step 2/100, 0:01:38 left"]


def test_every_command_ends_with_its_results_and_the_next_command(
    corpus: Path, config: RunConfig, tmp_path: Path
) -> None:
    """Go from text to a model by following the proposed commands."""
    tokenizer, store, run = tmp_path / "tokenizer", tmp_path / "store", Path(config.run_dir)
    stderr = invoke(
        *("train-tokenizer", "--corpus", f"text:{corpus}", "--vocab-size", "70"),
        *("--out", tokenizer),
    ).stderr
    assert _next(stderr) == f"prepare --corpus text:{corpus} --tokenizer {tokenizer} --out {store}"
    stderr = invoke(*_next(stderr).split(), "--held-out", "0.1").stderr
    assert _next(stderr) == f"pretrain --config tiny --data.store {store} " + (
        "--run-dir runs/tiny"
    )
    assert f"  described in  {store}/card.md\n" in stderr
    file, phases = (
        write_config(config, tmp_path),
        "[{length: 32, steps: 2}, {length: 32, steps: 2}]",
    )
    trained = ("pretrain", "--config", file, "--data.store", store, "--phases", phases)
    stderr = invoke(*trained, "--train.eval_every", "2", "--checkpoint.every", "4").stderr
    assert re.search(
        r"^step 4/4, .* loss [\d.]+  [\d,]+ tokens/s  phase 2/2$", stderr, re.MULTILINE
    )
    assert re.search(r"^  held out mlm accuracy +[\d.]+$", stderr, re.MULTILINE)
    assert re.search(rf"^  curves +tensorboard --logdir {run}$", stderr, re.MULTILINE)
    assert _next(stderr) == f"evaluate {run}"
    evaluated = invoke(*_next(stderr).split())
    *command, text = shlex.split(_next(evaluated.stderr))
    assert command == ["fill-mask", str(run)]
    lines = [line.casefold().rstrip(".").split() for line in corpus.read_text("utf-8").splitlines()]
    before, after = (part.casefold().rstrip(" .").split() for part in text.split("[MASK]"))
    position, length = len(before), len(before) + 1 + len(after)
    same = [line for line in lines if len(line) == length and line[:position] == before]
    assert any(line[position + 1 :] == after for line in same), "no sentence of the corpus"
    assert invoke("fill-mask", run, text).returncode == 0
    assert evaluated.stdout.startswith("loss ")
    parsed = invoke("evaluate", run, "--json")
    assert json.loads(parsed.stdout)["step"] == 4
    assert "next" not in parsed.stderr
    converted = invoke("convert", run, tmp_path / "hf", "--to", "hf").stderr
    assert _next(converted) == f"inspect {tmp_path / 'hf'}"


def test_commands_that_use_a_model_propose_the_next_command(
    finetuned: Callable[[str], Path], tmp_path: Path
) -> None:
    """The summary goes to standard error, apart from results on standard output."""
    examples = finetuned("classification") / "validation.csv"
    run, out = (
        Path(shutil.copytree(examples.parent / "run", tmp_path / "run")),
        tmp_path / "out.jsonl",
    )
    result = invoke("predict", run, "--input", examples, "--output", out, "--score")
    assert set(json.loads(result.stdout)) == {"accuracy", "f1", "mcc"}
    assert f"{out}: 33 predictions\n  task  classification\n" in result.stderr
    assert _next(result.stderr) == f"serve {run}"
    texts, vectors = tmp_path / "texts.txt", tmp_path / "vectors.npz"
    texts.write_text("the man\na store\n")
    result = invoke("extract-features", run, "--input", texts, "--output", vectors)
    assert result.stdout == ""
    (opened,) = re.findall(r"^  opened by  (.*)$", result.stderr, re.MULTILINE)
    assert len(eval(opened, {"numpy": np})) > 0  # noqa: S307
    assert _next(result.stderr) == f"serve {run}"
    result = invoke("report", run)
    assert result.stdout == ""
    assert "  of    run (complete, step 48)\n" in result.stderr
    assert _next(result.stderr) == f"serve {run}"


def test_extend_tokenizer_proposes_to_prepare(tmp_path: Path) -> None:
    base, new = tmp_path / "base", tmp_path / "new"
    pieces = [*SPECIALS, "[unused0]", *"abc", "##a", "##b"]
    WordPieceTokenizer(pieces, uncased=True).save(base)
    (tmp_path / "text.txt").write_text("cab cab cab cab cab cab\n\ncab\n")
    corpus = ("--corpus", f"text:{tmp_path / 'text.txt'}")
    result = invoke("extend-tokenizer", base, *corpus, "--words", "1", "--out", new)
    assert "  words  cab\n" in result.stderr
    then = f"prepare {' '.join(corpus)} --tokenizer {new} --out {tmp_path / 'store'}"
    assert _next(result.stderr) == then
    assert invoke(*then.split()).returncode == 0


@pytest.mark.parametrize("words", ["кот пёс дом лес идёт спит видит и", "猫 狗 家 林 走 睡 看 和"])
def test_the_proposed_sentence_is_from_the_corpus(words: str, tmp_path: Path) -> None:
    vocabulary = words.split()
    tokenizer = WordPieceTokenizer([*SPECIALS, *vocabulary, "."], uncased=False)
    tokenizer.save(tmp_path / "tokenizer")
    lines = [" ".join(order) + ".\n" for order in islice(permutations(vocabulary), 40)]
    (tmp_path / "text.txt").write_text("\n".join(lines), "utf-8")
    prepare([f"text:{tmp_path / 'text.txt'}"], tmp_path / "tokenizer", tmp_path / "store", 0.3)
    text = masked_sentence(Store(tmp_path / "store"))
    ids = tokenizer.encode_masked(text)
    assert ids.count(tokenizer.mask_id) == 1
    assert tokenizer.unk_id not in ids
    assert len(ids) == 9, "a whole sentence"
    # Unknown words are not proposed.
    (tmp_path / "text.txt").write_text(
        "\n".join(f"foreign words of number {n}\n" for n in range(40))
    )
    prepare([f"text:{tmp_path / 'text.txt'}"], tmp_path / "tokenizer", tmp_path / "other", 0.3)
    assert masked_sentence(Store(tmp_path / "other")).count("[MASK]") == 1


def _next(stderr: str) -> str:
    match = re.search(r"^  took +\d:\d\d:\d\d\n  next +bert-jax (.*)$", stderr, re.MULTILINE)
    assert match, stderr
    return match[1]


def test_the_help_lists_every_command_once_in_its_group() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(COMMANDS)
    text = invoke("--help").stdout
    assert text == invoke("help").stdout
    assert text.rstrip().endswith(example("pretrain"))
    assert text.index("Data:") < text.index("Pre-train:") < text.index("Terms:")
    for name, description in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(description)}$", text, re.MULTILINE)


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


def test_the_help_of_pretrain_starts_with_required_options() -> None:
    lines = invoke("pretrain", "--help").stdout.splitlines()
    first = "\n".join(lines[:16])
    for option in ("--config FILE", "--data.store STORE", "--run-dir RUN", "--train.steps N"):
        assert f"  {option} " in first


def test_options_in_the_short_help_exist() -> None:
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
