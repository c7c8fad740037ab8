"""Question answering: the span of a context that answers a question (SQuAD 1.1 and 2.0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.qa.decode import Decoding, Window, decode
from pipelines.tasks.qa.document import Document, encode
from pipelines.tasks.qa.read import Question, read
from pipelines.tasks.qa.score import normalized, score, score_answers, tune_threshold
from pipelines.tasks.reporting import around
from pipelines.tasks.sequences import row_length
from pipelines.tasks.task import Columns, Features, Record, Sample

__all__ = ["TASK", "QaOptions", "QuestionAnswering", "score", "tune_threshold"]

SPECIALS = 3  # [CLS] question [SEP] context [SEP]
SHORTEST = SPECIALS + 2

# The outputs of a network; it has learned to give no answer only from questions that have none.
ANSWERS = ["start", "end"]
ANSWERS_OR_NULL = ["start or null", "end or null"]


@dataclass(frozen=True)
class QaOptions:
    """How contexts become rows, and logits answers; the defaults are google-research/bert's.

    Args:
        stride: Tokens from one window over a long context to the next.
        question_length: Longer questions are cut to so many tokens.
        n_best: How many starts, ends and answers are looked at.
        answer_length: Most tokens of an answer.
        null_threshold: Null odds above which the answer is "" (SQuAD 2.0); see `tune_threshold`.
    """

    stride: int = 128
    question_length: int = 64
    n_best: int = 20
    answer_length: int = 30
    null_threshold: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("stride", "question_length", "n_best", "answer_length"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class _Row:
    """A window with its question and, if it is shown, the answer as positions in the row."""

    example: int
    question: np.ndarray
    window: Window
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class QuestionAnswering:
    """See `task.Task`; examples are `qa_read.Question`."""

    options: QaOptions
    head: Literal["pooled", "tokens"] = "tokens"
    best: str = "f1"

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Question]:
        """See `Task.read` and `qa_read.read`."""
        if columns != Columns():
            raise BadInputError(
                f"{source}: the keys of SQuAD are fixed; leave out the column names"
            )
        return read(source, labelled)

    def classes(self, examples: Sequence[Question]) -> list[str]:
        """The two outputs; their names tell whether there were questions without an answer."""
        return ANSWERS_OR_NULL if any(example.impossible for example in examples) else ANSWERS

    def features(
        self,
        examples: Sequence[Question],
        tokenizer: Tokenizer,
        length: int,
        classes: Sequence[str],
    ) -> Features:
        """See `Task.features`; the targets are ``start`` and ``end``, int32 [R].

        Both are 0, the [CLS] token, where the window does not show all of the answer. A question
        takes at most half of the room. Each note is a `qa_decode.Window`.

        Raises:
            BadInputError: `length` leaves no room for a context.
        """
        if length < SHORTEST:
            raise BadInputError(
                f"a length of {length} leaves no room for a context; it must be at least {SHORTEST}"
            )
        rows = list(self._rows(examples, tokenizer, length))
        used = [SPECIALS + len(row.question) + row.window.count for row in rows]
        R, T = len(rows), row_length(max(used, default=SHORTEST), length)
        ids = np.full((R, T), tokenizer.pad_id, np.int32)
        segments, sequences = np.zeros((R, T), np.int32), np.zeros((R, T), np.int32)
        for number, (row, end) in enumerate(zip(rows, used, strict=True)):
            window = row.window
            ids[number, 0] = tokenizer.cls_id
            ids[number, 1 : window.offset - 1] = row.question
            ids[number, [window.offset - 1, end - 1]] = tokenizer.sep_id
            shown = window.document.ids[window.first : window.first + window.count]
            ids[number, window.offset : end - 1] = shown
            segments[number, window.offset : end] = 1
            sequences[number, :end] = 1
        arrays = {
            "token_ids": ids,
            "token_type_ids": segments,
            "segment_ids": sequences,
            "start": np.array([row.start for row in rows], np.int32),
            "end": np.array([row.end for row in rows], np.int32),
            "weights": np.array([row.weight for row in rows], np.float32),
        }
        numbers = np.array([row.example for row in rows], np.int64)
        firsts = [rows[n] for n in np.searchsorted(numbers, np.arange(len(examples)))]
        whole = [SPECIALS + len(row.question) + len(row.window.document.ids) for row in firsts]
        return Features(arrays, numbers, np.array(whole, np.int64), [row.window for row in rows])

    def _rows(
        self, examples: Sequence[Question], tokenizer: Tokenizer, length: int
    ) -> Iterator[_Row]:
        room = length - SPECIALS
        most = min(self.options.question_length, room // 2)
        documents: dict[str, Document] = {}  # many questions share a context
        questions = encode(tokenizer, [example.question for example in examples])
        for number, (example, whole) in enumerate(zip(examples, questions, strict=True)):
            document = documents.get(example.context)
            if document is None:
                document = documents[example.context] = Document.of(example.context, tokenizer)
            question = whole[:most]
            answer = document.tokens(*example.span) if example.span else None
            weight = float(example.impossible or answer is not None)
            for first, count in _windows(
                len(document.ids), room - len(question), self.options.stride
            ):
                window = Window(document, first, count, len(question) + 2)
                shown = answer and first <= answer[0] and answer[1] < first + count
                start, end = (
                    (token - first + window.offset for token in answer)
                    if answer and shown
                    else (0, 0)
                )
                yield _Row(number, question, window, start, end, weight)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Mean of the cross-entropies of start and end; right if both are.

        No position is masked out, not even padding: the network learns that itself, as in
        google-research/bert.

        Args:
            logits: float32 [B, T, 2].
            batch: ``start`` and ``end``, int32 [B]; ``weights``, float32 [B].
        """
        targets = jnp.stack([batch["start"], batch["end"]], axis=1)
        scores = jnp.swapaxes(logits, 1, 2)
        halves = jnp.repeat(batch["weights"][:, None] / 2, 2, axis=1)
        tally = cross_entropy(scores, targets, halves)
        right = jnp.all(jnp.argmax(scores, axis=2) == targets, axis=1)
        return MetricSums(tally.loss, jnp.sum(right * batch["weights"]), tally.count)

    def predict(
        self,
        examples: Sequence[Question],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """See `Task.predict` and `qa_decode.decode`; "" is an answer only to `ANSWERS_OR_NULL`."""
        options = self.options
        how = Decoding(
            options.n_best,
            options.answer_length,
            options.null_threshold,
            with_null=list(classes) == ANSWERS_OR_NULL,
        )
        bounds = np.searchsorted(features.examples, np.arange(len(examples) + 1))
        return [
            {
                "id": example.id,
                **decode(features.notes[first:end], logits[first:end], how),
            }
            for example, first, end in zip(examples, bounds, bounds[1:], strict=False)
        ]

    def score(
        self, examples: Sequence[Question], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Percentages as in `qa_score.score`.

        Where there are questions without an answer the best thresholds are found among the best
        answers that are not "".
        """
        golds = {example.id: example.answers for example in examples}
        chosen = {record["id"]: record["answer"] for record in predictions}
        if not any(example.impossible for example in examples):
            return score_answers(golds, chosen, with_null=False)
        spoken = {
            record["id"]: next((n["answer"] for n in record["n_best"] if n["answer"]), "")
            for record in predictions
        }
        odds = {record["id"]: record["null_odds"] for record in predictions}
        tuned = score_answers(golds, spoken, True, odds)
        best = {name: value for name, value in tuned.items() if name.startswith("best_")}
        return score_answers(golds, chosen, with_null=True) | best

    def counts(self, examples: Sequence[Question]) -> Counter[str]:
        """See `Task.counts`: whether the context holds an answer."""
        kinds = (("no answer" if example.impossible else "an answer") for example in examples)
        return Counter(kinds)

    def sample(self, example: Question, prediction: Record) -> Sample:
        """See `Task.sample`; of the context what is around the answer."""
        places = [example.span, (prediction["start"], prediction["end"])]
        spans = [place for place in places if place is not None and place[0] is not None]
        given = {"question": example.question, "passage": around(example.context, spans)}
        answer, answers = prediction["answer"], example.answers or ("",)
        true, found = (text or "(no answer)" for text in (answers[0], answer))
        right = normalized(answer) in map(normalized, answers)
        return Sample(given, true, found, prediction["probability"], right)


def _windows(tokens: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """First token and number of tokens of each window; one, if empty, for no tokens at all."""
    first = 0
    while first + room < tokens:
        yield first, room
        first += min(room, stride)
    yield first, tokens - first


TASK = QuestionAnswering(QaOptions())
