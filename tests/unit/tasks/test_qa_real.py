"""Question answering on real questions, against plain renderings of run_squad.py's rules."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.qa.decode import Window, owners
from pipelines.tasks.qa.read import Question
from pipelines.tasks.qa.task import ANSWERS, ANSWERS_OR_NULL, QuestionAnswering
from pipelines.tasks.task import Columns
from support.answers import DATA, certain, real

pytestmark = real


def published(question: Question, tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Rows of (first token, tokens, start, end), in plain Python after run_squad.py's rules."""
    words, word_of = [], []
    fresh = True
    for letter in question.context:
        if letter in " \t\r\n\u202f":
            fresh = True
        else:
            words += [""] if fresh else []
            words[-1] += letter
            fresh = False
        word_of.append(len(words) - 1)
    tokens, begins = [], []
    for word in words:
        begins.append(len(tokens))
        tokens += tokenizer.encode([word])[0]
    assert question.span is not None
    start = begins[word_of[question.span[0]]]
    end = [*begins, len(tokens)][word_of[question.span[1] - 1] + 1] - 1
    own = tokenizer.encode([question.context[slice(*question.span)]])[0]
    for first in range(start, end + 1):
        if tokens[first : first + len(own)] == own and first + len(own) - 1 <= end:
            start, end = first, first + len(own) - 1
            break
    used = min(len(tokenizer.encode([question.question])[0]), 64)
    rows: list[list[int]] = []
    first = 0
    while True:
        count = min(len(tokens) - first, length - used - 3)
        inside = first <= start and end < first + count
        shift = used + 2 - first
        rows.append([first, count, *((start + shift, end + shift) if inside else (0, 0))])
        if first + count == len(tokens):
            return rows
        first += min(count, 128)


def owner(rows: list[list[int]], token: int) -> int:
    scores = [
        min(token - first, first + count - 1 - token) + 0.01 * count
        if first <= token < first + count
        else -1
        for first, count, *_ in rows
    ]
    return scores.index(max(scores))


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Question], Tokenizer]:
    folder = tmp_path_factory.mktemp("uncased")
    vocabulary = DATA.parent / "vocab" / "bert-base-uncased-vocab.txt"
    if not vocabulary.is_file():
        pytest.skip(f"{vocabulary} is not on this machine")
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
    examples = QuestionAnswering().read(str(DATA / "train-subset-4000.json"), Columns(), True)
    return examples, tokenizers.load(folder)


@pytest.mark.parametrize("length", [384, 192])
def test_rows_and_targets_are_those_of_the_published_rules(
    squad: tuple[list[Question], Tokenizer], length: int
) -> None:
    examples, tokenizer = squad
    features = QuestionAnswering().features(examples, tokenizer, length, ANSWERS)
    targets = zip(features.arrays["start"], features.arrays["end"], strict=True)
    result = [
        [window.first, window.count, int(start), int(end)]
        for window, (start, end) in zip(features.notes, targets, strict=True)
    ]
    expected = [published(example, tokenizer, length) for example in examples]
    assert [row[:2] for row in result] == [row[:2] for rows in expected for row in rows]
    # Six answers end inside a token, and so have other tokens by themselves: there the published
    # code keeps all of the word, such as "Indirectly," for "Indirect".
    differ = {
        examples[number].answers[0]
        for number, row, other in zip(
            features.examples, result, [row for rows in expected for row in rows], strict=True
        )
        if row != other
    }
    assert differ == {"Indirect", "emperor", "2", "Architect", "German", "20"}
    first = 0
    for rows in expected:
        owned = owners(features.notes[first : first + len(rows)]).tolist()
        assert owned == [owner(rows, token) for token in range(len(owned))]
        first += len(rows)


def test_right_logits_give_the_right_answers(squad: tuple[list[Question], Tokenizer]) -> None:
    examples, tokenizer = squad
    features = QuestionAnswering().features(examples, tokenizer, 384, ANSWERS)
    logits = certain(features, features.arrays["start"], features.arrays["end"])
    records = QuestionAnswering().predict(examples, features, logits, ANSWERS)
    long, inside = set(), set()
    for number, rows in groupby(
        zip(features.examples, features.notes, strict=True), lambda x: x[0]
    ):
        (_, window), *_ = rows
        tokens = window.document.tokens(*examples[number].span)
        if tokens[1] - tokens[0] >= QuestionAnswering().options.answer_length:
            long.add(number)
        elif window.document.characters(*tokens) != examples[number].span:
            inside.add(number)
    # What does not survive: answers of more than 30 tokens, and those that end inside a token.
    assert (len(examples), len(long), len(inside)) == (4000, 13, 21)
    kept = [number for number in range(len(examples)) if number not in long | inside]
    assert all(records[number]["answer"] == examples[number].answers[0] for number in kept)
    assert all(
        (records[number]["start"], records[number]["end"]) == examples[number].span
        for number in kept
    )
    score = QuestionAnswering().score(
        [examples[n] for n in kept], [records[n] for n in kept], ANSWERS
    )
    assert score["exact"] == score["f1"] == 100


def best_span(windows: list[Window], logits: np.ndarray) -> tuple[float, float]:
    """Score of the best answer and of none, in plain Python after run_squad.py's rules."""
    rows = [[window.first, window.count] for window in windows]
    best, null = -np.inf, np.inf
    for number, (window, row) in enumerate(zip(windows, logits.astype(float), strict=True)):
        starts, ends = (
            sorted(range(len(row)), key=lambda position: row[position, side], reverse=True)[:20]
            for side in (0, 1)
        )
        null = min(null, row[0].sum())
        context = range(window.offset, window.offset + window.count)
        for start in starts:
            if start not in context:
                continue
            if owner(rows, start - window.offset + window.first) != number:
                continue
            for end in ends:
                if end in context and start <= end < start + 30:
                    best = max(best, row[start, 0] + row[end, 1])
    return best, null


def test_of_any_logits_the_answer_is_that_of_the_published_rules(
    squad: tuple[list[Question], Tokenizer],
) -> None:
    examples, tokenizer = squad
    examples = examples[:60]
    features = QuestionAnswering().features(examples, tokenizer, 128, ANSWERS_OR_NULL)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*features.arrays["token_ids"].shape, 2)).astype(np.float32)
    logits[features.examples % 2 == 0, 0] += 5  # of half of them [CLS] is likely
    compared = silent = 0
    for classes in (ANSWERS, ANSWERS_OR_NULL):
        records = QuestionAnswering().predict(examples, features, logits, classes)
        for number, record in enumerate(records):
            rows = features.examples == number
            windows = [w for w, mine in zip(features.notes, rows, strict=True) if mine]
            best, null = best_span(windows, logits[rows])
            if best == -np.inf:
                continue
            compared += 1
            assert record["null_odds"] == pytest.approx(null - best)
            silent += not record["answer"]
            nothing = classes is ANSWERS_OR_NULL and null > best
            assert record["score"] == pytest.approx(null if nothing else best)
            assert (record["answer"] == "") == nothing
    assert compared > 100
    assert 10 < silent < 50
