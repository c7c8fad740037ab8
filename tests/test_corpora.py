"""Where text comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax.errors import BadInputError
from conftest import ROOT
from pipelines.data import python_docs
from pipelines.data.corpora import open_corpus


def test_text_files_are_read_in_order_and_cut_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Third.\n", "utf-8")
    (tmp_path / "a.txt").write_bytes(
        b"\xef\xbb\xbfOne. And two, e.g. this.\r\nThree.\r\n\r\n\r\nSecond document."
    )
    documents = list(open_corpus(f"text:{tmp_path}/*.txt").documents())
    assert documents == [
        ["One.", "And two, e.g. this.", "Three."],
        ["Second document."],
        ["Third."],
    ]


def test_a_folder_or_nothing_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no file matches"):
        open_corpus(f"text:{tmp_path}")


def test_prose_is_told_from_code_and_markup() -> None:
    text = """frobnicate(a, b=None) -> int

    Return the *best* of two :class:`Frob` values, or ``None`` if there is none.

    Parameters
    ----------
    a : int
        The first value to compare with the other one.
    b (int, optional): The second value may be left out here.

    It can be used like this::

        >>> This Looks like a sentence but stands in code.
        It returns a value of some kind here.

    .. note:: Directives are not prose at all, whatever they say.

    >>> frobnicate(1, 2)
    Some output that could be taken for a sentence.

    - List items are kept as sentences of their own.
    Short one. The value x = y + 1 is no prose at all, is it.
    """
    assert list(python_docs.prose(text)) == [
        "Return the best of two Frob values, or None if there is none.",
        "The first value to compare with the other one.",
        "The second value may be left out here.",
        "List items are kept as sentences of their own.",
    ]


@pytest.fixture(scope="module")
def documents() -> list[list[str]]:
    return list(python_docs.documents())


def test_the_built_in_corpus_is_two_megabytes_of_prose(documents: list[list[str]]) -> None:
    sentences = [sentence for document in documents for sentence in document]
    assert sum(len(sentence.encode()) + 1 for sentence in sentences) > 2_000_000
    assert len(set(sentences)) == len(sentences)
    assert all(len(document) > 1 for document in documents)
    words = " ".join(sentences).split()
    assert sum(word.strip(".,;:()\"'").isalpha() for word in words) / len(words) > 0.9


def test_the_built_in_corpus_is_always_the_same(documents: list[list[str]]) -> None:
    """Also in another process, where sets and dicts of strings have another order."""
    script = (
        "import json; from itertools import islice; from pipelines.data import python_docs;"
        "print(json.dumps(list(islice(python_docs.documents(), 1000))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout) == documents[:1000]
