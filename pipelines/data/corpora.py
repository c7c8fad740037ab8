"""Where text comes from: a corpus specification becomes a stream of documents.

A document is a list of at least one sentence. The order is the corpus's own and always the same.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sentencex import segment

from bert_jax.errors import BadArgumentsError, BadInputError
from pipelines.data import python_docs

Document = list[str]


@dataclass(frozen=True)
class Corpus:
    """A source of documents that can be read any number of times."""

    spec: str
    licence: str
    documents: Callable[[], Iterator[Document]]


def open_corpus(spec: str) -> Corpus:
    """The corpus that `spec` names: ``python-docs`` or ``text:GLOB``.

    Raises:
        BadArgumentsError: `spec` has another form.
        BadInputError: The glob matches no file.
    """
    if spec == "python-docs":
        return Corpus(spec, python_docs.LICENCE, python_docs.documents)
    scheme, _, pattern = spec.partition(":")
    if scheme != "text" or not pattern:
        raise BadArgumentsError(f"corpus {spec!r} is neither 'python-docs' nor 'text:GLOB'")
    # Not Path.glob, which takes no absolute patterns.
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise BadInputError(f"corpus {spec!r}: no file matches {pattern}")
    return Corpus(spec, "not stated", lambda: text_documents(paths))


def text_documents(paths: list[Path]) -> Iterator[Document]:
    """Reads text files: a sentence or paragraph per line, a blank line between documents.

    Raises:
        BadInputError: A file is not UTF-8 or cannot be read.
    """
    for path in paths:
        document: Document = []
        for line in _lines(path):
            if line.strip():
                document += filter(None, map(str.strip, segment("en", line)))
            elif document:
                yield document
                document = []
        if document:
            yield document


def _lines(path: Path) -> Iterator[str]:
    offset = 0
    try:
        with path.open("rb") as file:
            for line in file:
                yield line.decode("utf-8-sig" if offset == 0 else "utf-8")
                offset += len(line)
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset"
            f" {offset + error.start}; convert it, for example with"
            f" iconv -f latin1 -t utf-8 '{path}'"
        ) from None
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
