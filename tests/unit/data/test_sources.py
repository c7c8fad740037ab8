"""Rules common to all sources of a corpus, and the texts generated from their registry."""

from __future__ import annotations

import os
import pickle
import textwrap
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from docs import generated
from pipelines.commands import cli
from pipelines.data.sources import wikipedia
from pipelines.data.sources.files import SpanSource
from pipelines.data.sources.registry import SOURCES, corpus_help, open_source
from pipelines.data.sources.source import Source
from support.commands import invoke, refused
from support.corpora import compressed
from support.row_files import WRITERS

WITH_FILES = [source for source in SOURCES if source.example_file is not None]


def by_scheme(source: type[Source]) -> str:
    return source.scheme


def documents(source: Source, size: int) -> list[list[str]]:
    """Read the documents from pickled pieces, as workers do."""
    groups = [group for group, _ in source.pieces(size)]
    pieces = [pickle.loads(pickle.dumps(piece)) for group in groups for piece in group]  # noqa: S301
    return [document for piece in pieces for document in piece.documents()]


def opened(source: type[Source], folder: Path, copies: int) -> tuple[Source, Path]:
    assert source.example_file is not None
    name, text = source.example_file
    path = folder / name
    if issubclass(source, SpanSource):
        path.write_text(f"{text}\n" * copies, "utf-8")
        return open_source(f"{source.scheme}:{path}"), path
    for number in range(copies):
        path.with_name(f"{number:03}-{name}").write_text(text, "utf-8")
    return open_source(f"{source.scheme}:{folder}/*"), path


def test_schemes_are_unique_and_examples_have_their_form() -> None:
    assert len({source.scheme for source in SOURCES}) == len(SOURCES)
    for source in SOURCES:
        assert source.form.partition(":")[0] == source.scheme
        assert source.example.partition(":")[0] == source.scheme
        assert source.summary


@pytest.mark.parametrize("source", WITH_FILES, ids=by_scheme)
def test_the_size_of_pieces_changes_no_document(source: type[Source], tmp_path: Path) -> None:
    corpus, _ = opened(source, tmp_path, 20)
    expected = documents(corpus, 10**9)
    assert len(expected) >= 20
    assert all(line.strip() == line != "" for document in expected for line in document)
    for size in (1, 50, 500):
        assert documents(corpus, size) == expected
    assert sum(size for _, size in corpus.pieces(50)) == pytest.approx(corpus.size(), rel=0.1)


@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".xz", ".zst"])
@pytest.mark.parametrize(
    "source", [source for source in WITH_FILES if issubclass(source, SpanSource)], ids=by_scheme
)
def test_files_may_be_compressed(source: type[Source], suffix: str, tmp_path: Path) -> None:
    plain, path = opened(source, tmp_path, 200)
    packed = open_source(f"{source.scheme}:{compressed(path, suffix)}")
    assert documents(packed, 500) == documents(plain, 500)


@pytest.mark.parametrize("source", WITH_FILES, ids=by_scheme)
def test_a_changed_file_changes_the_digest(source: type[Source], tmp_path: Path) -> None:
    before = opened(source, tmp_path, 1)[0].files()
    assert opened(source, tmp_path, 1)[0].files() == before
    assert opened(source, tmp_path, 2)[0].files() != before


def test_help_messages_and_documentation_list_every_source() -> None:
    with pytest.raises(BadArgumentsError) as error:
        open_source("wikipedia")
    help_text = " ".join(invoke("prepare", "--help").stdout.split())
    for source in SOURCES:
        for text in (str(error.value), corpus_help(), cli.usage(), generated.commands()):
            assert source.form in text
        assert source.form in help_text
        assert f"`{source.example}`" in generated.sources()


@pytest.mark.parametrize("spec", ["", "text:", "text", "jsonl:", "tfds:", "python-docs:x", "pdf:a"])
def test_an_unknown_form_is_refused(spec: str) -> None:
    with pytest.raises(BadArgumentsError):
        open_source(spec)


FILE_SCHEMES = [*WRITERS, *(s.scheme for s in WITH_FILES if s.scheme not in WRITERS)]


def valid(scheme: str, folder: Path) -> tuple[str, Path]:
    """Write a valid corpus; return its specification and one of its files."""
    if scheme in WRITERS:
        rows = [{"text": f"A story of {number} words.\nIt has two lines."} for number in range(9)]
        return WRITERS[scheme](folder, rows), folder / f"a.{scheme}"
    (source,) = (source for source in SOURCES if source.scheme == scheme)
    opened_source, path = opened(source, folder, 9)
    return opened_source.spec, next(iter(sorted(folder.iterdir()))) if not path.exists() else path


@pytest.mark.parametrize("damage", ["cut", "emptied", "folder", "missing", "pipe"])
@pytest.mark.parametrize("scheme", FILE_SCHEMES)
def test_bad_input_ends_with_one_line_and_leaves_nothing(
    scheme: str, damage: str, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """A cut file of text or rows may end between two documents; then it is a shorter corpus."""
    data, out = tmp_path / "data", tmp_path / "store"
    data.mkdir()
    spec, path = valid(scheme, data)
    content = path.read_bytes()
    if damage in ("cut", "emptied"):
        path.write_bytes(content[: len(content) - 7] if damage == "cut" else b"")
    else:
        path.unlink()
    if damage == "folder":
        path.mkdir()
    if damage == "pipe":
        os.mkfifo(path)
    result = invoke(
        "prepare", "--corpus", spec, "--tokenizer", tokenizer_dir, "--out", out,
        "--workers", "1", "--keep-duplicates", "--held-out", "0",
    )  # fmt: skip
    if result.returncode == 0 and (damage == "cut" or scheme == "files"):
        return
    refused(result, 78)
    assert not out.exists()


def test_a_dump_that_ends_between_two_articles_is_refused(tmp_path: Path) -> None:
    (source,) = (source for source in SOURCES if source.scheme == "wikipedia")
    assert source.example_file is not None
    text = source.example_file[1].removesuffix("</mediawiki>\n")
    (tmp_path / "wiki.xml").write_text(text, "utf-8")
    with pytest.raises(BadInputError, match="</mediawiki>"):
        documents(open_source(f"wikipedia:{tmp_path}/wiki.xml"), 10**9)


@pytest.mark.parametrize(
    ("name", "content", "scheme", "words"),
    [
        ("a.csv", "id,text\n1,A story.\n", "text", "JSON Lines or Parquet"),
        ("a.txt", "A story.\n", "parquet", "text:"),
        ("a.txt", "A story.\n", "tfrecord", "text:"),
        ("a.txt", "A story.\n", "array_record", "text:"),
        ("a.txt", "A story.\n", "warc", "text:"),
        ("a.txt", "A story.\n", "wikipedia", "text:"),
        ("a.txt", "A story.\n", "wikiextractor", "text:"),
    ],
)
def test_another_format_is_named(
    name: str, content: str, scheme: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(BadInputError, match=name) as error:
        documents(open_source(f"{scheme}:{tmp_path}/{name}"), 10**9)
    assert words in str(error.value)


def test_lines_of_a_document_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A story of a well-\nknown cook.\n\nAnother\none.\n", "utf-8")
    source = open_source(f"text:{tmp_path}/a.txt#join")
    assert documents(source, 1) == [["A story of a well-known cook."], ["Another one."]]


def test_markup_of_wikipedia() -> None:
    text = (
        "__NOTOC__ '''A''' [[Re:Zero|show]] of [[B (c)|b]]{{x|y}}.<ref>z</ref>\n"
        "[[File:a.png|thumb|p]]\n* item\n== Head ==\n"
        "[[de:A]] [[Datei:b.png|q]] [[Kategorie:D]] [[:File:e|link]] &amp; more"
    )
    hidden = frozenset({"file", "datei", "kategorie"})
    lines = [line.strip() for line in wikipedia.prose(text, hidden).split("\n") if line.strip()]
    assert lines == ["A show of b.", "link & more"]


def test_titles_of_wikiextractor_may_have_quotes(tmp_path: Path) -> None:
    text = '<doc id="1" url="u" title=""Heroes" (song)">\n"Heroes" (song)\n\nA song.\n</doc>\n'
    (tmp_path / "wiki_00").write_text(text, "utf-8")
    assert documents(open_source(f"wikiextractor:{tmp_path}/wiki_00"), 1) == [["A song."]]


def test_the_type_of_a_web_page_may_have_parameters(tmp_path: Path) -> None:
    (source,) = (source for source in SOURCES if source.scheme == "warc")
    assert source.example_file is not None
    text = source.example_file[1].replace("text/plain", "Text/Plain; charset=utf-8")
    (tmp_path / "a.wet").write_text(text, "utf-8", newline="")
    assert len(documents(open_source(f"warc:{tmp_path}/a.wet"), 1)) == 1


def test_one_long_line_does_not_hide_that_lines_are_wrapped(tmp_path: Path) -> None:
    lines = textwrap.wrap("The old cook of the ship carries some bread to the captain. " * 40, 70)
    (tmp_path / "a.txt").write_text("\n".join([*lines, "", "u" * 300, "v", ""]), "utf-8")
    ((first, *_),) = documents(open_source(f"files:{tmp_path}/a.txt"), 1)
    assert len(first) > 2000
