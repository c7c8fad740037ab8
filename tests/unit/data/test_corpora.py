"""The rules of each source of text; see test_sources for the common ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from pipelines.data.sources import corpora, files, locations, python_docs
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.sources.decompression import zstd
from pipelines.data.sources.documents import split_sentences
from pipelines.data.sources.files import SpanPiece
from pipelines.data.sources.registry import open_source
from support.commands import ROOT
from support.corpora import compressed


def test_text_files_are_read_in_order_and_cut_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Third.\n", "utf-8")
    (tmp_path / "a.txt").write_bytes(
        b"\xef\xbb\xbfOne. And two, e.g. this.\r\nThree.\r\n\r\n\r\nSecond document."
    )
    documents = list(open_corpus(f"text:{tmp_path}/*.txt").documents())
    assert documents == [["One. And two, e.g. this.", "Three."], ["Second document."], ["Third."]]
    assert split_sentences(documents[0], "en") == ["One.", "And two, e.g. this.", "Three."]


def test_json_lines_are_documents(tmp_path: Path) -> None:
    lines = [{"text": "One.\n\nTwo."}, {"text": ""}, {"text": "Three."}]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n", "utf-8")
    assert list(open_corpus(f"jsonl:{file}").documents()) == [["One.", "Two."], [], ["Three."]]
    file.write_text('{"body": "Zwei"}\n', "utf-8")
    assert list(open_corpus(f"jsonl:{file}#body").documents()) == [["Zwei"]]
    with pytest.raises(BadInputError, match=r"line 1: .*no field 'text'"):
        list(open_corpus(f"jsonl:{file}").documents())


@pytest.mark.parametrize(
    "line",
    ['{"text": "bad \\ud800 here"}', '{"text": null}', "[" * 200_000, "{", '{"text": 1}'],
)
def test_json_without_text_is_located(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"text": "Good."}}\n{line}\n', "utf-8")
    with pytest.raises(BadInputError, match=rf"{file}, line 2"):
        list(open_corpus(f"jsonl:{file}").documents())


@pytest.mark.parametrize("scheme", ["text", "jsonl"])
@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize("size", [1, 50, 700, 10**6])
def test_compressed_files_are_cut_like_plain_files(
    corpus: Path, tmp_path: Path, scheme: str, suffix: str, size: int
) -> None:
    text = corpus.read_text("utf-8")
    if scheme == "jsonl":
        text = "".join(json.dumps({"text": part}) + "\n" for part in text.split("\n\n"))
    plain = tmp_path / "a.txt"
    plain.write_text(text, "utf-8")
    packed = compressed(plain, suffix)
    expected, result = (pieces(f"{scheme}:{path}", size) for path in (plain, packed))
    assert [(p.span.start, p.span.end) for p in result] == [
        (p.span.start, p.span.end) for p in expected
    ]
    (whole,) = pieces(f"{scheme}:{plain}", 10**9)
    for some in (expected, result):
        assert [document for piece in some for document in piece.documents()] == list(
            whole.documents()
        )
    if size == 700:
        assert len(result) > 5


def pieces(spec: str, size: int) -> list[SpanPiece]:
    groups = open_source(spec).pieces(size)
    return [piece for group, _ in groups for piece in group if isinstance(piece, SpanPiece)]


@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_file_is_named(corpus: Path, tmp_path: Path, suffix: str, damage: str) -> None:
    plain = tmp_path / "a.txt"
    plain.write_bytes(corpus.read_bytes())
    packed = compressed(plain, suffix)
    content = bytearray(packed.read_bytes())
    if damage == "cut":
        del content[-40:]
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(b"no such format")
    packed.write_bytes(content)
    with pytest.raises(BadInputError, match=packed.name):
        list(open_corpus(f"text:{packed}").documents())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\0" * 50, ["UTF-16"]),
        ("Ein Tag.\n".encode("utf-16"), ["UTF-16"]),
        ("Caf\u00e9.\n\n".encode() + "Caf\u00e9.\n".encode("latin-1"), ["0xe9", "line 3"]),
    ],
)
def test_bytes_that_are_not_text_are_located(
    tmp_path: Path, content: bytes, words: list[str]
) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(BadInputError) as error:
        list(open_corpus(f"text:{file}").documents())
    for word in [*words, str(file)]:
        assert word in str(error.value)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_document_without_end_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_DOCUMENT", 2000)
    file = tmp_path / "a.txt"
    file.write_text("A line.\n" * 1000)
    source = compressed(file, suffix) if suffix else file
    for block_bytes in (100, 10**6):
        monkeypatch.setattr(corpora, "_BLOCK_BYTES", (block_bytes, block_bytes))
        with pytest.raises(BadInputError, match="blank line between documents"):
            list(open_corpus(f"text:{source}").documents())


def test_a_vanished_file_is_named(corpus: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(corpus.read_bytes())
    opened = open_corpus(f"text:{file}")
    (block,) = opened.blocks(0)
    file.unlink()
    with pytest.raises(BadInputError, match=str(file)):
        list(block.documents())
    with pytest.raises(BadInputError, match=str(file)):
        list(opened.documents())


def test_wrong_specifications(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(BadInputError, match=r"no file matches .*; to read a folder"):
        open_corpus(f"text:{tmp_path}")
    with pytest.raises(BadArgumentsError, match=f"try 'text:{corpus}'"):
        open_corpus(str(corpus))
    with pytest.raises(BadArgumentsError, match="given twice"):
        open_corpus("python-docs", "python-docs")


def test_prose_is_separated_from_code_and_markup() -> None:
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


@pytest.mark.full
def test_the_built_in_corpus_is_two_megabytes_of_prose(documents: list[list[str]]) -> None:
    sentences = [sentence for document in documents for sentence in document]
    assert sum(len(sentence.encode()) + 1 for sentence in sentences) > 2_000_000
    assert len(set(sentences)) == len(sentences)
    assert all(len(document) > 1 for document in documents)
    words = " ".join(sentences).split()
    assert sum(word.strip(".,;:()\"'").isalpha() for word in words) / len(words) > 0.9


@pytest.mark.full
def test_the_built_in_corpus_is_always_the_same(documents: list[list[str]]) -> None:
    """Also in another process, where sets of strings have another order."""
    script = (
        "import json; from itertools import islice; from pipelines.data.sources import python_docs;"
        "print(json.dumps(list(islice(python_docs.documents(), 1000))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == documents[:1000]


def test_a_few_bytes_that_unpack_to_very_many_do_not_fill_the_memory(tmp_path: Path) -> None:
    """An endless line and an endless document, in .zst files of some kilobytes."""
    program = (
        "import resource, sys\n"
        "from bert_jax.runtime.errors import BadInputError\n"
        "from pipelines.data.sources.corpora import open_corpus\n"
        "space = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (space + (600 << 20),) * 2)\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        list(open_corpus('text:' + name).documents())\n"
        "    except BadInputError as error:\n"
        "        print(error)\n"
    )
    line, lines = zstd.compress(b"a" * (1 << 26)) * 16, zstd.compress(b"ab\n" * (1 << 24))
    packed = {"a.zst": line, "b.zst": lines}
    for name, data in packed.items():
        (tmp_path / name).write_bytes(data)
        assert len(data) < 1 << 18
    done = subprocess.run(
        [sys.executable, "-c", program, *(str(tmp_path / name) for name in packed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stderr == ""
    assert done.stdout.count("put a blank line between documents") == 2


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with (
        pytest.raises(BadInputError, match="pipe or device"),
        locations.readable(tmp_path / "a.txt"),
    ):
        pass


def test_nul_is_dropped(tmp_path: Path) -> None:
    """As BERT's tokenizer does; a file full of NUL is UTF-16 or binary."""
    (tmp_path / "a.txt").write_bytes(b"A l\0ine.\n" + b"Another.\n" * 9)
    assert next(open_corpus(f"text:{tmp_path}/a.txt").documents())[0] == "A line."
    (tmp_path / "a.jsonl").write_text('{"text": "A l\\u0000ine."}\n', "utf-8")
    assert list(open_corpus(f"jsonl:{tmp_path}/a.jsonl").documents()) == [["A line."]]
