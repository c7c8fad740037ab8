"""The token store: its content, and the detection of damage."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.errors import BadInputError
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.sources import corpora
from pipelines.data.store import card
from pipelines.data.store import token_store as stores
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.vocabulary import train_vocabulary
from support.commands import invoke, refused
from support.corpora import write_corpus


@pytest.fixture
def copy(store_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_dir, tmp_path / "copy"))


def test_the_store_contains_the_corpus(store: Store, corpus: Path) -> None:
    documents = [text.splitlines() for text in corpus.read_text("utf-8").split("\n\n")]
    ledger = store.ledger
    assert sum(ledger.total(split, "documents") for split in stores.SPLITS) == len(documents)
    assert sum(ledger.total(s, "sentences") for s in stores.SPLITS) == sum(map(len, documents))
    split = store.split("train")
    begin, end = split.sentence_offsets[split.document_offsets[[0, 1]]]
    tokens = split.gather(np.array([begin]), np.array([end - begin]))
    text = store.tokenizer.decode(tokens)
    assert text in {" ".join(document).lower() for document in documents}


def test_shards_are_one_sequence(
    corpus: Path, tokenizer_dir: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_BLOCK_BYTES", (4000, 4000))
    prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "small", 0.1)
    small = Store(tmp_path / "small")
    assert len(small.ledger.splits["train"]) > 3
    one, many = store.split("train"), small.split("train")
    assert np.array_equal(one.sentence_offsets, many.sentence_offsets)
    assert np.array_equal(one.document_offsets, many.document_offsets)
    starts = one.sentence_offsets[:-1]
    lengths = np.diff(one.sentence_offsets)
    order = np.random.default_rng(0).permutation(len(starts))
    assert np.array_equal(
        one.gather(starts[order], lengths[order]), many.gather(starts[order], lengths[order])
    )


def test_two_bytes_a_token(store: Store, store_dir: Path) -> None:
    tokens = sum(store.ledger.total(split, "tokens") for split in stores.SPLITS)
    size = sum(path.stat().st_size for path in store_dir.glob("*.npy"))
    assert store.split("train")._tokens[0].dtype == np.uint16
    assert size / tokens < 2.6  # the sentences of this grammar are short
    assert stores.token_dtype(65_536) == np.uint16
    assert stores.token_dtype(65_537) == np.uint32


def test_preparing_again_finds_the_work_done_and_refuses_other_work(
    corpus: Path, tokenizer_dir: Path, store_dir: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in store_dir.rglob("*")}
    arguments = ("--corpus", f"text:{corpus}", "--tokenizer", tokenizer_dir, "--out", store_dir)
    repeated = invoke("prepare", *arguments, "--held-out", "0.1")
    assert repeated.returncode == 0
    assert "already exists" in repeated.stderr
    refused(invoke("prepare", *arguments, "--held-out", "0.2"), 78, "0.1", "0.2")
    train_vocabulary("bpe", ["some other words", "to learn from"], 30, True).save(tmp_path)
    other = ("--corpus", f"text:{corpus}", "--tokenizer", tmp_path, "--out", store_dir)
    refused(invoke("prepare", *other, "--held-out", "0.1"), 78, "tokenizer")
    assert before == {path: path.stat().st_mtime_ns for path in store_dir.rglob("*")}


def test_an_unfinished_store_is_none(copy: Path) -> None:
    (copy / stores.LEDGER).unlink()
    (copy / stores.WORK).mkdir()
    with pytest.raises(BadInputError, match="not a finished token store"):
        Store(copy)


def test_held_out_documents_are_chosen_by_their_text(
    tokenizer_dir: Path, corpus: Path, tmp_path: Path
) -> None:
    doubled = tmp_path / "doubled.txt"
    doubled.write_text("\n\n".join([corpus.read_text("utf-8")] * 2), "utf-8")
    one = prepare([f"text:{corpus}"], tokenizer_dir, tmp_path / "one", 0.3)
    two = prepare([f"text:{doubled}"], tokenizer_dir, tmp_path / "two", 0.3, deduplicate=False)
    for split in stores.SPLITS:
        assert two.total(split, "documents") == 2 * one.total(split, "documents")
        assert one.total(split, "documents") > 10


@pytest.mark.parametrize("part", stores.PARTS)
def test_a_changed_bit_a_cut_and_a_missing_file_are_noticed(copy: Path, part: str) -> None:
    path = copy / f"train-00-00000.{part}.npy"
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-3] ^= 4
    path.write_bytes(changed)
    with pytest.raises(BadInputError, match=path.name):
        Store(copy).verify("train")
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(BadInputError, match=path.name):
        Store(copy).split("train")
    path.write_bytes(b"")
    with pytest.raises(BadInputError, match=path.name):
        Store(copy).split("train")
    path.unlink()
    with pytest.raises(BadInputError, match=path.name):
        Store(copy).split("train")


def test_a_store_without_a_ledger_is_refused_with_the_remedy(copy: Path) -> None:
    """Preparing it again would be refused, because nothing marks the folder as a store."""
    (copy / "ledger.json").unlink()
    with pytest.raises(BadInputError, match=r"lost ledger\.json; remove the store and prepare"):
        Store(copy)


# Up to Python 3.12 JSON reads some hundreds of levels that it cannot write, for the digest.
written = pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 writes 600 levels")


@pytest.mark.parametrize("depth", [pytest.param(600, marks=written), 100_000])
def test_a_ledger_that_is_too_deep_is_refused(copy: Path, depth: int) -> None:
    ledger = json.loads((copy / stores.LEDGER).read_text("utf-8"))
    text = json.dumps(ledger | {"files": 0})
    deep = text.replace('"files": 0', f'"files": {"[" * depth}{"]" * depth}')
    (copy / stores.LEDGER).write_text(deep, "utf-8")
    with pytest.raises(BadInputError, match=r"ledger\.json is damaged .*; remove the store"):
        stores.read_ledger(copy)


def test_a_ledger_that_does_not_fit_is_refused(copy: Path) -> None:
    ledger = json.loads((copy / stores.LEDGER).read_text("utf-8"))

    def write(**changes: object) -> None:
        (copy / stores.LEDGER).write_text(json.dumps(ledger | changes))

    write(format=99)
    with pytest.raises(BadInputError, match="format 99"):
        Store(copy)
    write(splits={"train": [{"name": "x"}]})
    with pytest.raises(BadInputError, match="damaged"):
        Store(copy)
    write(tokenizer="0" * 64)
    with pytest.raises(BadInputError, match="tokenizer"):
        _ = Store(copy).tokenizer
    (copy / stores.LEDGER).write_text(json.dumps(ledger)[:100])
    with pytest.raises(BadInputError, match="damaged"):
        Store(copy)


def test_an_id_outside_of_the_vocabulary_is_noticed(copy: Path) -> None:
    ledger = json.loads((copy / stores.LEDGER).read_text("utf-8"))
    path = copy / "train-00-00000.tokens.npy"
    tokens = np.load(path)
    tokens[-1] = ledger["vocab_size"]
    np.save(path, tokens)
    ledger["splits"]["train"][0]["sha256"]["tokens"] = stores.sha256(path)
    (copy / stores.LEDGER).write_text(json.dumps(ledger))
    with pytest.raises(BadInputError, match=str(ledger["vocab_size"])):
        Store(copy).verify("train")


def test_nothing_is_written_into_a_folder_with_other_files(
    corpus: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "train-images.npy").write_bytes(b"mine")
    source = ("--corpus", f"text:{corpus}")
    prepared = ("prepare", *source, "--tokenizer", tokenizer_dir, "--out")
    learned = ("train-tokenizer", *source, "--vocab-size", "60", "--out")
    for command in (prepared, learned):
        refused(invoke(*command, tmp_path), 78, "train-images.npy", "other files")
        refused(invoke(*command, tmp_path / "train-images.npy"), 78, "file")
        refused(invoke(*command, ""), 64, "--out")
    refused(invoke(*prepared, "gs://bucket/x"), 64, "--scratch")
    refused(invoke(*learned, "gs://bucket/x"), 78, "local")
    assert [path.name for path in tmp_path.iterdir()] == ["train-images.npy"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\n\n \n", ["empty"]),
        (b"Only one document.\nWith two sentences.\n", ["1 document", "two"]),
        ("Ein schöner Tag.\n".encode("latin-1"), ["UTF-8", "0xf6", "line 1", "iconv"]),
    ],
)
def test_a_corpus_without_use_is_refused(
    tokenizer_dir: Path, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    corpus = ("--corpus", f"text:{tmp_path}/text.txt", "--tokenizer", tokenizer_dir)
    refused(invoke("prepare", *corpus, "--out", tmp_path / "store", "--held-out", "0"), 78, *words)
    assert not (tmp_path / "store").exists()


def test_wrong_arguments_of_prepare(tokenizer_dir: Path, tmp_path: Path) -> None:
    rest = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "s")
    refused(invoke("prepare", "--corpus", "text:/nowhere/*.txt", *rest), 78, "/nowhere/*.txt")
    refused(invoke("prepare", "--corpus", "wikipedia", *rest), 64, "'wikipedia'", "text:GLOB")
    text = write_corpus(tmp_path / "t.txt", 4)
    corpus = ("--corpus", f"text:{text}", "--out", tmp_path / "s")
    refused(invoke("prepare", *corpus, "--tokenizer", tmp_path), 78, "vocab.txt")
    refused(invoke("prepare", *corpus, *rest[:2], "--held-out", "1.5"), 64, "--held-out")


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_store_with_a_damaged_tokenizer_is_refused_with_the_remedy(
    store_dir: Path, tmp_path: Path, damage: bytes | None
) -> None:
    folder = Path(shutil.copytree(store_dir, tmp_path / "store"))
    file = folder / "tokenizer" / "sentencepiece.model"
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(BadInputError, match="remove the store and prepare it again"):
        Store(folder).verify_all()


def changed_ledger(copy: Path, **values: object) -> None:
    """Put values into the ledger, or into its first shard."""
    path = copy / stores.LEDGER
    ledger = json.loads(path.read_text("utf-8"))
    shard = ledger["splits"]["train"][0]
    for name, value in values.items():
        (shard if name in shard else ledger)[name] = value
    path.write_text(json.dumps(ledger), "utf-8")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "../../elsewhere"),
        ("name", "/etc/passwd"),
        ("name", 3),
        ("sha256", {}),
        ("sha256", {"tokens": "", "sentences": "", "documents": "", "../x": ""}),
        ("tokens", -1),
        ("tokens", 10**30),
        ("documents", 1.5),
        ("vocab_size", "70"),
        ("corpus", None),
        ("counts", {"read": float("nan")}),
        ("counts", {"read": 80}),
    ],
)
def test_a_hostile_ledger_is_refused(copy: Path, name: str, value: object) -> None:
    changed_ledger(copy, **{name: value})
    with pytest.raises(BadInputError, match=r"ledger\.json is damaged .*; remove the store"):
        Store(copy)


def test_a_deep_ledger_is_refused(copy: Path) -> None:
    (copy / stores.LEDGER).write_text("[" * 100_000)
    with pytest.raises(BadInputError, match=r"ledger\.json is damaged"):
        Store(copy)


def npy(descr: str, shape: str) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'<u2'", f"({2**62},)"),
        ("'<u2'", f"({10**30},)"),
        ("'|O'", "(3,)"),
        ("[" * 60, "(3,)"),
        ("'<U0'", f"({2**60},)"),
        ("__import__('os').getpid()", "(3,)"),
        ("'<f4'", "(0,)"),
    ],
)
def test_a_lying_header_is_refused(copy: Path, descr: str, shape: str) -> None:
    (copy / "train-00-00000.sentences.npy").write_bytes(npy(descr, shape))
    with pytest.raises(BadInputError, match=r"sentences\.npy .*; remove the store and prepare"):
        Store(copy).split("train")


@pytest.mark.parametrize("part", ["sentences", "documents"])
def test_empty_sentences_and_documents_are_refused(copy: Path, part: str) -> None:
    path = copy / f"train-00-00000.{part}.npy"
    sizes = np.load(path)
    sizes[:2] = 0, sizes[:2].sum()
    np.save(path, sizes)
    with pytest.raises(BadInputError, match="do not match ledger"):
        Store(copy).split("train")


def test_an_id_that_no_one_verified_is_refused_in_a_batch(copy: Path) -> None:
    path = copy / "train-00-00000.tokens.npy"
    np.save(path, np.full_like(np.load(path), 65_000))
    config = RunConfig(run_dir="x", phases=(Phase(length=32, steps=1, batch_size=2),))
    with pytest.raises(BadInputError, match="contain the id 65000, but the vocabulary"):
        PretrainingData(Store(copy), config).batch_at(0)


def test_a_pipe_is_not_waited_for(copy: Path) -> None:
    path = copy / "train-00-00000.tokens.npy"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadInputError, match="pipe or device"):
        Store(copy).split("train")


def test_a_card_escapes_markdown() -> None:
    text = card.escaped("text:*.txt <script>\n\n# [x](y) | &lt; ~~~ `a` \x1b[2J")
    assert text == (r"text:\*.txt \<script\> \# \[x\](y) \| \&lt; \~\~\~ \`a\` \\x1b\[2J")
