"""The fenced code blocks of README.md and docs/.

``python -m support.doc_blocks FILE`` runs the blocks of FILE that are marked `<!-- run: … -->`, in
their order; ``make tutorial`` uses it.
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
        file: The page.
        line: Line of the fence.
        language: Language in the fence.
        mark: ("run", name) or ("not run", reason) from the comment before it; empty otherwise.
        text: Its content.
    """

    file: Path
    line: int
    language: str
    mark: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        """Return FILE:LINE."""
        return f"{self.file.relative_to(ROOT)}:{self.line}"

    def lines(self) -> list[str]:
        """Return the lines for a shell, without prompts, comments and output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each simple command, without redirections and leading variables."""
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
    for position, word in enumerate(words):
        if set(word) <= set("<>"):
            return words[:position]
    return words


def pages() -> list[Path]:
    """Return README.md, its neighbors and all handwritten pages of docs/."""
    docs = [path for path in (ROOT / "docs").rglob("*.md") if "_" not in path.parent.name]
    others = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*others, *sorted(docs), *sorted((ROOT / "benchmarks").glob("*.md"))]


def blocks(file: Path) -> list[Block]:
    """Return the fenced blocks of a file."""
    result, mark = [], ()
    lines = iter(enumerate(file.read_text("utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            end = fence[1] + fence[2]
            content = []
            for _, inner in lines:
                if inner.rstrip() == end:
                    break
                content.append(inner.removeprefix(fence[1]))
            result.append(Block(file, number, fence[3], mark, "\n".join(content)))
        marked = _MARK.match(line)
        if marked:
            mark = (marked[1], marked[2])
        elif line.strip():
            mark = ()
    return result


def marked(file: Path) -> list[Block]:
    """Return the blocks to run."""
    return [block for block in blocks(file) if block.mark[:1] == ("run",)]


def main() -> None:
    """Run the marked commands of a file from the root of the repository."""
    start = time.monotonic()
    for block in marked(ROOT / sys.argv[1]):
        for line in block.lines():
            print(f"$ {line}", flush=True)  # noqa: T201
            started = time.monotonic()
            # Use bert-jax and python of this interpreter.
            path = f'PATH="{Path(sys.executable).parent}:$PATH"'
            subprocess.run(["sh", "-c", f"{path}; {line}"], cwd=ROOT, check=True)
            print(f"({time.monotonic() - started:.0f} s)\n", flush=True)  # noqa: T201
    print(f"{time.monotonic() - start:.0f} s in total")  # noqa: T201


if __name__ == "__main__":
    main()
