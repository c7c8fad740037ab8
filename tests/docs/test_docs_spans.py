"""Commands in inline code of README.md and docs/: their parsers accept them.

A span that starts like a command is one. A complete command must be accepted by its parser. A span
may also name only a command and some options (without values or required options, or with a "…"):
the command must have these options, and its parser may report only what is missing.
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
from pipelines.commands.cli import command as main_of
from pipelines.help import COMMANDS
from pipelines.tasks.registry import TASKS
from support import doc_blocks
from support.commands import ROOT
from support.doc_commands import MAKEFILE, accepted, without_code
from tpu.__main__ import COMMANDS as TPU_COMMANDS

BEGINNING = re.compile(r"([A-Z_]+=\S+ |taskset -c 0 )*(bert-jax|python \w+/|make) ?")
OPTION = re.compile(r"(?<![\w-])--?\w[\w.-]*")
PYTORCH = find_spec("torch") is not None and find_spec("transformers") is not None
# Message of a parser about missing values or options.
MISSING = re.compile(r"^give |expected (one|at least one) argument|takes a value")
# Values of names in capitals that a parser opens or counts.
STANDS_FOR = {"B": "2", "C": "configs/tiny.yaml", "T": "128", "TASK": "classification"}


def spans(page: Path) -> list[str]:
    """Return the commands in inline code of a page."""
    text = without_code(page.read_text("utf-8"))
    codes = re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)*)`(?!`)", text)
    return [" ".join(span.split()) for span in codes if BEGINNING.match(span)]


SPANS = [
    pytest.param(span, id=f"{page.relative_to(ROOT)}: {span}")
    for page in doc_blocks.pages()
    for span in dict.fromkeys(spans(page))
]


def words_of(span: str) -> list[str]:
    """Return the words of a command, without variables before it and brackets around options."""
    span = re.sub(r"(?<!\S)\[(--[^]]*)\]", r"\1", span)
    block = doc_blocks.Block(ROOT, 0, "sh", (), span)
    words = next(block.commands())
    if words[0] == "taskset":
        words = words[3:]
    return [STANDS_FOR.get(word, word) for word in words]


@pytest.fixture
def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the parsers of benchmarks run without PyTorch."""
    if not PYTORCH:
        for name in ("transformers", "finetune_torch"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))


@pytest.mark.usefixtures("parse_only", "without_pytorch")
@pytest.mark.parametrize("span", SPANS)
def test_a_command_in_inline_code_parses(span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(span, monkeypatch)


def check(span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(span)
    if words[1:] in ([], ["…"], ["tpu"], ["tpu", "…"]):
        return
    assert exists(words), span
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
        if not MISSING.search(str(error)):
            raise


def exists(words: list[str]) -> bool:
    """Return True if there is a command, script or target of that name."""
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
    """Return the help of a command, including the keys of its config."""
    monkeypatch.setenv("COLUMNS", "200")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        if words[0] == "bert-jax":
            names = words[2:3] if words[1] in ("tpu", "finetune") else []
            main_of(words[1])([*(names or ["classification"] * (words[1] == "finetune")), "--help"])
        else:
            monkeypatch.setattr(sys, "argv", [words[1], "--help"])
            monkeypatch.syspath_prepend(str((ROOT / words[1]).parent))
            runpy.run_path(words[1], run_name="__main__")
    return output.getvalue()


README = (ROOT / "README.md").read_text("utf-8")
RESULTS = ROOT / "benchmarks/RESULTS.md"
ROWS = README.partition("<!-- table: results -->\n")[2].partition("\n\n")[0].splitlines()[2:]


def test_the_results_have_rows() -> None:
    assert len(ROWS) > 5


def section(row: str) -> str:
    """Return the section of RESULTS.md that a row of the README's table links to."""
    anchor = re.search(r"\]\(benchmarks/RESULTS\.md#([\w-]+)\)", row)
    assert anchor is not None, row
    parts = re.split(r"^(?=## )", RESULTS.read_text("utf-8"), flags=re.M)
    return next(part for part in parts if anchors_of(part) & {anchor[1]})


def anchors_of(part: str) -> set[str]:
    title = re.match(r"## (.+)", part)
    return {re.sub(r"[^\w\- ]", "", title[1].lower()).replace(" ", "-")} if title else set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[1:30])
def test_a_result_is_in_the_section_that_it_links_to(row: str) -> None:
    _, what, result, command, _ = row.split("|")
    numbers = re.findall(r"[+]?\d+\.\d+|\d+(?=x)|\b\d{3}\b(?! \d)", result)
    assert numbers, row
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", section(row)), number
    assert what.strip()
    assert "`" in command


@pytest.mark.usefixtures("parse_only", "without_pytorch")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[1:30])
def test_the_command_of_a_result_is_complete(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"`([^`]+)`", row.split("|")[3])
    assert commands
    for command in commands:
        words = words_of(command)
        assert "…" not in words
        assert len(words) > 2, "a name is no command"
        assert accepted(words, monkeypatch), words
        # The section names the same script.
        name = words[1]
        assert name in section(row), name
