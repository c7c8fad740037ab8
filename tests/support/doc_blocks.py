"""The commands that README.md and the pages of docs/ show.

``python -m support.doc_blocks FILE`` runs those that are marked `<!-- run: … -->` in FILE, one
after the other, as they stand; `make tutorial` does so.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

SHELL = ("sh", "bash", "console")

_FENCE = re.compile(r"^( *)(```+)\s*(\w*)")
_MARK = re.compile(r"^\s*<!-- (run|not run): (.+?) -->$")
_VARIABLE = re.compile(r"[A-Z_]+=.*")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        file: In which it stands.
        line: Of its fence.
        language: As the fence says.
        mark: ("run", name) or ("not run", reason) of the comment before it; else empty.
        text: Its content.
    """

    file: Path
    line: int
    language: str
    mark: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        """For messages and names of tests."""
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    def lines(self) -> list[str]:
        """Its commands as a shell would read them, without prompts, comments and output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]

    def commands(self) -> Iterator[list[str]]:
        """The words of every simple command, without redirections and variables before it."""
        for line in self.lines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) - set("|&;"):
                    words.append(word)
                elif words:
                    yield _without_extras(words)
                    words = []


def _without_extras(words: list[str]) -> list[str]:
    while words and _VARIABLE.fullmatch(words[0]):
        words = words[1:]
    for place, word in enumerate(words):
        if set(word) <= set("<>"):
            return words[:place]
    return words


def pages() -> list[Path]:
    """README.md, its neighbours and everything in docs/ that is written by hand."""
    docs = [path for path in (ROOT / "docs").rglob("*.md") if "_" not in path.parent.name]
    others = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*others, *sorted(docs), *sorted((ROOT / "benchmarks").glob("*.md"))]


def blocks(file: Path) -> list[Block]:
    """The fenced blocks of a file."""
    found, mark = [], ()
    lines = iter(enumerate(file.read_text("utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            end = fence[1] + fence[2]
            content = []
            for _, inner in lines:
                if inner.rstrip() == end:
                    break
                content.append(inner.removeprefix(fence[1]))
            found.append(Block(file, number, fence[3], mark, "\n".join(content)))
        marked = _MARK.match(line)
        if marked:
            mark = (marked[1], marked[2])
        elif line.strip():
            mark = ()
    return found


def marked(file: Path) -> list[Block]:
    """The blocks to run."""
    return [block for block in blocks(file) if block.mark[:1] == ("run",)]


def main() -> None:
    """Runs the marked commands of a file from the root of the repository."""
    began = time.monotonic()
    for block in marked(ROOT / sys.argv[1]):
        for line in block.lines():
            print(f"$ {line}", flush=True)  # noqa: T201
            started = time.monotonic()
            # The interpreter's folder comes first, so that its bert-jax and python are found.
            path = f'PATH="{Path(sys.executable).parent}:$PATH"'
            subprocess.run(["sh", "-c", f"{path}; {line}"], cwd=ROOT, check=True)
            print(f"({time.monotonic() - started:.0f} s)\n", flush=True)  # noqa: T201
    print(f"{time.monotonic() - began:.0f} s in all")  # noqa: T201


if __name__ == "__main__":
    main()
