"""Training, saving and loading tokenizers."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from bert_jax.runtime.errors import BadArgumentsError, BadInputError, DeviceUnavailableError
from pipelines.data.tokenizers import record as records
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import SPECIALS
from pipelines.data.tokenizers.vocabulary import Kind, train_vocabulary
from pipelines.folders import exclusive
from support.commands import ROOT, invoke, refused

KINDS: tuple[Kind, ...] = ("unigram", "bpe", "wordpiece")
SHARED = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module")
def sentences(corpus: Path) -> list[str]:
    return [line for line in corpus.read_text("utf-8").splitlines() if line]


@pytest.mark.parametrize("uncased", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_reproducible_and_survives_saving(
    kind: Kind, uncased: bool, sentences: list[str], tmp_path: Path
) -> None:
    tokenizer = train_vocabulary(kind, sentences, 70, uncased)
    assert train_vocabulary(kind, sentences, 70, uncased).digest == tokenizer.digest
    assert tokenizer.vocab_size == 70
    assert tokenizer.pieces[:5] == list(SPECIALS)
    tokenizer.save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    assert loaded.digest == tokenizer.digest
    assert loaded.encode(sentences) == tokenizer.encode(sentences)
    text = sentences[0].lower() if uncased else sentences[0]
    assert loaded.decode(loaded.encode([sentences[0]])[0]).replace(" .", ".") == text
    starts = loaded.word_starts()
    ids = loaded.encode([sentences[0]])[0]
    words = len(sentences[0].replace(".", " .").split())
    assert starts[np.array(ids)].sum() == words


def test_wordpiece_cuts_as_bert_does() -> None:
    pieces = [*SPECIALS, "un", "##aff", "##able", "hello", "!", "new", "york", "中", "##s"]
    tokenizer = tokenizers.WordPieceTokenizer(pieces, uncased=True)

    def cut(text: str) -> list[str]:
        return [tokenizer.pieces[i] for i in tokenizer.encode([text])[0]]

    assert cut("unaffable") == ["un", "##aff", "##able"]
    assert cut("HÉLLO!") == ["hello", "!"]
    assert cut("中york") == ["中", "york"]
    assert cut("unaffablex") == ["[UNK]"]
    assert cut("new\u00a0york\u200d\x00\ufffd") == ["new", "york"]
    assert cut("york" + "s" * 196) == ["york", *["##s"] * 196]
    assert cut("york" + "s" * 197) == ["[UNK]"]
    assert not set(tokenizer.encode(["[MASK] [CLS]"])[0]) & {tokenizer.mask_id, tokenizer.cls_id}


@pytest.mark.parametrize("casing", ["uncased", "cased"])
def test_the_published_vocabularies_load_as_they_are(casing: str, tmp_path: Path) -> None:
    published = SHARED / "vocab" / f"bert-base-{casing}-vocab.txt"
    if not published.is_file():
        pytest.skip(f"{published} is not on this machine")
    (tmp_path / "vocab.txt").write_bytes(published.read_bytes())
    tokenizer = tokenizers.load(tmp_path)
    assert isinstance(tokenizer, tokenizers.WordPieceTokenizer)
    assert tokenizer.uncased == (casing == "uncased")
    assert tokenizer.vocab_size == {"uncased": 30_522, "cased": 28_996}[casing]
    assert (tokenizer.cls_id, tokenizer.mask_id) == (101, 103)
    assert tokenizer.decode(tokenizer.encode(["unaffable people"])[0]) == "unaffable people"


@pytest.mark.parametrize("kind", KINDS)
def test_the_word_mask_becomes_the_mask_token(kind: Kind, sentences: list[str]) -> None:
    tokenizer = train_vocabulary(kind, sentences, 70, uncased=True)
    ids = tokenizer.encode_masked("the captain [MASK] a lamp [MASK].")
    assert ids.count(tokenizer.mask_id) == 2
    (plain,) = tokenizer.encode(["the captain"])
    assert ids[: len(plain)] == plain
    if kind == "unigram":
        # No word boundary between the mask and the full stop.
        assert [tokenizer.pieces[i] for i in ids[-2:]] == ["[MASK]", "."]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_cannot_be_is_refused(kind: Kind, sentences: list[str]) -> None:
    with pytest.raises(BadArgumentsError, match="special"):
        train_vocabulary(kind, sentences, 5, uncased=True)
    with pytest.raises(BadInputError, match="at most"):
        train_vocabulary(kind, sentences, 50_000, uncased=True)
    with pytest.raises(BadInputError, match=r"at least|larger than"):
        train_vocabulary(kind, sentences, 8, uncased=True)
    with pytest.raises(BadInputError, match="empty"):
        train_vocabulary(kind, [], 100, uncased=True)


def test_an_error_in_the_text_is_not_swallowed_by_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Gute Nacht.\nGrüße.\n".encode("latin-1"))
    result = invoke(
        "train-tokenizer", "--corpus", f"text:{tmp_path}/latin.txt", "--vocab-size", "60",
        "--out", tmp_path / "tokenizer",
    )  # fmt: skip
    refused(result, 78, "latin.txt", "UTF-8", "line 2")
    assert not (tmp_path / "tokenizer").exists()


def test_training_again_finds_the_work_done(corpus: Path, tmp_path: Path) -> None:
    arguments = ("train-tokenizer", "--corpus", f"text:{corpus}", "--out", tmp_path / "t")
    assert invoke(*arguments, "--vocab-size", "70", "--kind", "wordpiece").returncode == 0
    repeated = invoke(*arguments, "--vocab-size", "70", "--kind", "wordpiece")
    assert repeated.returncode == 0
    assert "already exists" in repeated.stderr
    refused(invoke(*arguments, "--vocab-size", "70", "--cased"), 78, "uncased", "--out")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vocab.txt", "[PAD]\n[UNK]\nhello\n", "CLS"),
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "lines 6 and 7 .*'a'"),
        ("vocab.txt", b"\xff\xfe", "vocab.txt"),
        ("sentencepiece.model", b"not a model", "sentencepiece.model"),
        ("other.txt", "", "neither"),
    ],
)
def test_a_damaged_tokenizer_is_refused(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInputError, match=words):
        tokenizers.load(tmp_path)


def test_a_sentencepiece_model_that_makes_no_text_of_text_is_refused(
    sentences: list[str], tmp_path: Path
) -> None:
    """Its pieces are valid, the replacement of a ligature is not."""
    train_vocabulary("unigram", sentences, 70, uncased=True).save(tmp_path)
    file = tmp_path / tokenizers.SENTENCEPIECE_FILE
    whole = file.read_bytes()
    damaged = whole.replace(b"\0fi\0fl\0", b"\0\xe6i\0fl\0")
    assert damaged != whole
    file.write_bytes(damaged)
    with pytest.raises(BadInputError, match=r"sentencepiece\.model is damaged; restore it"):
        tokenizers.load(tmp_path).encode_with_offsets(["\ufb01"])


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
def test_a_changed_bit_of_a_trained_tokenizer_is_refused(
    corpus: Path, tmp_path: Path, kind: str
) -> None:
    """The vocabulary is still valid, but another one."""
    base = ("train-tokenizer", "--corpus", f"text:{corpus}", "--out", tmp_path / "t")
    arguments = (*base, "--vocab-size", "70", "--kind", kind)
    assert invoke(*arguments).returncode == 0
    whole = tokenizers.load(tmp_path / "t")
    name = tokenizers.SENTENCEPIECE_FILE if kind == "sentencepiece" else tokenizers.VOCAB_FILE
    file = tmp_path / "t" / name
    content = file.read_bytes()
    offset = content.index(whole.pieces[-1].encode()) + len(whole.pieces[-1].encode()) - 1
    file.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
    with pytest.raises(BadInputError, match=r"remove .* and train it again"):
        tokenizers.load(tmp_path / "t")
    refused(invoke(*arguments), 78, "remove", "train it again")
    file.unlink()
    refused(invoke(*arguments), 78, "neither", "train it again")
    shutil.rmtree(tmp_path / "t")
    assert invoke(*arguments).returncode == 0
    assert tokenizers.load(tmp_path / "t").digest == whole.digest


def test_two_processes_do_not_write_to_one_tokenizer(tokenizer_dir: Path, tmp_path: Path) -> None:
    tokenizer, out = tokenizers.load(tokenizer_dir), tmp_path / "t"
    draft = tmp_path / "t.tmp"
    draft.mkdir()
    with exclusive(draft), pytest.raises(DeviceUnavailableError, match="another process"):
        records.write(tokenizer, out, {"corpus": "text:a"})
    for _ in range(2):  # the second call finds the tokenizer of another process
        records.write(tokenizer, out, {"corpus": "text:a"})
    assert not draft.exists()
    assert tokenizers.load(out).digest == tokenizer.digest


def test_another_process_may_finish_the_tokenizer_that_this_one_is_about_to_write(
    tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, out, record = tokenizers.load(tokenizer_dir), tmp_path / "t", {"corpus": "text:a"}

    def late(draft: Path) -> AbstractContextManager[None]:
        monkeypatch.undo()
        records.write(tokenizer, out, record)  # what the other one does
        return exclusive(draft)

    monkeypatch.setattr(records, "exclusive", late)
    records.write(tokenizer, out, record)
    assert tokenizers.load(out).digest == tokenizer.digest
    assert list(tmp_path.iterdir()) == [out]
