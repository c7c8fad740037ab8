"""Tagging: files to sentences, sentences to rows, logits to entities, entities to scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.errors import BadInputError
from conftest import ROOT
from pipelines.data.tokenizer import Tokenizer, load
from pipelines.tasks import bio
from pipelines.tasks.conll import Sentence, split_words
from pipelines.tasks.tagging import TASK, Tagging
from pipelines.tasks.task import Columns, Features

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))
DEFAULT = Columns()

CONLL = """\
-DOCSTART- -X- O O

Ann NNP B-NP B-PER
Lee NNP I-NP I-PER
met VBD B-VP O
Bob NNP B-NP B-PER

in IN B-PP O
Rome NNP B-NP B-LOC

-DOCSTART- -X- O O

Bob NNP B-NP B-PER
ran VBD B-VP O
"""


@pytest.fixture(scope="module", params=["wordpiece", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_dir: Path) -> Tokenizer:
    """Both kinds; the WordPiece one has every letter and few words."""
    return load(ROOT / "tests/golden/tf1" if request.param == "wordpiece" else tokenizer_dir)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """WordPiece of single letters: a word has as many sub-tokens as letters."""
    return load(ROOT / "tests/golden/tf1")


def written(folder: Path, text: str | bytes, name: str = "data.conll") -> str:
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(file)


def sentence(*tokens: str, tags: str = "", document: int = 0, number: int = 0) -> Sentence:
    starts = np.cumsum([0, *(len(token) + 1 for token in tokens[:-1])]).tolist() if tokens else []
    return Sentence(
        str(number), list(tokens), tags.split() or None, " ".join(tokens), starts, document, "f", 1
    )


def perfect(features: Features, classes: list[str], sure: float = 20.0) -> np.ndarray:
    """Logits of a network that knows the labels."""
    return np.eye(len(classes), dtype=np.float32)[features.arrays["labels"]] * sure


# Files


def test_conll_columns_become_sentences_and_documents(tmp_path: Path) -> None:
    for text in (CONLL, CONLL.replace(" ", "\t"), CONLL.replace("\n", "\r\n"), "\ufeff" + CONLL):
        found = TASK.read(written(tmp_path, text), DEFAULT, labelled=True)
        assert [s.tokens for s in found] == [
            ["Ann", "Lee", "met", "Bob"],
            ["in", "Rome"],
            ["Bob", "ran"],
        ]
        assert [s.tags for s in found] == [
            ["B-PER", "I-PER", "O", "B-PER"],
            ["O", "B-LOC"],
            ["B-PER", "O"],
        ]
        assert [s.id for s in found] == ["0", "1", "2"]
        assert [s.document for s in found] == [1, 1, 2]
        assert found[1].place(1).endswith("data.conll, line 9, 'Rome'")


def test_columns_are_chosen_by_number(tmp_path: Path) -> None:
    file = written(tmp_path, CONLL)
    first = TASK.read(file, Columns(label="3"), labelled=True)[0]
    assert first.tags == ["B-NP", "I-NP", "B-VP", "B-NP"]
    first = TASK.read(file, Columns(text="2", label="1"), labelled=True)[0]
    assert (first.tokens, first.tags) == (
        ["NNP", "NNP", "VBD", "NNP"],
        ["Ann", "Lee", "met", "Bob"],
    )


def test_without_labels_a_column_of_tokens_is_enough(tmp_path: Path) -> None:
    (found,) = TASK.read(written(tmp_path, "Ann\nran\n"), DEFAULT, labelled=False)
    assert (found.tokens, found.tags) == (["Ann", "ran"], None)


@pytest.mark.parametrize(
    ("given", "bio_tags", "changed"),
    [
        ("I-PER I-PER O I-LOC I-ORG", "B-PER I-PER O B-LOC B-ORG", 3),  # IOB1
        ("I-PER B-PER I-PER O O", "B-PER B-PER I-PER O O", 1),  # IOB1, neighbours of one type
        ("S-PER O B-LOC I-LOC E-LOC", "B-PER O B-LOC I-LOC I-LOC", 2),  # IOBES
        ("B-PER I-LOC O O O", "B-PER B-LOC O O O", 1),
        ("B-PER I-PER O B-LOC O", "B-PER I-PER O B-LOC O", 0),
    ],
)
def test_other_ways_to_write_entities_become_bio(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: str,
    bio_tags: str,
    changed: int,
) -> None:
    text = "".join(f"w {tag}\n" for tag in given.split())
    (found,) = TASK.read(written(tmp_path, text), DEFAULT, labelled=True)
    assert found.tags == bio_tags.split()
    said = capsys.readouterr().err
    assert (f"rewritten as BIO: {changed}," in said) if changed else not said


def test_json_lines_hold_tokens_and_tags(tmp_path: Path) -> None:
    line = {"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"], "key": 7, "words": ["x"], "y": ["O"]}
    file = written(tmp_path, json.dumps(line) + "\n\n", "data.jsonl")
    (found,) = TASK.read(file, Columns(id="key"), labelled=True)
    assert (found.id, found.tokens, found.tags) == ("7", ["Ann", "ran"], ["B-PER", "O"])
    (found,) = TASK.read(file, Columns(text="words", label="y"), labelled=True)
    assert (found.id, found.tokens, found.tags) == ("0", ["x"], ["O"])
    (found,) = TASK.read(file, DEFAULT, labelled=False)
    assert (found.tokens, found.tags) == (["Ann", "ran"], None)


def test_text_is_cut_into_words_whose_places_are_known(tmp_path: Path) -> None:
    line = "  Ann's dog (Rex) — naïve हिन्दी é"
    file = written(tmp_path, f"{line}\n\nBob.\n", "data.txt")
    first, second = TASK.read(file, DEFAULT, labelled=False)
    assert first.tokens == ["Ann", "'", "s", "dog", "(", "Rex", ")", "—", "naïve", "हिन्दी", "é"]
    assert [
        first.text[a : a + len(t)] for a, t in zip(first.starts, first.tokens, strict=True)
    ] == (first.tokens)
    assert first.text == line
    assert first.document != second.document
    file = written(tmp_path, json.dumps({"text": line}), "data.jsonl")
    (same,) = TASK.read(file, DEFAULT, labelled=False)
    assert (same.tokens, same.starts) == (first.tokens, first.starts)
    assert split_words("e\u0301a b") == (["e\u0301a", "b"], [0, 4])


BUILDER = """
import json, sys
import tensorflow_datasets as tfds
from tensorflow_datasets import features as kinds

class Tagged(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        ner = kinds.Sequence(kinds.ClassLabel(names=["O", "B-PER", "I-PER"]))
        text = kinds.Sequence(kinds.Text())
        features = kinds.FeaturesDict({"tokens": text, "ner": ner, "pos": text})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        tags = {"train": [1, 2, 0], "test": [-1, -1, -1]}
        return {split: self._generate_examples(ner) for split, ner in tags.items()}

    def _generate_examples(self, ner):
        yield 0, {"tokens": ["Ann", "Lée", "ran"], "ner": ner, "pos": ["N", "N", "V"]}

if __name__ == "__main__":
    Tagged(data_dir=sys.argv[1]).download_and_prepare(file_format="array_record")
    from bert_jax.errors import BadInputError
    from pipelines.tasks.tagging import TASK
    from pipelines.tasks.task import Columns
    for spec, columns, labelled in json.loads(sys.argv[2]):
        try:
            found = [[s.tokens, s.tags] for s in TASK.read(spec, Columns(**columns), labelled)]
        except BadInputError as error:
            found = str(error)
        print(json.dumps(found))
"""


def test_tensorflow_data_sets_are_read_with_the_names_of_their_tags(tmp_path: Path) -> None:
    (tmp_path / "tagged.py").write_text(BUILDER)
    wanted = [
        ("tfds:tagged:train", {}, True),
        ("tfds:tagged:train", {"label": "pos"}, True),
        ("tfds:tagged:test", {}, False),
        ("tfds:tagged:test", {}, True),
        ("tfds:tagged:dev", {}, True),
        ("tfds:tagged", {}, True),
        ("tfds:tagged:train", {"label": "tag"}, True),
    ]
    found = subprocess.run(
        [sys.executable, "tagged.py", tmp_path / "data", json.dumps(wanted)],
        cwd=tmp_path,
        env={
            **os.environ,
            "TFDS_DATA_DIR": str(tmp_path / "data"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    answers = found.stdout.splitlines()[-len(wanted) :]
    ner, pos, unlabelled, without, split, none, field = map(json.loads, answers)
    tokens = ["Ann", "Lée", "ran"]
    assert ner == [[tokens, ["B-PER", "I-PER", "O"]]]
    assert pos == [[tokens, ["N", "N", "V"]]]
    assert unlabelled == [[tokens, None]]
    assert "tfds:tagged:test, line 0" in without
    assert "empty tag" in without
    assert "no split 'dev' but train, test" in split
    assert "tfds:tagged:train" in none
    assert "no field 'tag'" in field
    assert "'pos'" in field


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann B-PER\nran\n", ["line 2", "1 columns", "before it 2", "'ran'"]),
        ("Ann\tB-PER\nNew York\tB-LOC\tx\n", ["line 2", "3 columns"]),
        ("Ann\nran\n", ["line 1", "no tag", "'Ann'"]),
        ("Ann\tO\nran\t\n", ["line 2", "no tag"]),
        ("Ann\tO\n\tO\n", ["line 2", "no token"]),
        ("\nAnn B-PER\nran PER\n", ["line 3, 'ran'", "neither O", "PER"]),
        ("", ["holds no word"]),
        ("\n\n-DOCSTART- O\n\n", ["holds no word"]),
        (b"Ann O\ncaf\xe9 O\n", ["line 2", "not UTF-8", "0xe9", "iconv"]),
        (b"A\0n\0 O\n", ["line 1", "NUL"]),
    ],
)
def test_what_is_wrong_with_a_conll_file_is_said_in_one_line(
    tmp_path: Path, text: str | bytes, words: list[str]
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(BadInputError) as caught:
        TASK.read(file, DEFAULT, labelled=True)
    message = str(caught.value)
    assert "\n" not in message
    for word in [file, *words]:
        assert word in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["line 2", "not a JSON object"]),
        ("[1]", ["line 2", "not a JSON object"]),
        ("[" * 100_000, ["line 2", "not a JSON object"]),
        ('{"words": ["a"]}', ["no field 'tokens'", "'words'"]),
        ('{"tokens": ["a", "b"], "tags": ["O"]}', ["2 tokens", "1 tags"]),
        ('{"tokens": "a b", "tags": ["O"]}', ["'tokens'", "not a list"]),
        ('{"tokens": ["a"], "tags": [3]}', ["'tags'", "3"]),
        ('{"tokens": ["a"], "tags": [""]}', ["'tags'", "empty"]),
        ('{"tokens": ["\\ud83d"], "tags": ["O"]}', ["'tokens'", "half of a character"]),
        ('{"tokens": ["a"], "tags": ["O"], "id": "x"}', ["'x'", "line 1"]),
        ('{"tokens": ["a"], "tags": ["O"], "id": [1]}', ["'id'", "whole number"]),
    ],
)
def test_what_is_wrong_with_json_lines_is_said_in_one_line(
    tmp_path: Path, line: str, words: list[str]
) -> None:
    good = '{"tokens": ["a"], "tags": ["O"], "id": "x"}\n'
    file = written(tmp_path, good + line + "\n", "data.jsonl")
    with pytest.raises(BadInputError) as caught:
        TASK.read(file, Columns(id="id"), labelled=True)
    message = str(caught.value)
    assert "\n" not in message
    for word in [file, "line 2", *words]:
        assert word in message


def test_columns_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, CONLL)
    for number in ("0", "5", "-1", "ner"):
        with pytest.raises(BadInputError, match="has 4 columns"):
            TASK.read(file, Columns(label=number), labelled=True)
    with pytest.raises(BadInputError, match="no ids"):
        TASK.read(file, Columns(id="1"), labelled=True)
    with pytest.raises(BadInputError, match="no pairs"):
        TASK.read(file, Columns(pair="2"), labelled=True)
    with pytest.raises(BadInputError, match="No such file"):
        TASK.read(str(tmp_path / "none"), DEFAULT, labelled=True)
    with pytest.raises(BadInputError, match=r"rename it to \.conll"):
        TASK.read(written(tmp_path, CONLL, "train.txt"), DEFAULT, labelled=False)


# Classes


def test_classes_are_the_tags_with_o_first_and_both_of_every_type() -> None:
    examples = [sentence("a", "b", "c", tags="B-PER I-PER O"), sentence("d", tags="B-LOC")]
    assert TASK.classes(examples) == ["O", "B-LOC", "B-PER", "I-LOC", "I-PER"]
    assert TASK.classes([sentence("a", "b", "c", tags="V N V")]) == ["N", "V"]


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    examples = TASK.read(written(tmp_path, "a O\nb O\n"), DEFAULT, labelled=True)
    with pytest.raises(BadInputError, match="every word has the tag 'O'"):
        TASK.classes(examples)


def test_a_tag_that_the_model_does_not_know_is_refused(tmp_path: Path, letters: Tokenizer) -> None:
    examples = TASK.read(written(tmp_path, "a O\nb B-X\n"), DEFAULT, labelled=True)
    with pytest.raises(BadInputError, match=r"line 2, 'b' has the tag 'B-X'.* O, B-PER"):
        TASK.features(examples, letters, 16, ["O", "B-PER"])


# Rows


def test_the_first_sub_token_of_each_word_is_labelled(letters: Tokenizer) -> None:
    classes = ["O", "B-PER", "I-PER"]
    # "the" is a token, "\u200b" is nothing to BERT, "文" is not in the vocabulary.
    example = sentence("abc", "the", "\u200b", "文", tags="B-PER I-PER O B-PER")
    found = TASK.features([example], letters, 16, classes)
    arrays = found.arrays
    (row,) = arrays["token_ids"]
    spelled = "[CLS] a ##b ##c the [UNK] [UNK] [SEP]"
    assert [letters.pieces[token] for token in row] == spelled.split()
    assert arrays["weights"].tolist() == [[0, 1, 0, 0, 1, 1, 1, 0]]
    assert arrays["labels"].tolist() == [[0, 1, 0, 0, 2, 0, 1, 0]]
    assert arrays["sequence_ids"].tolist() == [[1] * 8]
    assert not arrays["segment_ids"].any()
    for name, array in arrays.items():
        assert array.dtype == (np.float32 if name == "weights" else np.int32)
        assert array.shape == (1, 8)


def test_rows_are_as_long_as_the_longest_rounded_up_to_eight(letters: Tokenizer) -> None:
    found = TASK.features([sentence("a"), sentence(*"abcdefg")], letters, 64, ["O"]).arrays
    assert found["token_ids"].shape == (2, 16)
    assert found["token_ids"][0, 3:].tolist() == [letters.pad_id] * 13
    assert found["sequence_ids"].sum(axis=1).tolist() == [3, 9]
    assert TASK.features([sentence(*"abcdefg")], letters, 9, ["O"]).arrays["token_ids"].shape == (
        (1, 9)
    )


def test_a_long_sentence_is_cut_into_rows_that_share_context(letters: Tokenizer) -> None:
    example = sentence(*"abcdefghijklm", tags=" ".join("O" * 13))
    found = TASK.features([example], letters, 10, ["O"])
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
    found = Tagging(document_context=True).features(examples, letters, 6, ["O", "B-X"])
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
    records = Tagging(document_context=True).predict(
        examples, found, perfect(found, ["O", "B-X"]), ["O", "B-X"]
    )
    assert [record["tags"] for record in records] == [example.tags for example in examples]


def test_a_file_without_documents_gives_no_context_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "a O\n\nb O\n")
    Tagging(document_context=True).read(file, DEFAULT, labelled=True)
    assert "marks no documents" in capsys.readouterr().err


def test_no_word_is_lost_whatever_the_length(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    examples = []
    for number in range(60):
        words = ["x" * size for size in rng.integers(1, 12, rng.integers(0, 40))]
        tags = " ".join(rng.choice(["O", "B-X", "I-X"], len(words)))
        examples.append(sentence(*words, tags=tags, document=number // 7, number=number))
    classes = ["O", "B-X", "I-X"]
    for context in (False, True):
        task = Tagging(document_context=context)
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
            assert (used == (arrays["sequence_ids"] == 1)).all()


def test_sentences_without_words_are_counted_and_answered(
    tmp_path: Path, letters: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"text": "a b"}, {"text": ""}, {"tokens": []}, {"text": " "}]
    file = written(tmp_path, "\n".join(map(json.dumps, lines)), "data.jsonl")
    examples = TASK.read(file, DEFAULT, labelled=False)
    assert "3 of 4 sentences have no words" in capsys.readouterr().err
    features = TASK.features(examples, letters, 16, ["O", "B-X"])
    assert features.examples.tolist() == [0]
    assert not features.arrays["labels"].any()
    records = TASK.predict(examples, features, np.zeros((1, 8, 2), np.float32), ["O", "B-X"])
    assert [record["tags"] for record in records] == [["O", "O"], [], [], []]
    assert [record["id"] for record in records] == ["0", "1", "2", "3"]
    nothing = TASK.features(examples[1:], letters, 16, ["O"])
    assert len(nothing.examples) == len(nothing.arrays["token_ids"]) == 0


def test_a_sentence_of_100_000_words_is_tagged(tmp_path: Path, letters: Tokenizer) -> None:
    text = "".join(
        f"{'man' if n % 3 else 'xyz'} {'O' if n % 3 else 'B-X'}\n" for n in range(100_000)
    )
    examples = TASK.read(written(tmp_path, text), DEFAULT, labelled=True)
    classes = TASK.classes(examples)
    features = TASK.features(examples, letters, 128, classes)
    records = TASK.predict(examples, features, perfect(features, classes), classes)
    assert records[0]["tags"] == examples[0].tags
    assert len(records[0]["entities"]) == 33_334


# Predictions and scores


def test_the_objective_counts_only_labelled_words(letters: Tokenizer) -> None:
    examples = [sentence("abc", "the", tags="B-X O")]
    features = TASK.features(examples, letters, 16, ["O", "B-X"])
    batch = {
        name: jnp.concatenate([jnp.asarray(array), jnp.zeros_like(array)])  # and a row of padding
        for name, array in features.arrays.items()
    }
    logits = np.zeros((2, 8, 2), np.float32)
    logits[0, 1] = [0.0, np.log(3.0)]  # the first word: right, with probability 3/4
    logits[0, 4] = [0.0, np.log(3.0)]  # the second: wrong, 1/4
    tally = TASK.objective(jnp.asarray(logits), batch)
    assert float(tally.count) == 2
    assert float(tally.correct) == 1
    assert float(tally.loss) == pytest.approx(-np.log(3 / 4) - np.log(1 / 4), rel=1e-6)


def test_predictions_are_entities_with_their_places(tmp_path: Path, letters: Tokenizer) -> None:
    line = "the man, A. B. in Rome!"
    examples = TASK.read(written(tmp_path, line, "data.txt"), DEFAULT, labelled=False)
    assert examples[0].tokens == ["the", "man", ",", "A", ".", "B", ".", "in", "Rome", "!"]
    classes = ["O", "B-PER", "I-PER", "I-LOC"]
    features = TASK.features(examples, letters, 64, classes)
    logits = np.zeros((*features.arrays["weights"].shape, 4), np.float32)
    words = np.flatnonzero(features.arrays["weights"][0])
    chosen = [0, 0, 0, 1, 2, 2, 2, 0, 3, 0]
    sure = np.log([9, 9, 9, 3, 3, 3, 6, 9, 12, 9])  # probability x / (x + 3)
    logits[0, words, chosen] = sure
    (record,) = TASK.predict(examples, features, logits, classes)
    assert " ".join(record["tags"]) == "O O O B-PER I-PER I-PER I-PER O B-LOC O"
    person, place = record["entities"]
    assert {**person, "score": 0} == {
        "text": "A. B.", "label": "PER", "start": 9, "end": 14, "score": 0
    }  # fmt: skip
    assert person["score"] == pytest.approx((3 * 1 / 2 + 2 / 3) / 4)
    assert (place["text"], line[place["start"] : place["end"]]) == ("Rome", "Rome")
    assert place["score"] == pytest.approx(12 / 15)
    json.dumps(record)


def scored(gold: list[str], predicted: list[str]) -> dict[str, float]:
    return bio.scores([tags.split() for tags in gold], [tags.split() for tags in predicted])


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


def test_plain_tags_are_scored_as_the_mean_over_the_tags(
    tmp_path: Path, letters: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "a N\nb N\nc V\n\nd D\n")
    examples = TASK.read(file, DEFAULT, labelled=True)
    assert "each word is scored by itself" in capsys.readouterr().err
    classes = TASK.classes(examples)
    assert classes == ["D", "N", "V"]
    features = TASK.features(examples, letters, 16, classes)
    logits = perfect(features, classes)
    logits[0, 2] = [0, 0, 20]  # b: V for N
    records = TASK.predict(examples, features, logits, classes)
    assert records[0]["tags"] == ["N", "V", "V"]
    assert records[0]["entities"] == []
    scores = TASK.score(examples, records, classes)
    # N: precision 1, recall 1/2; V: precision 1/2, recall 1; D: 1.
    assert scores == pytest.approx({"f1": (2 / 3 + 2 / 3 + 1) / 3, "accuracy": 3 / 4})
    assert TASK.best in scores


@pytest.mark.skipif(
    not (DATA / "wnut17").is_dir() or not (DATA / "vocab").is_dir(),
    reason=f"{DATA} has no wnut17/ and vocab/: real text is not on this machine",
)
def test_real_tweets_are_read_whole(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name in ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"):
        found[name] = TASK.read(str(DATA / "wnut17" / name), DEFAULT, labelled=True)
    assert [len(sentences) for sentences in found.values()] == [3394, 1009, 1287]
    # What the shared task's paper reports.
    counts = [sum(len(bio.entities(s.tags)) for s in sentences) for sentences in found.values()]
    assert counts == [1975, 836, 1079]
    (tmp_path / "vocab.txt").write_bytes((DATA / "vocab/bert-base-cased-vocab.txt").read_bytes())
    examples = found["emerging.test.annotated"]
    classes = TASK.classes(found["wnut17train.conll"])
    features = TASK.features(examples, load(tmp_path), 64, classes)
    records = TASK.predict(examples, features, perfect(features, classes), classes)
    assert TASK.score(examples, records, classes) == {
        "f1": 1, "precision": 1, "recall": 1, "accuracy": 1
    }  # fmt: skip
    for example, record in zip(examples, records, strict=True):
        for entity in record["entities"]:
            assert example.text[entity["start"] : entity["end"]] == entity["text"]
