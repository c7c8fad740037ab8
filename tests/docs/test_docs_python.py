"""Python of README.md and docs/: every block runs, and the reference is complete."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docstring_parser
import pytest

from bert_jax.runtime import errors
from support import doc_blocks
from support.commands import ROOT, invoke
from support.doc_blocks import Block

BLOCKS = [
    block
    for page in doc_blocks.pages()
    for block in doc_blocks.blocks(page)
    if block.language == "python"
]
REFERENCE = (ROOT / "docs/reference/python.md").read_text("utf-8")


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs and files that the pages use."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "runs").mkdir()
    (folder / "data/whose-docs").mkdir(parents=True)
    for name in ("runs/books", "runs/tiny", "MODEL"):
        (folder / name).symlink_to(trained)
    rows = "text,label\nthe red fox ate,fable\nthe old man sat,story\n"
    for name in ("train", "dev", "test"):
        (folder / f"data/whose-docs/{name}.csv").write_text(rows, "utf-8")
    result = invoke(
        *("finetune", "classification", "--init", "runs/books", "--run_dir", "runs/whose-docs"),
        *("--data.train", "data/whose-docs/train.csv", "--train.epochs", "1"),
        *("--data.validation", "data/whose-docs/dev.csv", "--data.length", "32"),
        folder=folder,
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.where)
def test_python_of_the_pages_runs(
    block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block.mark[:1] == ("not run",):
        assert len(block.mark[1]) > 10, "give the reason"
        ast.parse(block.text)
        return
    monkeypatch.chdir(folder)
    exec(compile(block.text, block.where, "exec"), {"__name__": "page"})  # noqa: S102


def functions() -> dict[str, Callable[..., Any]]:
    """Return the functions and methods of docs/reference/python.md by full name."""
    listed = {}
    for name in re.findall(r"autofunction:: (\S+)", REFERENCE):
        module, _, function = name.rpartition(".")
        listed[name] = getattr(importlib.import_module(module), function)
    for name, methods in re.findall(r"autoclass:: (\S+)\n +:members: (.+)", REFERENCE):
        module, _, kind = name.rpartition(".")
        members = getattr(importlib.import_module(module), kind)
        for method in methods.split(", "):
            listed[f"{name}.{method}"] = getattr(members, method)
    return listed


@pytest.mark.parametrize("name", functions())
def test_a_docstring_of_the_reference_is_complete(name: str) -> None:
    function = functions()[name]
    text = inspect.getdoc(function)
    assert text is not None
    parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
    signature = inspect.signature(function)
    parameters = [name for name in signature.parameters if name != "self"]
    assert [param.arg_name for param in parsed.params] == parameters
    assert all(len(param.description or "") > 5 for param in parsed.params)
    if signature.return_annotation != "None":
        assert parsed.returns is not None
        assert parsed.returns.description
    listed = {kind.type_name for kind in parsed.raises}
    assert listed <= {*vars(errors)}
    for raised in raised_by(function):
        kinds = {kind.__name__ for kind in getattr(errors, raised).__mro__}
        assert listed & kinds, f"{raised} is raised and not listed"
    assert re.search(r"^Source: .{20}", text, re.M), "name the source"


def raised_by(function: Callable[..., Any]) -> set[str]:
    """Return the errors for users that a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = {call.func.id for call in calls if isinstance(call, ast.Call)}  # type: ignore[attr-defined]
    return {name for name in names if name in vars(errors)}
