"""Token ids are those of transformers for 10,000 lines of real text in hundreds of languages."""

from __future__ import annotations

import json
import lzma
import os
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as RustTokenizer

from pipelines.data.tokenizers.export import export
from pipelines.data.tokenizers.tokenizer import JSON_FILE, WordPieceTokenizer, load
from pipelines.data.tokenizers.vocabulary import Kind, train_vocabulary
from support.commands import ROOT

transformers = pytest.importorskip("transformers")

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))
TEXT = DATA / "pretrain" / "wiki_books_01.txt.xz"
RIGHTS = DATA / "udhr" / "udhr.tar.xz"

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in (TEXT, RIGHTS, DATA / "xquad", DATA / "vocab")),
    reason=f"{DATA} has no pretrain/, udhr/, xquad/ and vocab/: real text is not on this machine",
)

# One character of each class that normalizers treat differently; tests combine all pairs.
ODD = [
    *"aZ9.▁é中ß\u0130\u017fς\u0149\u01c5가한\ufb01½①\u2163㎏ª¨\U0001d518𠀀",  # letters
    *"\u0301\u0323\u0338\u0345\u3099\u05b8\u0651\u093c\u0e33\u09be\u11a8",  # that join to others
    *"\uff21\uff76\uff9e\uffa1",  # full and half width
    *"👍☝🏽👩🇩🇪\u200d\ufe0f❤",  # emoji and their parts
    *"\t\n\x0b\x85\u00a0\u1680\u2003\u2028\u200b\u202f\u3000\ufeff ",  # spaces
    *"\x00\x01\x1c\x7f\x9f\u00ad\u200c\u200e\u2060\ufffd\ufff9\ue000",  # controls
    *"!-_'«。、؟$^`|~©",  # punctuation and symbols
]


def rights() -> list[str]:
    lines = []
    with tarfile.open(RIGHTS) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.endswith(".txt"):
                text = file.read().decode("utf-8")
                lines += [line for line in text.split("\n") if line.strip()][:14]
    return lines


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Return real lines of about 400 files in all scripts, and odd ones."""
    with lzma.open(TEXT) as file:
        english = file.read(2_000_000).decode("utf-8", "ignore").split("\n")
    texts = [*rights(), *english[:3600]]
    for questions in sorted((DATA / "xquad").glob("xquad.*.json")):
        for article in json.loads(questions.read_text("utf-8"))["data"][:20]:
            texts += [paragraph["context"] for paragraph in article["paragraphs"]]
    texts += [f"lamp{a}{b} {b}x" for a in ODD for b in ODD]
    texts += [f"{a}x {'long' * 30}" for a in ODD]
    assert len(texts) > 10_000
    return texts


@pytest.fixture(scope="module", params=["uncased", "cased"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a vocabulary of google-research/bert."""
    folder = tmp_path_factory.mktemp(request.param)
    vocabulary = DATA / "vocab" / f"bert-base-{request.param}-vocab.txt"
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
    return folder


def batch(opened: Callable) -> Callable[[list[str]], list[list[int]]]:
    return lambda texts: opened(texts, add_special_tokens=False, verbose=False)["input_ids"]


def longest_word(tokenizer: WordPieceTokenizer, line: str) -> int:
    return max(map(len, tokenizer.words(line)), default=0)


def composed(line: str) -> str:
    """Compose letters with their accents, as the tokenizer of transformers in Python does."""
    dropped = {c for c in set(line) - set("\t\n\r") if unicodedata.category(c)[0] == "C"}
    kept = (c for c in line if c not in dropped and c != "\ufffd")
    return unicodedata.normalize("NFC", "".join(kept))


@pytest.mark.parametrize("implementation", ["rust", "exported", "python"])
def test_wordpiece_is_as_in_transformers(
    published: Path, implementation: str, lines: list[str], tmp_path: Path
) -> None:
    tokenizer = load(published)
    assert isinstance(tokenizer, WordPieceTokenizer)
    uncased = tokenizer.uncased
    vocabulary = {piece: number for number, piece in enumerate(tokenizer.pieces)}
    if implementation == "rust":
        theirs = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=uncased)
    elif implementation == "exported":
        export(tokenizer, tmp_path, 512)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert type(theirs) is transformers.BertTokenizer
        assert theirs.model_max_length == 512
    else:
        from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

        theirs = BertTokenizerLegacy(published / "vocab.txt", do_lower_case=uncased)
    if implementation == "python":
        lines = [composed(line) for line in lines]
    expected = batch(theirs)(lines)
    ours = tokenizer.encode(lines)
    different = [line for line, a, b in zip(lines, ours, expected, strict=True) if a != b]
    # BERT reads words of up to 200 characters, transformers of up to 100.
    assert all(100 < longest_word(tokenizer, line) <= 200 for line in different)
    assert different
    short = WordPieceTokenizer(tokenizer.pieces, uncased, max_word=100)
    assert short.encode(lines) == expected


def test_only_the_tokenizers_library_reads_words_of_200_characters(
    published: Path, tmp_path: Path
) -> None:
    tokenizer = load(published)
    export(tokenizer, tmp_path, 512)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    file = RustTokenizer.from_file(str(tmp_path / JSON_FILE))
    for length, is_known in ((100, True), (101, False), (200, False)):
        (ours,) = tokenizer.encode(["a" * length])
        assert tokenizer.unk_id not in ours
        assert (batch(theirs)(["a" * length]) == [ours]) == is_known
        assert file.encode("a" * length, add_special_tokens=False).ids == ours
    assert tokenizer.encode(["a" * 201]) == [[tokenizer.unk_id]]


@pytest.mark.parametrize(
    "options",
    [{"strip_accents": False}, {"split_cjk": False}, {"max_word": 100}],
    ids=str,
)
def test_options_are_as_in_transformers(
    published: Path, options: dict[str, Any], lines: list[str], tmp_path: Path
) -> None:
    plain = load(published)
    assert isinstance(plain, WordPieceTokenizer)
    tokenizer = WordPieceTokenizer(plain.pieces, plain.uncased, **options)
    export(tokenizer, tmp_path, 512)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    short = [line for line in lines if longest_word(tokenizer, line) <= 100][::3]
    assert tokenizer.encode(short) == batch(theirs)(short)
    # Files that transformers writes can be read as well.
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    assert again.encode(short) == tokenizer.encode(short)
    assert again.pieces == tokenizer.pieces


@pytest.mark.parametrize("uncased", [True, False])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_an_exported_sentencepiece_model_is_as_in_transformers(
    kind: Kind, uncased: bool, lines: list[str], tmp_path: Path
) -> None:
    tokenizer = train_vocabulary(kind, lines[:9000:3], 6000, uncased)
    export(tokenizer, tmp_path, 512)
    assert load(tmp_path).digest == tokenizer.digest
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == 512
    assert theirs.convert_tokens_to_ids(theirs.mask_token) == tokenizer.mask_id
    masked = [" [MASK]".join(line.split(" ", 2)) for line in lines[:9000:10]]
    ours = tokenizer.encode(lines) + [tokenizer.encode_masked(line) for line in masked]
    for a, b in zip(ours, batch(theirs)(lines + masked), strict=True):
        if a != b:
            assert kind == "unigram"
            assert_tied(theirs, a, b)


def assert_tied(theirs: object, a: list[int], b: list[int]) -> None:
    """Assert that two segmentations of a text have the same score in single precision.

    SentencePiece adds the scores in single precision, the tokenizers library in double.
    """
    scores = json.loads(theirs.backend_tokenizer.to_str())["model"]["vocab"]  # type: ignore[attr-defined]
    text, other = ("".join(scores[i][0] for i in ids) for ids in (a, b))
    assert text == other
    ours, others = (np.cumsum([scores[i][1] for i in ids]) for ids in (a, b))
    rounding = np.spacing(np.abs(ours).astype(np.float32)).sum()
    assert abs(ours[-1] - others[-1]) <= rounding
