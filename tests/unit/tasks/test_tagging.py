"""Tagging: sentences to rows, logits to entities, entities to scores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers.tokenizer import Tokenizer, load
from pipelines.tasks.tagging import bio_tags, entity_f1
from pipelines.tasks.tagging.sentence import Sentence
from pipelines.tasks.tagging.task import Tagging, TaggingOptions
from pipelines.tasks.task import Features
from support.commands import ROOT
from support.tagged_text import DEFAULT, write_file

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="module", params=["wordpiece", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_dir: Path) -> Tokenizer:
    """Both kinds; the WordPiece one has every letter and few words."""
    return load(ROOT / "tests/golden/tf1" if request.param == "wordpiece" else tokenizer_dir)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """WordPiece of single letters: a word has as many sub-tokens as letters."""
    return load(ROOT / "tests/golden/tf1")


def sentence(*tokens: str, tags: str = "", document: int = 0, number: int = 0) -> Sentence:
    starts = np.cumsum([0, *(len(token) + 1 for token in tokens[:-1])]).tolist() if tokens else []
    return Sentence(
        str(number),
        list(tokens),
        tags.split() or None,
        " ".join(tokens),
        starts,
        document,
        "f",
        "f",
    )


def perfect(features: Features, classes: list[str], sure: float = 20.0) -> np.ndarray:
    """Logits of a network that knows the labels."""
    return np.eye(len(classes), dtype=np.float32)[features.arrays["labels"]] * sure


# Classes


def test_classes_are_the_tags_with_o_first_and_both_of_every_type() -> None:
    examples = [sentence("a", "b", "c", tags="B-PER I-PER O"), sentence("d", tags="B-LOC")]
    assert Tagging().classes(examples) == ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
    assert Tagging().classes([sentence("a", "b", "c", tags="V N V")]) == ["N", "V"]


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    examples = Tagging().read(write_file(tmp_path, "a O\nb O\n"), DEFAULT, labeled=True)
    with pytest.raises(BadInputError, match="every word has the tag 'O'"):
        Tagging().classes(examples)


def test_an_unknown_tag_is_refused(tmp_path: Path, letters: Tokenizer) -> None:
    examples = Tagging().read(write_file(tmp_path, "a O\nb B-X\n"), DEFAULT, labeled=True)
    with pytest.raises(BadInputError, match=r"line 2, 'b' has the tag 'B-X'.*O, B-PER"):
        Tagging().features(examples, letters, 16, ["O", "B-PER"])
    with pytest.raises(BadInputError, match=r"line 1, .*'O'.*LABEL_0.*id2label"):
        Tagging().features(examples, letters, 16, ["LABEL_0", "LABEL_1"])


# Rows


def test_the_first_sub_token_of_each_word_is_labelled(letters: Tokenizer) -> None:
    classes = ["O", "B-PER", "I-PER"]
    # "the" is a token, "\u200b" is nothing to BERT, "文" is not in the vocabulary.
    example = sentence("abc", "the", "\u200b", "文", tags="B-PER I-PER O B-PER")
    found = Tagging().features([example], letters, 16, classes)
    arrays = found.arrays
    (row,) = arrays["token_ids"]
    spelled = "[CLS] a ##b ##c the [UNK] [UNK] [SEP]"
    assert [letters.pieces[token] for token in row] == spelled.split()
    assert arrays["weights"].tolist() == [[0, 1, 0, 0, 1, 1, 1, 0]]
    assert arrays["labels"].tolist() == [[0, 1, 0, 0, 2, 0, 1, 0]]
    assert arrays["segment_ids"].tolist() == [[1] * 8]
    assert not arrays["token_type_ids"].any()
    for name, array in arrays.items():
        assert array.dtype == (np.float32 if name == "weights" else np.int32)
        assert array.shape == (1, 8)


def test_rows_are_as_long_as_the_longest_rounded_up_to_eight(letters: Tokenizer) -> None:
    found = Tagging().features([sentence("a"), sentence(*"abcdefg")], letters, 64, ["O"]).arrays
    assert found["token_ids"].shape == (2, 16)
    assert found["token_ids"][0, 3:].tolist() == [letters.pad_id] * 13
    assert found["segment_ids"].sum(axis=1).tolist() == [3, 9]
    assert Tagging().features([sentence(*"abcdefg")], letters, 9, ["O"]).arrays[
        "token_ids"
    ].shape == ((1, 9))


def test_a_long_sentence_is_cut_into_rows_that_share_context(letters: Tokenizer) -> None:
    example = sentence(*"abcdefghijklm", tags=" ".join("O" * 13))
    found = Tagging().features([example], letters, 10, ["O"])
    rows = [[letters.pieces[token] for token in row[1:-1]] for row in found.arrays["token_ids"]]
    # Half a row of eight is tagged, the rest is context, from both sides where there is.
    assert ["".join(row) for row in rows] == ["abcdefgh", "cdefghij", "fghijklm", "fghijklm"]
    tagged = found.arrays["weights"][:, 1:-1] > 0
    assert ["".join(np.array(row)[mask]) for row, mask in zip(rows, tagged, strict=True)] == (
        ["abcd", "efgh", "ijkl", "m"]
    )
    assert found.examples.tolist() == [0, 0, 0, 0]


def test_document_context_fills_the_row_and_is_not_scored(letters: Tokenizer) -> None:
    examples = [
        sentence(*"ab", tags="O O", document=1),
        sentence(*"cd", tags="B-X O", document=1),
        sentence(*"ef", tags="O O", document=1),
        sentence(*"gh", tags="O O", document=2),
    ]
    found = Tagging(TaggingOptions(document_context=True)).features(
        examples, letters, 6, ["O", "B-X"]
    )
    rows = ["".join(letters.pieces[t] for t in row[1:-1]) for row in found.arrays["token_ids"]]
    assert rows[:3] == ["abcd", "bcde", "cdef"]
    assert rows[3] == "gh[SEP]" + "[PAD]"
    assert found.arrays["weights"].tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 1, 1, 0, 0, 0],
    ]
    assert found.arrays["labels"][1].tolist() == [0, 0, 1, 0, 0, 0]
    records = Tagging(TaggingOptions(document_context=True)).predict(
        examples, found, perfect(found, ["O", "B-X"]), ["O", "B-X"]
    )
    assert [record["tags"] for record in records] == [example.tags for example in examples]


def test_a_file_without_documents_gives_no_context_and_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, "a O\n\nb O\n")
    Tagging(TaggingOptions(document_context=True)).read(file, DEFAULT, labeled=True)
    assert "has no -DOCSTART- lines" in capsys.readouterr().err


def test_no_word_is_lost_at_any_length(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    examples = []
    for number in range(60):
        words = ["x" * size for size in rng.integers(1, 12, rng.integers(0, 40))]
        tags = " ".join(rng.choice(["O", "B-X", "I-X"], len(words)))
        examples.append(sentence(*words, tags=tags, document=number // 7, number=number))
    classes = ["O", "B-X", "I-X"]
    for context in (False, True):
        task = Tagging(TaggingOptions(document_context=context))
        for length in (3, 4, 5, 9, 16, 64):
            found = task.features(examples, tokenizer, length, classes)
            arrays = found.arrays
            assert arrays["token_ids"].shape[1] <= length
            labels = arrays["labels"][arrays["weights"] > 0]
            tags = [tag for example in examples for tag in example.tags or ()]
            assert [classes[label] for label in labels] == tags
            owner = found.examples[np.nonzero(arrays["weights"])[0]]
            sizes = [len(example.tokens) for example in examples]
            assert np.bincount(owner, minlength=60).tolist() == sizes
            # Every row is framed, and [CLS] and [SEP] stand nowhere else.
            assert (arrays["token_ids"][:, 0] == tokenizer.cls_id).all()
            assert ((arrays["token_ids"] == tokenizer.sep_id).sum(axis=1) == 1).all()
            used = arrays["token_ids"] != tokenizer.pad_id
            assert (used == (arrays["segment_ids"] == 1)).all()


def test_sentences_without_words_are_counted_and_answered(
    tmp_path: Path, letters: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"text": "a b"}, {"text": ""}, {"tokens": []}, {"text": " "}]
    file = write_file(tmp_path, "\n".join(map(json.dumps, lines)), "data.jsonl")
    examples = Tagging().read(file, DEFAULT, labeled=False)
    assert "3 of 4 sentences have no words" in capsys.readouterr().err
    features = Tagging().features(examples, letters, 16, ["O", "B-X"])
    assert features.examples.tolist() == [0]
    assert not features.arrays["labels"].any()
    records = Tagging().predict(examples, features, np.zeros((1, 8, 2), np.float32), ["O", "B-X"])
    assert [record["tags"] for record in records] == [["O", "O"], [], [], []]
    assert [record["id"] for record in records] == ["0", "1", "2", "3"]
    nothing = Tagging().features(examples[1:], letters, 16, ["O"])
    assert len(nothing.examples) == len(nothing.arrays["token_ids"]) == 0


def test_a_sentence_of_100_000_words_is_tagged(tmp_path: Path, letters: Tokenizer) -> None:
    text = "".join(
        f"{'man' if n % 3 else 'xyz'} {'O' if n % 3 else 'B-X'}\n" for n in range(100_000)
    )
    examples = Tagging().read(write_file(tmp_path, text), DEFAULT, labeled=True)
    classes = Tagging().classes(examples)
    features = Tagging().features(examples, letters, 128, classes)
    records = Tagging().predict(examples, features, perfect(features, classes), classes)
    assert records[0]["tags"] == examples[0].tags
    assert len(records[0]["entities"]) == 33_334


# Predictions and scores


def test_the_objective_counts_only_labelled_words(letters: Tokenizer) -> None:
    examples = [sentence("abc", "the", tags="B-X O")]
    features = Tagging().features(examples, letters, 16, ["O", "B-X"])
    batch = {
        name: jnp.concatenate([jnp.asarray(array), jnp.zeros_like(array)])  # and a row of padding
        for name, array in features.arrays.items()
    }
    logits = np.zeros((2, 8, 2), np.float32)
    logits[0, 1] = [0.0, np.log(3.0)]  # the first word: right, with probability 3/4
    logits[0, 4] = [0.0, np.log(3.0)]  # the second: wrong, 1/4
    sums = Tagging().objective(jnp.asarray(logits), batch)
    assert float(sums.count) == 2
    assert float(sums.correct) == 1
    assert float(sums.loss) == pytest.approx(-np.log(3 / 4) - np.log(1 / 4), rel=1e-6)


def test_predictions_are_entities_with_their_offsets(tmp_path: Path, letters: Tokenizer) -> None:
    line = "the man, A. B. in Rome!"
    examples = Tagging().read(write_file(tmp_path, line, "data.txt"), DEFAULT, labeled=False)
    assert examples[0].tokens == ["the", "man", ",", "A", ".", "B", ".", "in", "Rome", "!"]
    classes = ["O", "B-PER", "I-PER", "I-LOC"]
    features = Tagging().features(examples, letters, 64, classes)
    logits = np.zeros((*features.arrays["weights"].shape, 4), np.float32)
    words = np.flatnonzero(features.arrays["weights"][0])
    chosen = [0, 0, 0, 1, 2, 2, 2, 0, 3, 0]
    sure = np.log([9, 9, 9, 3, 3, 3, 6, 9, 12, 9])  # probability x / (x + 3)
    logits[0, words, chosen] = sure
    (record,) = Tagging().predict(examples, features, logits, classes)
    assert " ".join(record["tags"]) == "O O O B-PER I-PER I-PER I-PER O B-LOC O"
    person, city = record["entities"]
    assert {**person, "score": 0} == {
        "text": "A. B.", "label": "PER", "start": 9, "end": 14, "score": 0
    }  # fmt: skip
    assert person["score"] == pytest.approx((3 * 1 / 2 + 2 / 3) / 4)
    assert (city["text"], line[city["start"] : city["end"]]) == ("Rome", "Rome")
    assert city["score"] == pytest.approx(12 / 15)
    json.dumps(record)


def scored(gold: list[str], predicted: list[str], *, of_entities: bool = True) -> dict[str, float]:
    sides = ([tags.split() for tags in side] for side in (gold, predicted))
    return entity_f1.scores(*sides, of_entities)


@pytest.mark.parametrize(
    ("gold", "predicted", "found", "right", "there"),
    [
        ("B-PER I-PER O", "B-PER I-PER O", 1, 1, 1),
        ("B-PER I-PER O", "B-PER B-PER O", 2, 0, 1),  # split
        ("B-PER B-PER O", "B-PER I-PER O", 1, 0, 2),  # adjacent ones taken together
        ("B-PER B-PER O", "B-PER B-PER O", 2, 2, 2),
        ("B-PER O B-LOC", "B-PER O B-ORG", 2, 1, 2),  # wrong type
        ("B-PER I-PER O", "B-PER O O", 1, 0, 1),  # wrong end
        ("O B-PER I-PER", "O I-PER I-PER", 1, 1, 1),  # IOB1 is lenient
        ("B-PER O B-LOC", "O O O", 0, 0, 2),
        ("O O O", "O B-LOC O", 1, 0, 0),
    ],
)
def test_entities_are_right_if_type_and_both_ends_are(
    gold: str, predicted: str, found: int, right: int, there: int
) -> None:
    # Beside a sentence that both have right.
    scores = scored([gold, "B-X I-X"], [predicted, "B-X I-X"])
    precision, recall = (right + 1) / (found + 1), (right + 1) / (there + 1)
    assert scores["precision"] == pytest.approx(precision)
    assert scores["recall"] == pytest.approx(recall)
    assert scores["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    words = zip(gold.split(), predicted.split(), strict=True)
    assert scores["accuracy"] == pytest.approx((sum(a == b for a, b in words) + 2) / 5)


def test_entities_end_with_their_sentence() -> None:
    assert scored(["B-PER", "I-PER"], ["B-PER", "B-PER"])["f1"] == 1


def test_a_model_that_finds_nothing_scores_nothing() -> None:
    assert scored(["B-PER O"], ["O O"]) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 0.5}


def test_the_classes_of_the_model_decide_on_the_metrics() -> None:
    """Not the tags that occur: then metrics would change between steps and seeds."""
    nothing = {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}
    assert scored(["O O"], ["O O"]) == nothing
    assert set(scored(["O"], ["B-X"])) == set(nothing)
    assert set(scored(["B-X"], ["O"], of_entities=False)) == {"f1", "accuracy"}


def test_plain_tags_are_scored_as_the_mean_over_the_tags(
    tmp_path: Path, letters: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, "a N\nb N\nc V\n\nd D\n")
    examples = Tagging().read(file, DEFAULT, labeled=True)
    assert "scores are those of single words" in capsys.readouterr().err
    classes = Tagging().classes(examples)
    assert classes == ["D", "N", "V"]
    features = Tagging().features(examples, letters, 16, classes)
    logits = perfect(features, classes)
    logits[0, 2] = [0, 0, 20]  # b: V for N
    records = Tagging().predict(examples, features, logits, classes)
    assert records[0]["tags"] == ["N", "V", "V"]
    assert records[0]["entities"] == []
    scores = Tagging().score(examples, records, classes)
    # N: precision 1, recall 1/2; V: precision 1/2, recall 1; D: 1.
    assert scores == pytest.approx({"f1": (2 / 3 + 2 / 3 + 1) / 3, "accuracy": 3 / 4})
    assert Tagging().best_metric in scores


@pytest.mark.skipif(
    not (DATA / "wnut17").is_dir() or not (DATA / "vocab").is_dir(),
    reason=f"{DATA} has no wnut17/ and vocab/: real text is not on this machine",
)
def test_real_tweets_are_read_whole(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name in ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"):
        found[name] = Tagging().read(str(DATA / "wnut17" / name), DEFAULT, labeled=True)
    assert [len(sentences) for sentences in found.values()] == [3394, 1009, 1287]
    # What the shared task's paper reports.
    counts = [
        sum(len(bio_tags.entities(s.tags)) for s in sentences) for sentences in found.values()
    ]
    assert counts == [1975, 836, 1079]
    (tmp_path / "vocab.txt").write_bytes((DATA / "vocab/bert-base-cased-vocab.txt").read_bytes())
    examples = found["emerging.test.annotated"]
    classes = Tagging().classes(found["wnut17train.conll"])
    features = Tagging().features(examples, load(tmp_path), 64, classes)
    records = Tagging().predict(examples, features, perfect(features, classes), classes)
    assert Tagging().score(examples, records, classes) == {
        "f1": 1, "precision": 1, "recall": 1, "accuracy": 1
    }  # fmt: skip
    for example, record in zip(examples, records, strict=True):
        for entity in record["entities"]:
            assert example.text[entity["start"] : entity["end"]] == entity["text"]
