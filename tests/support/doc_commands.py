"""Parses the commands and reads the tables of README.md and docs/."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Callable
from typing import Any

import jsonargparse
import pytest

from pipelines.commands.cli import command
from pipelines.help import COMMANDS
from support.commands import ROOT

MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


class ParsedError(BaseException):
    """Raised after a command was parsed; commands do not catch it."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """End commands as soon as their parser has accepted the arguments."""

    def stopping(parse: Callable[..., Any], build: Callable[..., Any]) -> Callable[..., Any]:
        def parse_args(self: Any, *arguments: Any, **options: Any) -> Any:
            build(self, parse(self, *arguments, **options))
            raise ParsedError

        return parse_args

    for kind, build in (
        (argparse.ArgumentParser, lambda self, options: options),
        (jsonargparse.ArgumentParser, lambda self, options: self.instantiate(options)),
    ):
        monkeypatch.setattr(kind, "parse_args", stopping(kind.parse_args, build))
    monkeypatch.chdir(ROOT)


def accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Parse a command of this project; return False for commands of other programs."""
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", MAKEFILE, re.M) for target in targets), words
    elif words[0] == "bert-jax":
        assert words[1] in COMMANDS, words
        parsed(command(words[1]), words[2:])
    elif words[0] == "python" and words[1].endswith(".py"):
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.setattr(sys, "path", [str((ROOT / words[1]).parent), *sys.path])
        parsed(lambda _: runpy.run_path(words[1], run_name="__main__"), [])
    else:
        return False
    return True


def parsed(main: Callable[[list[str]], object], words: list[str]) -> None:
    try:
        main(words)
    except ParsedError:
        return
    except SystemExit:
        assert "--help" in words, words
    assert not words or "--help" in words, "a command of one page of help has no options"


def without_code(text: str) -> str:
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.M | re.S)


def rows_of(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^\| (`.+?) \| (.+) \|$", text, re.M)
