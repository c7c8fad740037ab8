"""The formats that people have: small real files, written by the programs that people use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.corpora import open_corpus
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from support.commands import ROOT, invoke, refused

FORMATS = ROOT.parent / "shared/data/formats"
pytestmark = pytest.mark.skipif(not FORMATS.is_dir(), reason="shared/data/formats is not here")

WIKIPEDIA = f"{FORMATS}/tfds/tfrecord/wikipedia/20230601.en/1.0.0"
CONVERTED = f"{FORMATS}/tfds/tfrecord_and_array_record/wikipedia/20230601.en/1.0.0"
SST2 = f"{FORMATS}/tfds/tfrecord/glue/sst2/2.0.0"


def reference() -> list[list[str]]:
    text = (FORMATS / "reference.txt").read_text("utf-8")
    return [part.split("\n") for part in text.strip().split("\n\n")]


def documents(spec: str) -> list[list[str]]:
    return list(open_corpus(spec).documents())


@pytest.mark.parametrize(
    "spec",
    [
        f"parquet:{FORMATS}/parquet/fineweb/data/*.parquet",
        f"arrow:{FORMATS}/arrow/saved_dataset",
        f"arrow:{FORMATS}/arrow/saved_dataset_dict:train#text",
    ],
)
def test_sixty_documents_in_order(spec: str) -> None:
    assert documents(spec) == reference()


@pytest.mark.parametrize(
    "spec",
    [
        f"wikiextractor:{FORMATS}/wikiextractor/*/wiki_*",
        f"jsonl:{FORMATS}/wikiextractor_json/*/wiki_*.bz2",
        f"warc:{FORMATS}/*.warc.wet.gz",
        f"files:{FORMATS}/books/*.txt",
    ],
)
def test_the_first_twenty_documents(spec: str) -> None:
    assert documents(spec) == reference()[:20]


def test_rows_of_two_shards() -> None:
    shards = documents(f"parquet:{FORMATS}/parquet/wikipedia/20231101.en/*.parquet")
    assert shards == reference()[0::2] + reference()[1::2]


def test_articles_of_a_dump() -> None:
    """The title in bold is the beginning of the text; lists and references are no passages."""
    articles = documents(f"wikipedia:{FORMATS}/*.xml.bz2")
    for number, article in enumerate(articles):
        article[0] = article[0].removeprefix(f"A{number} ")
    assert articles == reference()[:18]


def test_hard_wrapped_lines_are_joined() -> None:
    """Nothing but blank lines separates the ten documents of this file, so they are one."""
    lines = [line for document in reference()[:10] for line in document]
    assert documents(f"files:{FORMATS}/hard_wrapped.txt") == [lines]
    kept = documents(f"files:{FORMATS}/hard_wrapped.txt#keep")[0]
    assert len(kept) > 2 * len(lines)


def test_data_sets_of_tensorflow_in_two_formats_are_equal() -> None:
    articles = documents(f"tfds:{WIKIPEDIA}")
    assert len(articles) == 60
    for spec in (
        f"tfds:{CONVERTED}:train#text",
        f"tfrecord:{WIKIPEDIA}/*.tfrecord-*",
        f"array_record:{CONVERTED}/*.array_record-*#text",
    ):
        assert documents(spec) == articles
    assert len(documents(f"tfds:{SST2}:validation#sentence")) == 200
    assert len(documents(f"tfds:{SST2}:train[:10%]#sentence")) == 20


def test_rows_that_a_writer_lost_are_noticed() -> None:
    with pytest.raises(BadInputError, match=r"500 of the 1,500 rows"):
        documents(f"tfds:{FORMATS}/tfds/parquet/glue/sst2/2.0.0#sentence")


@pytest.mark.parametrize(
    ("files", "scheme"),
    [
        ("parquet/fineweb/data/*.parquet", "parquet"),
        ("arrow/saved_dataset/*.arrow", "arrow"),
        ("enwiki-sample-pages-articles.xml.bz2", "wikipedia"),
        ("wikiextractor/AA/wiki_00", "wikiextractor"),
        ("wikiextractor_json/AA/wiki_00.bz2", "jsonl"),
        ("CC-MAIN-sample.warc.wet.gz", "warc"),
        ("three_bad_rows.jsonl", "jsonl"),
        ("finetune/array.json", "json"),
        (f"{WIKIPEDIA}/*.tfrecord-*", "tfrecord"),
        (f"{CONVERTED}/*.array_record-*", "array_record"),
    ],
)
def test_other_formats_are_not_read_as_text(files: str, scheme: str) -> None:
    with pytest.raises(BadInputError, match=f"'{scheme}:"):
        documents(f"text:{FORMATS / files}")


def test_bad_rows(tokenizer_dir: Path, tmp_path: Path) -> None:
    corpus = f"jsonl:{FORMATS}/three_bad_rows.jsonl"
    base = ("prepare", "--corpus", corpus, "--tokenizer", tokenizer_dir, "--workers", "1")
    refused(invoke(*base, "--out", tmp_path / "a"), 78, "line 31", "null")
    assert not (tmp_path / "a").exists()
    skip = (*base, "--out", tmp_path / "b", "--bad-rows", "skip")
    refused(invoke(*skip), 78, "2 of 60", "--max-bad 0.001")
    assert invoke(*skip, "--max-bad", "0.05").returncode == 0
    card = json.loads((tmp_path / "b/card.json").read_text("utf-8"))
    assert sum(split["documents"] for split in card["splits"].values()) == 58
    assert [row.split(":")[0][-7:] for row in card["bad_rows"]] == ["line 31", "line 41"]
    refused(invoke(*base, "--out", tmp_path / "c", "--max-bad", "0.1"), 64, "--bad-rows skip")


def test_one_sentence_per_row_is_reported(tokenizer_dir: Path, tmp_path: Path) -> None:
    spec = f"jsonl:{FORMATS}/sentence_per_row.jsonl"
    prepare([spec], tokenizer_dir, tmp_path / "a", 0.02)
    card = json.loads((tmp_path / "a/card.json").read_text("utf-8"))
    assert "next sentence prediction" in card["warnings"][0]


def test_books_that_are_read_as_text_are_reported(tokenizer_dir: Path, tmp_path: Path) -> None:
    prepare([f"text:{FORMATS}/books/*.txt"], tokenizer_dir, tmp_path / "a", 0.02)
    card = json.loads((tmp_path / "a/card.json").read_text("utf-8"))
    assert any("files:GLOB" in warning for warning in card["warnings"])
    prepare([f"files:{FORMATS}/books/*.txt"], tokenizer_dir, tmp_path / "b", 0.02)
    assert Store(tmp_path / "b").ledger.counts["read"] == 20


def test_splits_and_folders_of_data_sets() -> None:
    assert len(documents(f"tfds:{SST2}:train[:10%]+validation#sentence")) == 220
    with pytest.raises(BadInputError, match=SST2):
        documents(f"tfds:{Path(SST2).parents[1]}:train#sentence")
