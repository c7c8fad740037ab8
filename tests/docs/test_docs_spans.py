"""Commands within the sentences and tables of README.md and docs/: their parsers accept them.

A span that begins like a command is one. If it is whole its parser has to accept it. If it only
names a command and some of its options (values or needed options are left out, or it has a "…"),
the command has to have these options, and its parser may complain of nothing but what is left out.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.commands.cli import COMMANDS
from pipelines.commands.cli import command as main_of
from pipelines.tasks.registry import TASKS
from support import doc_blocks
from support.commands import ROOT
from support.doc_commands import MAKEFILE, accepted, without_code
from tpu.__main__ import COMMANDS as TPU_COMMANDS

BEGINNING = re.compile(r"([A-Z_]+=\S+ |taskset -c 0 )*(bert-jax|python \w+/|make) ?")
OPTION = re.compile(r"(?<![\w-])--?\w[\w.-]*")
PYTORCH = find_spec("torch") is not None and find_spec("transformers") is not None
# What a parser says of a command whose values or needed options are left out.
LEFT_OUT = re.compile(r"^give |expected (one|at least one) argument|takes a value")
# A value for what a name in capitals stands for, where a parser opens or counts it.
STANDS_FOR = {"B": "2", "C": "configs/tiny.yaml", "T": "128", "TASK": "classification"}


def spans(page: Path) -> list[str]:
    """The commands in inline code of a page."""
    text = without_code(page.read_text("utf-8"))
    found = re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)*)`(?!`)", text)
    return [" ".join(span.split()) for span in found if BEGINNING.match(span)]


SPANS = [
    pytest.param(span, id=f"{page.relative_to(ROOT)}: {span}")
    for page in doc_blocks.pages()
    for span in dict.fromkeys(spans(page))
]


def words_of(span: str) -> list[str]:
    """The words of a command, without variables before it and brackets around options."""
    span = re.sub(r"(?<!\S)\[(--[^]]*)\]", r"\1", span)
    block = doc_blocks.Block(ROOT, 0, "sh", (), span)
    words = next(block.commands())
    if words[0] == "taskset":
        words = words[3:]
    return [STANDS_FOR.get(word, word) for word in words]


@pytest.fixture
def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks that compare with PyTorch can be read where it is not installed."""
    if not PYTORCH:
        for name in ("transformers", "finetune_torch"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("parse_only", "without_pytorch")
@pytest.mark.parametrize("span", SPANS)
def test_a_command_in_a_sentence_is_one(span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(span, monkeypatch)


def check(span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(span)
    if words[1:] in ([], ["…"], ["tpu"], ["tpu", "…"]):
        return
    assert known(words), span
    options = [word.partition("=")[0] for word in words if re.match(r"--\w", word)]
    if words[0] != "make" and options:
        listed = {
            option.replace("_", "-") for option in OPTION.findall(help_of(words, monkeypatch))
        }
        for option in options:
            assert option.replace("_", "-") in listed, option
    if "…" in words or not words[2:]:
        return
    try:
        assert accepted(words, monkeypatch), words
    except BadArgumentsError as error:
        if not LEFT_OUT.search(str(error)):
            raise


def known(words: list[str]) -> bool:
    """Whether there is a command, script or target of that name."""
    if words[0] == "make":
        return all(re.search(rf"^{word}:", MAKEFILE, re.M) for word in words[1:] if "=" not in word)
    if words[0] == "python":
        return (ROOT / words[1]).is_file()
    if words[1] == "tpu":
        return words[2] in TPU_COMMANDS
    return words[1] in COMMANDS and (words[1] != "finetune" or words[2:3] in tasks())


def tasks() -> list[list[str]]:
    return [[], *([task] for task in TASKS)]


def help_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command says of its options, those that are keys of a config included."""
    monkeypatch.setenv("COLUMNS", "200")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        if words[0] == "bert-jax":
            given = words[2:3] if words[1] in ("tpu", "finetune") else []
            main_of(words[1])([*(given or ["classification"] * (words[1] == "finetune")), "--help"])
        else:
            monkeypatch.setattr(sys, "argv", [words[1], "--help"])
            monkeypatch.syspath_prepend(str((ROOT / words[1]).parent))
            runpy.run_path(words[1], run_name="__main__")
    return said.getvalue()


@pytest.mark.usefixtures("parse_only", "without_pytorch")
@pytest.mark.parametrize(
    "span",
    [
        "bert-jax prepair",
        "bert-jax prepare --sentence lines",
        "bert-jax prepare --corpus 'text:GLOB' --holdout 0.1",
        "bert-jax bench-loader STORE --length long",
        "bert-jax finetune sentiment",
        "bert-jax tpu watsh RUN",
        "bert-jax tpu local --config C --preempt-every 100",
        "python benchmarks/packing.py STORE --sizes mini",
        "python benchmarks/steps.py",
        "make pre-train",
    ],
)
def test_a_wrong_one_would_be_noticed(span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((AssertionError, BadArgumentsError)):
        check(span, monkeypatch)


README = (ROOT / "README.md").read_text("utf-8")
RESULTS = ROOT / "benchmarks/RESULTS.md"
ROWS = README.partition("<!-- table: results -->\n")[2].partition("\n\n")[0].splitlines()[2:]


def test_the_results_have_rows() -> None:
    assert len(ROWS) > 5


def section(row: str) -> str:
    """The part of RESULTS.md that a row of the README's table leads to."""
    anchor = re.search(r"\]\(benchmarks/RESULTS\.md#([\w-]+)\)", row)
    assert anchor is not None, row
    parts = re.split(r"^(?=## )", RESULTS.read_text("utf-8"), flags=re.M)
    return next(part for part in parts if anchors_of(part) & {anchor[1]})


def anchors_of(part: str) -> set[str]:
    title = re.match(r"## (.+)", part)
    return {re.sub(r"[^\w\- ]", "", title[1].lower()).replace(" ", "-")} if title else set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[1:30])
def test_a_result_stands_in_the_section_that_it_leads_to(row: str) -> None:
    _, what, result, command, _ = row.split("|")
    numbers = re.findall(r"[+]?\d+\.\d+|\d+(?=x)|\b\d{3}\b(?! \d)", result)
    assert numbers, row
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", section(row)), number
    assert what.strip()
    assert "`" in command


@pytest.mark.usefixtures("parse_only", "without_pytorch")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[1:30])
def test_the_command_of_a_result_is_whole(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"`([^`]+)`", row.split("|")[3])
    assert commands
    for command in commands:
        words = words_of(command)
        assert "…" not in words
        assert len(words) > 2, "a name is no command"
        assert accepted(words, monkeypatch), words
        # The same script makes the numbers of the section.
        name = words[1]
        assert name in section(row), name
