"""Question answering: from files to rows for the network, and from its logits to answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.runtime.errors import BadInputError
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import SPECIALS, Tokenizer, WordPieceTokenizer
from pipelines.tasks.qa.decode import CERTAIN, owners
from pipelines.tasks.qa.document import Document
from pipelines.tasks.qa.read import Question
from pipelines.tasks.qa.task import (
    ANSWERS,
    ANSWERS_OR_NULL,
    QaOptions,
    QuestionAnswering,
)
from pipelines.tasks.task import Record
from support.answers import certain
from support.commands import ROOT

# Lower case letters are words and pieces of words.
TINY = ROOT / "tests/golden/tf1"
LETTERS = "a b c d e f g h i j"


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    return tokenizers.load(TINY)


def about(context: str, answer: str, question: str = "k") -> Question:
    """A question whose answer is the first such text of the context."""
    start = context.index(answer)
    return Question("q", question, context, (answer,), (start, start + len(answer)))


def test_a_row_is_the_question_and_its_context(tiny: Tokenizer) -> None:
    question = about("The man in\nthe store, milking.", "store", "man on ?")
    result = QuestionAnswering().features([question], tiny, 64, ANSWERS)
    pieces = [tiny.pieces[token] for token in result.arrays["token_ids"][0]]
    assert " ".join(pieces) == (
        "[CLS] man on ? [SEP] the man in the store , milk ##ing . [SEP] [PAD]"
    )
    assert result.arrays["token_type_ids"].tolist() == [[0] * 5 + [1] * 10 + [0]]
    assert result.arrays["segment_ids"].tolist() == [[1] * 15 + [0]]
    assert (result.arrays["start"], result.arrays["end"]) == ([9], [9])
    assert result.arrays["weights"].tolist() == [1]
    assert {name: array.dtype for name, array in result.arrays.items()} == {
        **dict.fromkeys(["token_ids", "token_type_ids", "segment_ids", "start", "end"], np.int32),
        "weights": np.float32,
    }


def test_a_long_context_is_seen_through_windows(tiny: Tokenizer) -> None:
    task = QuestionAnswering(QaOptions(stride=2))
    windows = task.features([about(LETTERS, "e f")], tiny, 10, ANSWERS)
    pieces = [[tiny.pieces[token] for token in row] for row in windows.arrays["token_ids"]]
    assert ["".join(row[3:9]) for row in pieces] == ["abcdef", "cdefgh", "efghij"]
    assert windows.examples.tolist() == [0, 0, 0]
    assert windows.arrays["start"].tolist() == [7, 5, 3]
    assert windows.arrays["end"].tolist() == [8, 6, 4]
    # A window that cuts the answer learns that there is none: [CLS].
    cut = task.features([about(LETTERS, "h i")], tiny, 10, ANSWERS)
    assert cut.arrays["start"].tolist() == [0, 0, 6]
    assert cut.arrays["end"].tolist() == [0, 0, 7]
    assert cut.arrays["weights"].tolist() == [1, 1, 1]


def test_the_window_with_most_context_owns_a_token(tiny: Tokenizer) -> None:
    task = QuestionAnswering(QaOptions(stride=2))
    features = task.features([about(LETTERS, "e")], tiny, 10, ANSWERS)
    assert owners(features.notes).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    # The first of equals (the fourth token), and the longer one where a window is short.
    features = QuestionAnswering(QaOptions(stride=1)).features(
        [about("a b c d e f g", "e")], tiny, 10, ANSWERS
    )
    assert owners(features.notes).tolist() == [0, 0, 0, 0, 1, 1, 1]
    features = QuestionAnswering(QaOptions(stride=5)).features(
        [about("a b c d e f g", "e")], tiny, 10, ANSWERS
    )
    assert owners(features.notes).tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_an_impossible_question_learns_cls_and_a_lost_answer_nothing(tiny: Tokenizer) -> None:
    examples = [
        Question("none", "k", LETTERS, impossible=True),
        Question("lost", "k", LETTERS, ("z",)),
        Question("unlabeled", "k", LETTERS),
    ]
    arrays = QuestionAnswering().features(examples, tiny, 64, ANSWERS_OR_NULL).arrays
    assert arrays["weights"].tolist() == [1, 0, 0]
    assert not arrays["start"].any()
    assert not arrays["end"].any()
    assert QuestionAnswering().classes(examples) == ANSWERS_OR_NULL
    assert QuestionAnswering().classes(examples[1:]) == ANSWERS


def test_a_question_takes_64_tokens_and_at_most_half_of_the_room(tiny: Tokenizer) -> None:
    question = about(LETTERS, "e", "k " * 100)
    sizes = {}
    for length in (384, 23):
        arrays = QuestionAnswering().features([question], tiny, length, ANSWERS).arrays
        sizes[length] = (arrays["token_ids"][0] == tiny.pieces.index("k")).sum()
        assert arrays["token_ids"].shape[1] <= length
    assert sizes == {384: 64, 23: 10}
    with pytest.raises(BadInputError, match="length of 4 leaves no room"):
        QuestionAnswering().features([question], tiny, 4, ANSWERS)


def test_the_loss_is_the_mean_of_both_ends_and_right_is_both(tiny: Tokenizer) -> None:
    features = QuestionAnswering().features(
        [about("a b c", "b"), about("a b c", "c"), about("a b c", "a")], tiny, 64, ANSWERS
    )
    logits = certain(features, [4, 5, 3], [4, 4, 3])  # right, wrong end, right
    batch = {
        name: jnp.concatenate([jnp.asarray(array), jnp.zeros_like(array[:1])])
        for name, array in features.arrays.items()
    }
    batch["weights"] = batch["weights"].at[2].set(0)
    logits = np.concatenate([logits, np.full_like(logits[:1], 7)])  # and a row that fills up
    sums = QuestionAnswering().objective(jnp.asarray(logits), batch)
    rest = np.log(np.exp(10) + 7)  # T is 8
    assert float(sums.loss) == pytest.approx(2 * (rest - 10) + 10 / 2, rel=1e-5)
    assert float(sums.correct) == 1
    assert float(sums.count) == 2


def answer(
    task: QuestionAnswering,
    tokenizer: Tokenizer,
    question: Question,
    changes: dict[tuple[int, int, int], float],
    classes: Sequence[str] = ANSWERS,
    length: int = 10,
) -> Record:
    """Predict from logits that are 0 except for `changes` at (row, position, side)."""
    features = task.features([question], tokenizer, length, classes)
    logits = np.zeros((*features.arrays["token_ids"].shape, 2), np.float32)
    for position, value in changes.items():
        logits[position] = value
    (record,) = task.predict([question], features, logits, classes)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    return record


def test_an_answer_starts_in_the_window_that_owns_its_first_token(tiny: Tokenizer) -> None:
    task = QuestionAnswering(QaOptions(stride=2))
    # Row 0 shows e (position 7) near its edge; row 1, whose it is, at 5.
    changes = {(0, 7, 0): 9.0, (1, 5, 0): 3.0, (1, 6, 1): 4.0}
    result = answer(task, tiny, about(LETTERS, "e"), changes)
    assert (result["answer"], result["start"], result["end"]) == ("e f", 8, 11)
    assert result["score"] == 7
    assert result["null_odds"] == -7
    assert result["n_best"][0]["answer"] == "e f"
    assert sum(candidate["probability"] for candidate in result["n_best"]) == pytest.approx(1)
    assert (
        len({candidate["answer"] for candidate in result["n_best"]}) == len(result["n_best"]) == 20
    )


def test_an_answer_is_in_the_context_and_neither_backward_nor_too_long(tiny: Tokenizer) -> None:
    # Positions: [CLS] k [SEP] a … j [SEP]: 3 is a, 12 is j.
    high = {(0, 1, 0): 9.0, (0, 13, 1): 9.0, (0, 2, 0): 9.0}
    question = about(LETTERS, "e")
    backward = {**high, (0, 9, 0): 5.0, (0, 5, 1): 4.0}
    assert answer(QuestionAnswering(), tiny, question, backward, length=16)["answer"] == "g"
    forward = {**high, (0, 5, 0): 5.0, (0, 9, 1): 4.0}
    assert answer(QuestionAnswering(), tiny, question, forward, length=16)["answer"] == "c d e f g"
    short = QuestionAnswering(QaOptions(answer_length=4))
    assert answer(short, tiny, question, forward, length=16)["answer"] == "c"


def test_a_text_that_occurs_twice_is_answered_once_with_its_best_score(tiny: Tokenizer) -> None:
    # Positions: 3 and 5 are both a; the second is the likelier.
    changes = {(0, 3, 0): 5.0, (0, 3, 1): 5.0, (0, 5, 0): 9.0, (0, 5, 1): 9.0}
    result = answer(QuestionAnswering(), tiny, about("a b a c", "a"), changes, length=16)
    (best,) = (candidate for candidate in result["n_best"] if candidate["answer"] == "a")
    assert (result["answer"], result["start"], result["score"]) == ("a", 4, 18)
    assert best["probability"] == max(candidate["probability"] for candidate in result["n_best"])


def test_there_is_an_answer_even_if_the_likeliest_positions_are_invalid(tiny: Tokenizer) -> None:
    task = QuestionAnswering(QaOptions(n_best=1))
    outside = {(0, 0, 0): 9.0, (0, 0, 1): 9.0, (0, 6, 0): 2.0}
    result = answer(task, tiny, about(LETTERS, "e"), outside, length=16)
    assert result["answer"] == "d"
    assert result["null_odds"] == 16


@pytest.mark.parametrize("classes", [ANSWERS, ANSWERS_OR_NULL])
@pytest.mark.parametrize("context", ["", " \n\u202f", "\u200b"])
def test_a_context_without_text_has_no_answer(
    tiny: Tokenizer, context: str, classes: list[str]
) -> None:
    result = answer(QuestionAnswering(), tiny, Question("q", "", context), {}, classes)
    assert (result["answer"], result["start"], result["end"]) == ("", None, None)
    assert result["null_odds"] == CERTAIN
    assert [candidate["answer"] for candidate in result["n_best"]] == [""]


def test_no_answer_is_chosen_above_the_threshold_and_only_if_learned(tiny: Tokenizer) -> None:
    # Null is 6, the best answer 5: the odds are 1.
    logits = {(0, 0, 0): 4.0, (0, 0, 1): 2.0, (0, 5, 0): 3.0, (0, 5, 1): 2.0}
    question = about(LETTERS, "c")
    by_threshold = {}
    for threshold in (0.0, 1.0):
        task = QuestionAnswering(QaOptions(null_threshold=threshold))
        result = answer(task, tiny, question, logits, ANSWERS_OR_NULL, 16)
        assert result["null_odds"] == 1
        assert [candidate["answer"] for candidate in result["n_best"]][:2] == ["", "c"]
        by_threshold[threshold] = result["answer"], result["score"], result["start"]
    assert by_threshold == {0.0: ("", 6, None), 1.0: ("c", 5, 4)}
    result = answer(QuestionAnswering(), tiny, question, logits, ANSWERS, 16)
    assert result["answer"] == "c"
    assert result["n_best"][0]["answer"] == "c"


def test_the_null_score_is_the_least_of_all_windows(tiny: Tokenizer) -> None:
    task = QuestionAnswering(QaOptions(stride=2))
    null = {(0, 0, 0): 4.0, (1, 0, 0): 8.0, (1, 0, 1): -5.0, (2, 0, 1): 6.0}
    assert answer(task, tiny, about(LETTERS, "e"), null)["null_odds"] == 3


@pytest.mark.parametrize(
    ("context", "expected_answer"),
    [
        ('He said: "Milk (in May) store".', "Milk"),
        ("Milk,\u00a0store", "store"),
        ("in (the 1s)", "1s"),  # a word that is unknown
        ("the caf\u00e9s' man", "caf\u00e9"),
        ("the cafe\u0301s' man", "cafe\u0301"),  # letter and accent apart
        ("on 한국어, in", "한국어"),
        ("北京在中国。", "中国"),
        ("the \u200bman", "man"),
        ("milking\r\nthe\tstore", "milking\r\nthe\tstore"),
    ],
)
def test_an_answer_is_cut_out_of_the_words_as_they_were_written(
    context: str, expected_answer: str
) -> None:
    pieces = [*SPECIALS, *".,!?()':\"。", *map(chr, range(97, 123)), *"北京在中国"]
    pieces += [f"##{chr(letter)}" for letter in range(97, 123)]
    pieces += ["\u1112", *(f"##{chr(letter)}" for letter in range(0x1100, 0x1200))]
    tokenizer = WordPieceTokenizer(pieces, uncased=True)
    document = Document.of(context, tokenizer)
    start = context.index(expected_answer)
    tokens = document.tokens(start, start + len(expected_answer))
    assert tokens is not None
    assert context[slice(*document.characters(*tokens))] == expected_answer


def test_sentencepiece_answers_keep_their_place(tokenizer_dir: Path) -> None:
    tokenizer = tokenizers.load(tokenizer_dir)
    context = "The captain finds “a wooden boat” (near the river).  Our teacher paints."
    for expected_answer in ("captain", "a wooden boat", "near the river", "river", "Our teacher"):
        question = about(context, expected_answer, "the cook?")
        features = QuestionAnswering().features([question], tokenizer, 128, ANSWERS)
        (row,) = features.arrays["token_ids"][features.arrays["weights"] > 0]
        first, last = features.arrays["start"][0], features.arrays["end"][0]
        assert tokenizer.decode(row[first : last + 1]).strip(" “(") == expected_answer.lower()
        (result,) = QuestionAnswering().predict(
            [question], features, certain(features, first, last), ANSWERS
        )
        assert result["answer"] == expected_answer
        assert context[result["start"] : result["end"]] == expected_answer
    word = tokenizer.encode(["(the"])[0]
    assert word == tokenizer.encode_with_offsets(["(the"])[0][0]


@pytest.mark.parametrize("option", ["stride", "question_length", "n_best", "answer_length"])
def test_an_impossible_option_is_named(option: str) -> None:
    with pytest.raises(BadInputError, match=f"{option} must be at least 1, not 0"):
        QuestionAnswering(QaOptions(**{option: 0}))


def test_the_task_scores_its_own_predictions(tiny: Tokenizer) -> None:
    examples = [
        Question("one", "k", LETTERS, ("c d",), (4, 7)),
        Question("two", "k", LETTERS, ("e",), (8, 9)),
    ]
    features = QuestionAnswering().features(examples, tiny, 64, ANSWERS)
    records = QuestionAnswering().predict(
        examples, features, certain(features, [5, 7], [5, 7]), ANSWERS
    )
    assert [record["id"] for record in records] == ["one", "two"]
    result = QuestionAnswering().score(examples, records, ANSWERS)
    assert result == {"exact": 50.0, "f1": pytest.approx(250 / 3), "total": 2}

    examples.append(Question("none", "k", LETTERS, impossible=True))
    features = QuestionAnswering().features(examples, tiny, 64, ANSWERS_OR_NULL)
    logits = certain(features, [5, 7, 3], [6, 7, 3])
    logits[:, 0] = [[8, 8], [11, 11], [11.5, 11.5]]  # odds -4, 2 and 3: two answers are held back
    records = QuestionAnswering().predict(examples, features, logits, ANSWERS_OR_NULL)
    assert [record["answer"] for record in records] == ["c d", "", ""]
    result = QuestionAnswering().score(examples, records, ANSWERS_OR_NULL)
    assert result["f1"] == pytest.approx(200 / 3)
    assert (result["HasAns_f1"], result["NoAns_f1"]) == (50, 100)
    assert (result["best_f1"], result["best_f1_thresh"]) == (100, 2)


def test_a_context_of_100_000_words_is_taken(tiny: Tokenizer) -> None:
    context = "a b c d " * 25_000
    question = Question("q", "k", context, ("z",), (len(context) - 2, len(context) - 1))
    features = QuestionAnswering().features([question], tiny, 384, ANSWERS)
    # 380 tokens a window, one every 128: the last of 780 begins at 779 · 128 = 99,712.
    assert features.arrays["token_ids"].shape == (780, 384)
    assert features.arrays["start"].nonzero()[0].tolist() == [779]
    logits = certain(features, features.arrays["start"], features.arrays["end"])
    (result,) = QuestionAnswering().predict([question], features, logits, ANSWERS)
    assert (result["start"], result["end"]) == question.span
