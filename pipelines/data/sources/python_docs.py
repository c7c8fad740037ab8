"""The built-in corpus: English prose from the documentation of Python and of its libraries.

It needs no download, so the first run works anywhere. The texts are the language reference behind
``help()`` (``pydoc_data.topics``) and the docstrings of the standard library and of this project's
dependencies, read from source without importing them. The same package versions always give the
same documents in the same order.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from inspect import cleandoc
from itertools import chain
from pathlib import Path
from typing import Any

from pipelines.data.sources.documents import Document, split_sentences
from pipelines.data.sources.source import OnBadRow, Piece, Source, stop_at

_LICENSE = (
    "PSF-2.0 (Python), BSD-3-Clause (NumPy, SciPy), Apache-2.0 (JAX, Flax, Optax, Orbax, Grain)"
)

_PACKAGES = ("numpy", "scipy", "jax", "flax", "optax", "orbax-checkpoint", "grain")
_SKIPPED = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "pydoc_data"}

_CODE_LINE = re.compile(
    r"""^\s*(
        \.\.\s | :\w[^:]*: | @\w                            # directive, field, Epytext
      | [-=~^*#+|.`_'"]{3,}\s*$ | \|.*\|\s*$                 # rule, table
      | \w+\s*(\(.*\))?\s*(->|::=|=)                         # signature, grammar, assignment
      | \w+(\s\w+)?:\s*$ | [*\w, ]+\s:\s                    # heading, name and type
    )""",
    re.VERBOSE,
)
_PARAMETER_LINE = re.compile(r"^\s*[*\w, ]+\s*(\([^)]*\))?\s*:\s+(?=[A-Z])")
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*)(<[^`]*>)?`")
_QUOTED = re.compile(r"``([^`]*)``|`([^`]*)`_{0,2}|\*\*([^*]+)\*\*|(?<!\w)\*([^*\s][^*]*)\*(?!\w)")
_SENTENCE = re.compile(r"""^["'(]?[A-Z][^\\{}<>=|@#$%&*_~^\[\]`]*[.?!]["')]?$""")
_WORD = re.compile(r"""^["'(]?[A-Za-z][a-z]*(['-][A-Za-z]+)*["')]?[,;:.?!]*["')]?$""")


@dataclass(frozen=True)
class Documents(Piece):
    """A piece that carries its documents."""

    carried: tuple[Document, ...]
    origin: str = "python-docs"

    def documents(self, on_bad_row: OnBadRow = stop_at) -> Iterator[Document]:
        """See `Piece.documents`."""
        yield from self.carried


class PythonDocs(Source):
    """The built-in corpus."""

    scheme = "python-docs"
    form = "python-docs"
    summary = "the built-in corpus: documentation of Python and its libraries, without a download"
    example = "python-docs"
    license = _LICENSE
    one_sentence_per_line = True

    def size(self) -> int:
        """See `Source.size`."""
        return 1 << 22

    def files(self) -> list[Any]:
        """See `Source.files`."""
        return []

    def pieces(self, size: int) -> Iterator[tuple[tuple[Piece, ...], int]]:
        """See `Source.pieces`."""
        carried: list[Document] = []
        total = 0
        for document in documents():
            carried.append(document)
            total += sum(map(len, document))
            if total >= size:
                yield (Documents(tuple(carried)),), total
                carried, total = [], 0
        if carried:
            yield (Documents(tuple(carried)),), total


def documents() -> Iterator[Document]:
    """Yield the sentences of each topic, module, class or function; each sentence only once."""
    earlier: set[str] = set()
    for text in chain(_topics(), _docstrings()):
        # A repeated sentence is boilerplate, or its document is a copy.
        new = [sentence for sentence in dict.fromkeys(prose(text)) if sentence not in earlier]
        earlier.update(new)
        if len(new) > 1:
            yield new


def prose(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring, without markup, code, signatures and tables."""
    for paragraph in _paragraphs(text):
        for piece in split_sentences([paragraph], "en"):
            sentence = " ".join(piece.split())
            words = sentence.split(" ")
            plain = sum(bool(_WORD.match(word)) for word in words)
            if len(words) >= 4 and plain >= 0.8 * len(words) and _SENTENCE.match(sentence):
                yield sentence


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in [*_without_code(cleandoc(text).splitlines()), ""]:
        entry = line.lstrip().startswith(("- ", "* ", "+ ")) or _PARAMETER_LINE.match(line)
        if lines and (not line.strip() or entry):
            yield _without_markup(" ".join(lines))
            lines = []
        if line.strip():
            lines.append(_PARAMETER_LINE.sub("", line).strip().lstrip("-*+ "))


def _without_code(lines: list[str]) -> Iterator[str]:
    """Replace code, examples with their output, signatures and tables by blank lines."""
    code_indent: int | None = None  # of the line that announced a literal block with "::"
    in_example = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if code_indent is not None and line.strip() and indent <= code_indent:
            code_indent = None
        in_example = bool(line.strip()) and (in_example or line.lstrip().startswith(">>>"))
        if code_indent is not None or in_example or _CODE_LINE.match(line):
            yield ""
            continue
        if line.rstrip().endswith("::"):
            code_indent = indent
        yield line


def _without_markup(text: str) -> str:
    text = _ROLE.sub(r"\1", text)
    return _QUOTED.sub(lambda match: next(filter(None, match.groups()), ""), text)


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


def _docstrings() -> Iterator[str]:
    for path in chain(_standard_library(), *map(_package, _PACKAGES)):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and deliberately broken examples
            continue
        if text := ast.get_docstring(tree):
            yield text
        for node in tree.body:
            yield from _object(node)


def _object(node: ast.AST) -> Iterator[str]:
    """Yield the docstring of a function, or that of a class with those of its methods."""
    if isinstance(node, ast.ClassDef):
        members = [member for member in node.body if not isinstance(member, ast.Expr)]
        texts = [ast.get_docstring(node), *chain.from_iterable(map(_object, members))]
        yield "\n\n".join(filter(None, texts))
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
    elif isinstance(node, ast.Expr):  # numpy attaches the texts of its C functions by such calls
        for child in ast.walk(node):
            if isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.value


def _standard_library() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    return sorted(path for path in root.rglob("*.py") if _is_documented(path.relative_to(root)))


def _package(name: str) -> list[Path]:
    files = metadata.files(name) or []
    modules = (file for file in files if file.suffix == ".py" and _is_documented(Path(file)))
    return sorted(Path(str(file.locate())) for file in modules)


def _is_documented(path: Path) -> bool:
    return _SKIPPED.isdisjoint(path.parts) and not path.name.startswith("test_")
