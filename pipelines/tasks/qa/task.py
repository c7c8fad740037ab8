"""Question answering: the span of a context that answers a question (SQuAD 1.1 and 2.0)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.qa import serving
from pipelines.tasks.qa.decode import Decoding, Window, decode
from pipelines.tasks.qa.document import Document, encode
from pipelines.tasks.qa.read import Question, read
from pipelines.tasks.qa.score import normalized, score_answers
from pipelines.tasks.reporting import around
from pipelines.tasks.sequences import row_length
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.task import REQUEST_ID, Columns, Features, Record, Sample, Task

SPECIALS = 3  # [CLS] question [SEP] context [SEP]
SHORTEST = SPECIALS + 2

# The outputs of a network. Only training questions without an answer teach it to give none.
ANSWERS = ["start", "end"]
ANSWERS_OR_NULL = ["start or null", "end or null"]


@dataclass(frozen=True)
class QaOptions:
    """Windows over contexts and choice of answers; the defaults are google-research/bert's.

    Args:
        stride: qa: tokens from one window over a long context to the next.
        question_length: qa: longer questions are truncated to so many tokens.
        n_best: qa: number of starts, ends and answers to consider.
        answer_length: qa: most tokens of an answer.
        null_threshold: qa: null odds above which there is no answer (SQuAD 2.0).
    """

    stride: int = 128
    question_length: int = 64
    n_best: int = 20
    answer_length: int = 30
    null_threshold: float = 0.0


@dataclass(frozen=True)
class _Row:
    """A window with its question and the positions of the answer; 0 if it is not in the window."""

    example: int
    question: np.ndarray
    window: Window
    start: int
    end: int
    weight: float


class QuestionAnswering(Task):
    """Examples are `read.Question`; metrics are percentages."""

    name = "qa"
    summary = "The part of a passage that answers a question"
    example_file = "train.json"
    head = "tokens"
    best_metric = "f1"
    architecture = "BertForQuestionAnswering"
    outputs = "fixed"
    splits_examples = True
    label_title = "the passage contains"
    endpoint = serving.ENDPOINT
    Options = QaOptions
    options: QaOptions

    def __init__(self, options: QaOptions | None = None, bad_rows: BadRows = STOP) -> None:
        """See `Task`.

        Raises:
            BadInputError: An option is out of range.
        """
        super().__init__(options, bad_rows)
        for name in ("stride", "question_length", "n_best", "answer_length"):
            if getattr(self.options, name) < 1:
                raise BadInputError(f"{name} must be at least 1, not {getattr(self.options, name)}")

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Question]:
        """See `Task.read` and `read.read`."""
        if columns != Columns():
            raise BadInputError(
                f"{source}: SQuAD files have fixed keys; remove the column names (data.columns)"
            )
        return read(source, labeled, self.bad_rows)

    def classes(self, examples: Sequence[Question]) -> list[str]:
        """Return two outputs, whose names state whether some questions have no answer."""
        return ANSWERS_OR_NULL if any(example.impossible for example in examples) else ANSWERS

    def features(
        self,
        examples: Sequence[Question],
        tokenizer: Tokenizer,
        length: int,
        classes: Sequence[str],
    ) -> Features:
        """See `Task.features`; the targets are ``start`` and ``end``, int32 [R].

        Both are 0, the [CLS] token, unless the window contains the whole answer. A question takes
        at most half of the row. Each note is a `decode.Window`.

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
        token_type_ids, segment_ids = np.zeros((R, T), np.int32), np.zeros((R, T), np.int32)
        for number, (row, end) in enumerate(zip(rows, used, strict=True)):
            window = row.window
            ids[number, 0] = tokenizer.cls_id
            ids[number, 1 : window.offset - 1] = row.question
            ids[number, [window.offset - 1, end - 1]] = tokenizer.sep_id
            tokens = window.document.ids[window.first : window.first + window.count]
            ids[number, window.offset : end - 1] = tokens
            token_type_ids[number, window.offset : end] = 1
            segment_ids[number, :end] = 1
        arrays = {
            "token_ids": ids,
            "token_type_ids": token_type_ids,
            "segment_ids": segment_ids,
            "start": np.array([row.start for row in rows], np.int32),
            "end": np.array([row.end for row in rows], np.int32),
            "weights": np.array([row.weight for row in rows], np.float32),
        }
        numbers = np.array([row.example for row in rows], np.int64)
        firsts = [rows[n] for n in np.searchsorted(numbers, np.arange(len(examples)))]
        lengths = [SPECIALS + len(row.question) + len(row.window.document.ids) for row in firsts]
        return Features(arrays, numbers, np.array(lengths, np.int64), [row.window for row in rows])

    def _rows(
        self, examples: Sequence[Question], tokenizer: Tokenizer, length: int
    ) -> Iterator[_Row]:
        room = length - SPECIALS
        most = min(self.options.question_length, room // 2)
        documents: dict[str, Document] = {}  # many questions have the same context
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
                start, end = 0, 0
                if answer and first <= answer[0] and answer[1] < first + count:
                    start, end = (token - first + window.offset for token in answer)
                yield _Row(number, question, window, start, end, weight)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the mean cross-entropy of start and end; correct if both are.

        No position is masked, not even padding: the network learns to avoid it, as in
        google-research/bert. Packed rows have none.

        Args:
            logits: float32 [B, T, 2].
            batch: ``start`` and ``end``, int32 [B]; ``weights``, float32 [B].
        """
        targets = jnp.stack([batch["start"], batch["end"]], axis=1)  # [B, 2]
        scores = jnp.swapaxes(logits, 1, 2)  # [B, 2, T]
        halves = jnp.repeat(batch["weights"][:, None] / 2, 2, axis=1)
        sums = cross_entropy(scores, targets, halves)
        correct = jnp.all(jnp.argmax(scores, axis=2) == targets, axis=1)
        return MetricSums(sums.loss, jnp.sum(correct * batch["weights"]), sums.count)

    def predict(
        self,
        examples: Sequence[Question],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """See `Task.predict` and `decode.decode`; "" is an answer only with `ANSWERS_OR_NULL`."""
        options = self.options
        decoding = Decoding(
            options.n_best,
            options.answer_length,
            options.null_threshold,
            with_null=list(classes) == ANSWERS_OR_NULL,
        )
        bounds = np.searchsorted(features.examples, np.arange(len(examples) + 1))
        return [
            {
                "id": example.id,
                **decode(features.notes[first:end], logits[first:end], decoding),
            }
            for example, first, end in zip(examples, bounds, bounds[1:], strict=False)
        ]

    def score(
        self, examples: Sequence[Question], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Return percentages; see `score.score`.

        If some questions have no answer, the best thresholds are those for the best answers that
        are not "".
        """
        golds = {example.id: example.answers for example in examples}
        chosen = {record["id"]: record["answer"] for record in predictions}
        if not any(example.impossible for example in examples):
            return score_answers(golds, chosen, with_null=False)
        best_answers = {
            record["id"]: next((n["answer"] for n in record["n_best"] if n["answer"]), "")
            for record in predictions
        }
        odds = {record["id"]: record["null_odds"] for record in predictions}
        tuned = score_answers(golds, best_answers, True, odds)
        best = {name: value for name, value in tuned.items() if name.startswith("best_")}
        return score_answers(golds, chosen, with_null=True) | best

    def counts(self, examples: Sequence[Question]) -> Counter[str]:
        """See `Task.counts`; counts contexts with and without an answer."""
        kinds = (("no answer" if example.impossible else "an answer") for example in examples)
        return Counter(kinds)

    def sample(self, example: Question, prediction: Record) -> Sample:
        """See `Task.sample`; the passage is the part of the context around the answers."""
        candidates = [example.span, (prediction["start"], prediction["end"])]
        spans = [span for span in candidates if span is not None and span[0] is not None]
        inputs = {"question": example.question, "passage": around(example.context, spans)}
        answer, answers = prediction["answer"], example.answers or ("",)
        true, predicted = (text or "(no answer)" for text in (answers[0], answer))
        correct = normalized(answer) in map(normalized, answers)
        return Sample(inputs, true, predicted, prediction["probability"], correct)

    def from_request(self, request: serving.Question) -> list[Question]:
        return [Question(REQUEST_ID, request.question, request.context)]


def _windows(tokens: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield first token and token count of each window; a single empty one for no tokens."""
    first = 0
    while first + room < tokens:
        yield first, room
        first += min(room, stride)
    yield first, tokens - first
