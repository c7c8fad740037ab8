"""Extractive summaries: documents to rows, rows to sentences, sentences to ROUGE."""

from __future__ import annotations

import json
import lzma
import math
import string
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.summarization.rouge import ORACLE_SENTENCES, oracle, rouge, words
from pipelines.tasks.summarization.task import Example, Summarization, SummarizationOptions
from pipelines.tasks.task import Columns, Features
from support.commands import ROOT
from support.real_text import TEXT, VOCABULARY

TINY = ROOT / "tests/golden" / "tf1"
STORE = ("the man and the store.", "milk in the store.", "the man!")


@pytest.fixture(params=["WordPiece", "SentencePiece"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_dir: Path) -> Tokenizer:
    return tokenizers.load(TINY if request.param == "WordPiece" else tokenizer_dir)


def write(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return str(path)


def logits_of(features: Features, scores: list[list[float]]) -> np.ndarray:
    """The scores of each example's sentences, as a network would give them."""
    logits = np.full((*features.arrays["cls_positions"].shape, 1), 99.0, np.float32)
    for row, (first, stop) in enumerate(features.notes):
        logits[row, : stop - first, 0] = scores[features.examples[row]][first:stop]
    return logits


def test_a_text_is_split_into_sentences_and_a_list_is_taken_as_it_is(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        {"document": "Who came at 3.15 p.m.? He left!\nA new line", "summary": "He came."},
        {"document": ["one. two.", " three "], "summary": "two", "id": 7},
    )
    first, second = Summarization().read(source, Columns(), labeled=True)
    assert first == Example("0", ("Who came at 3.15 p.m.?", "He left!", "A new line"), "He came.")
    assert second == Example("7", ("one. two.", "three"), "two")
    assert Summarization().classes([first, second]) == ["selected"]
    # Without labels they are not looked at.
    assert Summarization().read(source, Columns(label="nowhere"), labeled=False)[0].summary is None


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"article": "A b.", "highlights": "b", "guid": "x"})
    columns = Columns(text="article", label="highlights", id="guid")
    assert Summarization().read(source, columns, labeled=True) == [Example("x", ("A b.",), "b")]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("article", "highlights"),  # CNN/DailyMail
        ("document", "summary"),  # XSum
        ("text", "summary"),  # BillSum
        ("article", "abstract"),  # arXiv, PubMed
        ("dialogue", "summary"),  # SAMSum
    ],
)
def test_columns_of_data_sets_are_found(
    text: str, label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {text: "A b.", label: "b", "title": "t", "id": "x"}
    expected = [Example("x", ("A b.",), "b")]
    source = write(tmp_path / "a.jsonl", row)
    assert Summarization().read(source, Columns(), labeled=True) == expected
    assert f"document {text!r}, summary {label!r}; ignored: title" in capsys.readouterr().err
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    assert Summarization().read(f"{tmp_path}/a.parquet", Columns(), labeled=True) == expected
    (tmp_path / "a.csv").write_text(f"id,{text},{label}\nx,A b.,b\n")
    assert Summarization().read(f"{tmp_path}/a.csv", Columns(), labeled=True) == expected


def test_other_columns_are_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", {"story": "A b.", "gist": "b"})
    with pytest.raises(BadInputError, match=r"no column called document.*--data\.columns\.text"):
        Summarization().read(source, Columns(), labeled=True)
    with pytest.raises(BadInputError, match=r"no column called summary.*--data\.columns\.label"):
        Summarization().read(source, Columns(text="story"), labeled=True)


GOOD = {"document": "A man. A store.", "summary": "A man."}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"document": "a"', r"a\.jsonl, line 2, column \d+: not JSON"),
        ("[1, 2]", r"line 2 must be a JSON object, not \[1, 2\]"),
        ("[" * 100_000, r"line 2 cannot be read as JSON"),
        ('{"summary": "a", "text": "b"}', r"line 2 .*'document'; its fields are 'summary', 'text'"),
        ('{"document": "a"}', r"line 2 has no field 'summary'; its fields are 'document'"),
        ('{"document": "a", "summary": null}', r"line 2 has no field 'summary'"),
        ('{"document": "a", "summary": " . "}', r"line 2: field 'summary' is ' \. '.* no words"),
        ('{"document": 3, "summary": "a"}', r"line 2: field 'document' is 3; write a string"),
        ('{"document": ["a", 3], "summary": "a"}', r"line 2: field 'document' is 3"),
        ('{"document": ["a", " "], "summary": "a"}', r"line 2: sentence 1 \(from 0\) .* is blank"),
        ('{"document": "\\ud800", "summary": "a"}', r"line 2: field 'document' .*surrogate"),
        (
            '{"document": "a", "summary": "b", "id": "0"}',
            r"line 2 has the same id '0' as .*line 1;",
        ),
        ('{"document": "a", "summary": "b", "id": [1]}', r"line 2: field 'id' is \[1\]"),
    ],
)
def test_an_error_is_reported_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps(GOOD) + "\n" + line + "\n", "utf-8")
    with pytest.raises(BadInputError, match=message) as error:
        Summarization().read(str(source), Columns(), labeled=True)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_unreadable_files(tmp_path: Path) -> None:
    def refused(source: str, words: str, columns: Columns = Columns()) -> None:  # noqa: B008
        with pytest.raises(BadInputError, match=words):
            Summarization().read(source, columns, labeled=True)

    refused(str(tmp_path / "none.jsonl"), "No such file")
    refused(str(tmp_path), "no labeled data")
    refused(write(tmp_path / "empty.jsonl"), "no rows")
    refused(write(tmp_path / "a.jsonl", GOOD), "'other'", Columns(pair="other"))
    refused(write(tmp_path / "a.jsonl", GOOD), r"no field 'guid'", Columns(id="guid"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"document": "caf\xe9"}\n')
    refused(str(tmp_path / "latin.jsonl"), "line 1: byte 0xe9 in column 18 is not UTF-8")
    (tmp_path / "wide.jsonl").write_bytes(json.dumps(GOOD).encode("utf-16-be"))
    refused(str(tmp_path / "wide.jsonl"), "NUL")


def test_empty_and_short_documents_are_counted_and_come_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: Tokenizer
) -> None:
    source = write(
        tmp_path / "a.jsonl",
        {"document": " \n", "summary": "a man", "id": "void"},
        {"document": "The man.", "summary": "a man", "id": "one"},
        {"document": [], "summary": "a man", "id": "list"},
    )
    examples = Summarization().read(source, Columns(), labeled=True)
    stderr = capsys.readouterr().err
    assert "2 documents are empty and get empty summaries (first: void)" in stderr
    assert "1 documents have at most 3 sentences; all are chosen" in stderr
    features = Summarization().features(examples, tokenizer, 16, ["selected"])
    assert features.examples.tolist() == [1]
    result = Summarization().predict(
        examples, features, np.zeros((1, 1, 1), np.float32), ["selected"]
    )
    assert [record["summary"] for record in result] == ["", "The man.", ""]
    assert result[1] == {"id": "one", "summary": "The man.", "sentences": [0], "scores": [0.5]}
    scores = Summarization().score(examples, result, ["selected"])
    # "The man" and "a man" share one of two words.
    assert scores["rouge1"] == pytest.approx(0.5 / 3)
    assert scores["lead3_rouge1"] == scores["rouge1"]


def test_rows_are_those_of_bertsum() -> None:
    tiny = tokenizers.load(TINY)
    examples = [Example("a", STORE, "milk in the store. the man"), Example("b", STORE[2:], None)]
    features = Summarization().features(examples, tiny, 16, ["selected"])
    arrays = features.arrays
    cls, sep, pad = "[CLS]", "[SEP]", "[PAD]"
    expected = [
        f"{cls} the man and the store . {sep} {cls} milk in the store . {sep} {pad}".split(),
        [cls, "the", "man", "!", sep] + [pad] * 11,
        [cls, "the", "man", "!", sep] + [pad] * 11,
    ]
    assert [[tiny.pieces[i] for i in row] for row in arrays["token_ids"]] == expected
    assert arrays["token_type_ids"].tolist() == [[0] * 8 + [1] * 7 + [0], [0] * 16, [0] * 16]
    assert arrays["segment_ids"].sum(axis=1).tolist() == [15, 5, 5]
    assert arrays["cls_positions"].tolist() == [[0, 8], [0, 0], [0, 0]]
    assert arrays["labels"].tolist() == [[0, 1], [1, 0], [0, 0]]
    assert arrays["weights"].tolist() == [[1, 1], [1, 0], [0, 0]]
    assert features.examples.tolist() == [0, 0, 1]
    kinds = {name: array.dtype for name, array in arrays.items()}
    assert kinds.pop("weights") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}


@pytest.mark.parametrize("length", [5, 16, 64])
def test_every_sentence_is_in_one_row_after_its_cls(
    tokenizer: Tokenizer, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    some = ["the", "a", "man", "in", "milk", "store", "captain", "sells", "on"]

    def sentences(count: int) -> tuple[str, ...]:
        return tuple(" ".join(rng.choice(some, rng.integers(1, 15))) for _ in range(count))

    examples = [Example(str(count), sentences(count), "") for count in (3, 1, 0, 12)]
    features = Summarization().features(examples, tokenizer, length, ["selected"])
    arrays = features.arrays
    assert arrays["token_ids"].shape[1] <= length
    result: list[list[int]] = []
    for row, (first, stop) in enumerate(features.notes):
        ids = arrays["token_ids"][row]
        starts = arrays["cls_positions"][row, : stop - first]
        assert np.flatnonzero(ids == tokenizer.cls_id).tolist() == starts.tolist()
        assert (arrays["token_type_ids"][row][starts] == np.arange(stop - first) % 2).all()
        ends = [*starts[1:], arrays["segment_ids"][row].sum()]
        for start, end in zip(starts, ends, strict=True):
            assert ids[end - 1] == tokenizer.sep_id
            result.append(ids[start + 1 : end - 1].tolist())
    encoded = tokenizer.encode([sentence for example in examples for sentence in example.sentences])
    assert result == [ids[: length - 2] for ids in encoded]
    cut = sum(len(ids) > length - 2 for ids in encoded)
    assert (f"{cut} sentences are truncated to {length - 2} tokens" in capsys.readouterr().err) == (
        cut > 0
    )
    # No row could have taken the first sentence of the next one of its document.
    sizes = [len(ids) + 2 for ids in result]
    total, sentence_index = arrays["segment_ids"].sum(axis=1), 0
    for row, (first, stop) in enumerate(features.notes[:-1]):
        sentence_index += stop - first
        if features.examples[row] == features.examples[row + 1]:
            assert total[row] + sizes[sentence_index] > length


def test_the_oracle_takes_the_sentences_that_raise_rouge_most() -> None:
    # ROUGE-1 + ROUGE-2 of the sentences alone: 8/11 + 4/9, 8/10 + 6/8, 4/8 + 2/6. With the second
    # one: 12/15 + 8/12, which is less than before, and 12/12 + 8/9.
    assert oracle(STORE, "milk in the store. the man") == [1, 2]
    assert oracle(STORE, "nothing of this") == []
    assert oracle([], "the man") == []
    assert oracle(["a b", "c d", "e f", "g h"], "a b c d e f g h") == [0, 1, 2]
    # Words count as often as the summary has them.
    assert oracle(["the the the the", "the man"], "the man sat") == [1]


def test_the_oracle_and_the_library_count_alike() -> None:
    summary = "milk in the store. the man"
    scores = [sum(list(rouge([summary], [one]).values())[:2]) for one in STORE]
    assert scores == pytest.approx([8 / 11 + 4 / 9, 8 / 10 + 6 / 8, 4 / 8 + 2 / 6])


def test_words_are_those_of_the_library_on_ascii_and_keep_other_letters() -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list(string.printable), 5000))
    assert words(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)
    assert words("Größe, ДОМ: 北京 ok_3") == ["größe", "дом", "北", "京", "ok", "3"]
    theirs = RougeScorer(["rouge1"]).score("дом", "дом")["rouge1"].fmeasure
    assert (rouge(["дом"], ["дом"])["rouge1"], theirs) == (1.0, 0)


def test_the_loss_is_the_cross_entropy_of_each_sentence() -> None:
    logits = jnp.array([[[math.log(3)], [math.log(3)], [-300.0]], [[0.0], [7.0], [7.0]]])
    batch = {
        "labels": jnp.array([[1, 0, 0], [1, 0, 0]]),
        "weights": jnp.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    }
    sums = Summarization().objective(logits, batch)
    assert float(sums.loss) == pytest.approx(math.log(4 / 3) + math.log(4) + math.log(2))
    assert sums.correct is not None
    # Undecided is not chosen.
    assert (float(sums.correct), float(sums.count)) == (2.0, 4.0)


def test_a_summary_has_the_best_sentences_in_their_order_without_repeats() -> None:
    tiny = tokenizers.load(TINY)
    sentences = (
        "the milk.",
        "a man and the milk.",
        "the man and the store.",
        "in the store.",
        "a store.",
    )
    examples = [Example("x", sentences, None), Example("y", STORE, None)]
    features = Summarization().features(examples, tiny, 16, ["selected"])
    assert len(features.notes) > 3
    scores = [[-500.0, 2.0, 500.0, math.log(3), 0.0], [0.0, 1.0, 1.0]]
    result = Summarization(SummarizationOptions(sentences=2)).predict(
        examples, features, logits_of(features, scores), ["selected"]
    )
    # "man and the" is in the best one already.
    assert result[0]["sentences"] == [2, 3]
    assert result[0]["summary"] == "the man and the store. in the store."
    assert result[0]["scores"] == pytest.approx([1.0, 0.75])
    assert result[1]["sentences"] == [1, 2]
    everything = Summarization(SummarizationOptions(sentences=9))
    (all_but_one, _) = everything.predict(
        examples, features, logits_of(features, scores), ["selected"]
    )
    assert all_but_one["sentences"] == [0, 2, 3, 4]
    assert json.loads(json.dumps(result)) == result


def test_scores_are_f1_and_the_lead_is_beside_them() -> None:
    examples = [
        Example("x", ("the cat", "a dog", "it sat", "so"), "the cat sat"),
        Example("y", ("no", "one"), "a b c d"),
    ]
    predictions = [{"id": "x", "summary": "the cat"}, {"id": "y", "summary": "d a b"}]
    result = Summarization().score(examples, predictions, ["selected"])
    # x: 2 of 2 and 2 of 3 words, 1 of 1 and 1 of 2 bigrams, 2 words in order.
    # y: 3 of 3 and 3 of 4 words, 1 of 2 and 1 of 3 bigrams, "a b" in order.
    assert result["rouge1"] == pytest.approx((0.8 + 6 / 7) / 2)
    assert result["rouge2"] == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert result["rougeL"] == pytest.approx((0.8 + 4 / 7) / 2)
    # "the cat a dog it sat": 3 of 6 and 3 of 3 words, 1 of 5 and 1 of 2 bigrams; y has none.
    assert result["lead3_rouge1"] == pytest.approx((2 / 3) / 2)
    assert result["lead3_rouge2"] == pytest.approx((2 / 7) / 2)
    assert result["lead3_rougeL"] == pytest.approx((2 / 3) / 2)
    assert Summarization().best_metric in result
    assert "lead1_rouge1" in Summarization(SummarizationOptions(sentences=1)).score(
        examples, predictions, ["selected"]
    )


def test_a_document_of_a_hundred_thousand_words_is_read_to_its_end(tmp_path: Path) -> None:
    sentence = "The man and the store have milk in the b{}."
    text = " ".join(sentence.format(chr(97 + n % 26)) for n in range(10_000))
    source = write(
        tmp_path / "a.jsonl",
        {"document": text, "summary": "A man has milk. " * 30_000},
        {"document": "milk " * 100_000, "summary": "milk"},
    )
    tiny = tokenizers.load(TINY)
    examples = Summarization().read(source, Columns(), labeled=True)
    features = Summarization().features(examples, tiny, 128, ["selected"])
    assert features.notes[-2][1] == 10_000
    assert features.notes[-1] == (0, 1)
    assert features.arrays["weights"].sum() == ORACLE_SENTENCES + 1
    result = Summarization().predict(
        examples, features, logits_of(features, [[0.0] * 9_999 + [5.0], [0.0]]), ["selected"]
    )
    assert result[0]["sentences"][-1] == 9_999


@pytest.mark.skipif(
    not (TEXT.is_file() and VOCABULARY.is_file()),
    reason=f"{TEXT} is not on this machine",
)
def test_on_wikipedia_the_labels_are_worth_more_than_the_first_sentences(tmp_path: Path) -> None:
    """The first paragraph as the summary of the others."""
    with lzma.open(TEXT) as file:
        texts = file.read(1_500_000).decode("utf-8", "ignore").split("\n\n")[:-1]
    documents = [text.split("\n", 1) for text in texts if text.count("\n") > 3]
    source = write(
        tmp_path / "wiki.jsonl", *({"document": text, "summary": lead} for lead, text in documents)
    )
    (tmp_path / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    examples = Summarization().read(source, Columns(), labeled=True)
    assert len(examples) > 30
    features = Summarization().features(examples, tokenizers.load(tmp_path), 512, ["selected"])
    labels = features.arrays["labels"]
    assert 1 <= labels.sum() / len(examples) <= 3
    result = Summarization().predict(
        examples, features, (labels * 2.0 - 1.0)[..., None], ["selected"]
    )
    scores = Summarization().score(examples, result, ["selected"])
    assert scores["rouge2"] > scores["lead3_rouge2"] + 0.03
    assert scores["rouge1"] > scores["lead3_rouge1"] + 0.03
