"""Multiple choice: which of several continuations or answers fits a text (SWAG, in the paper)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax import Array

from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences
from pipelines.tasks.classification import softmax
from pipelines.tasks.endpoint import Endpoint, Field
from pipelines.tasks.tables.read import read
from pipelines.tasks.tables.table import Table, checked
from pipelines.tasks.task import REQUEST_ID, Columns, Features, Record, Sample, Task

CONTEXTS = ("text", "context", "sent1", "question")
LABELS = ("label", "answer")
# In the files of SWAG, every ending continues the text of a second column.
BEGINNINGS = {"sent1": "sent2"}

_ENDING = re.compile(r"(?:ending|choice|answer)_?([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Question:
    """A text and its possible continuations.

    Attributes:
        id: Unique.
        text: The text.
        choices: The continuations or answers.
        label: Index of the right choice; None without labels.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    label: int | None = None


@dataclass(frozen=True)
class Choices:
    """A text and its possible continuations."""

    text: str
    choices: list[str]


@dataclass(frozen=True)
class Chosen:
    """The choice that fits best."""

    label: int
    choice: str
    probabilities: list[float]
    truncated: bool


class MultipleChoice(Task):
    """Each choice is a pair with the text, with a softmax over the scores of a question.

    The choices are in a JSON list ``choices`` or ``endings``, or in columns ``ending0``,
    ``ending1`` and so on. The label is the index, from 0, or the letter, from A. `Columns.pair`
    names a column that is put before every choice.
    """

    name = "multiple-choice"
    summary = "The choice that fits best"
    example_file = "train.jsonl"
    head = "pooled"
    best_metric = "accuracy"
    architecture = "BertForMultipleChoice"
    length_of = "a text with a choice"
    label_title = "right choice"
    endpoint = Endpoint(
        Choices,
        Chosen,
        title="Multiple choice",
        text="Which of several texts fits best after another.",
        button="Choose",
        fields={
            "text": Field("Text", "The sailor carried the lamp to the river."),
            "choices": Field(
                "Choices, one per line (2 to 16; best as many as in training)",
                "There he lit it and waited for the boat.\nThe bread was sold before noon.",
                rows=4,
            ),
        },
    )

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Question]:
        """See `Task.read`; every question has the same number of choices."""
        table = read(source, columns, self.bad_rows)
        text = table.column(columns.text, CONTEXTS, "text")
        texts, choices = table.texts(text), _choices(table)
        beginning = columns.pair and table.column(columns.pair, (), "pair")
        if not columns.pair and BEGINNINGS.get(text) in table.columns:
            beginning = BEGINNINGS[text]
        if beginning:
            choices = [
                tuple(f"{start} {choice}" for choice in row)
                for start, row in zip(table.texts(beginning), choices, strict=True)
            ]
        table.warn_of_empty(texts, *zip(*choices, strict=True))
        labels: Sequence[int | None] = [None] * len(texts)
        if labeled:
            labels = _indices(table, table.column(columns.label, LABELS, "label"), len(choices[0]))
        return [
            Question(*row)
            for row in zip(table.ids(columns.id), texts, choices, labels, strict=True)
        ]

    def classes(self, examples: Sequence[Question]) -> list[str]:
        """Return the name of the only output: a score."""
        return ["score"]

    def features(
        self,
        examples: Sequence[Question],
        tokenizer: Tokenizer,
        length: int,
        classes: Sequence[str],
    ) -> Features:
        """See `Task.features`; arrays are [R, C, T], and the targets ``labels`` int32 [R]."""
        C = len(examples[0].choices)
        texts = tokenizer.encode([example.text for example in examples])
        a = [ids for ids in texts for _ in range(C)]
        b = tokenizer.encode([choice for example in examples for choice in example.choices])
        arrays = sequences.rows(a, b, tokenizer, length)
        arrays = {name: array.reshape(-1, C, array.shape[1]) for name, array in arrays.items()}
        labels = [example.label for example in examples]
        arrays["labels"] = np.array([label or 0 for label in labels], np.int32)
        arrays["weights"] = np.array([label is not None for label in labels], np.float32)
        return Features(arrays, np.arange(len(examples)), sequences.lengths(a, b))

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the cross-entropy of logits [B, C, 1] over the C choices."""
        return cross_entropy(logits[..., 0], batch["labels"], batch["weights"])

    def predict(
        self,
        examples: Sequence[Question],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Return ``{"id", "label", "choice", "probabilities"}`` from logits [R, C, 1].

        ``label`` and ``choice`` are the index and the text of the best choice.
        """
        probabilities = softmax(logits[..., 0])
        return [
            {
                "id": example.id,
                "label": best,
                "choice": example.choices[best],
                "probabilities": row,
            }
            for example, best, row in zip(
                examples, probabilities.argmax(-1).tolist(), probabilities.tolist(), strict=True
            )
        ]

    def score(
        self, examples: Sequence[Question], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the ``accuracy``."""
        correct = [
            example.label == record["label"]
            for example, record in zip(examples, predictions, strict=True)
        ]
        return {"accuracy": float(np.mean(correct))}

    def counts(self, examples: Sequence[Question]) -> Counter[str]:
        """See `Task.counts`; counts the indices of right choices."""
        return Counter(str(example.label) for example in examples)

    def sample(self, example: Question, prediction: Record) -> Sample:
        """See `Task.sample`; choices have their indices."""
        best = prediction["label"]
        numbered = [f"{number}: {choice}" for number, choice in enumerate(example.choices)]
        inputs = {"text": example.text, "choices": " · ".join(numbered)}
        true = numbered[example.label or 0]
        probability = prediction["probabilities"][best]
        return Sample(inputs, true, numbered[best], probability, best == example.label)

    def from_request(self, request: Choices) -> list[Question]:
        return [Question(REQUEST_ID, request.text, tuple(request.choices))]


def _choices(table: Table) -> list[tuple[str, ...]]:
    """Return the choices of every row, all of the same number.

    Raises:
        BadInputError: There are no choices, or rows differ in their number.
    """
    column = next((name for name in ("choices", "endings") if name in table.columns), None)
    choices: list[tuple[str, ...]] = []
    if column is None:
        numbered = {int(m[1]): name for name in table.columns if (m := _ENDING.fullmatch(name))}
        names = [numbered[number] for number in sorted(numbered)]
        choices = list(zip(*map(table.texts, names), strict=True))
        if len(names) < 2:
            raise BadInputError(
                f"{table.source} has neither a list 'choices' nor columns ending0, ending1 …; its"
                f" columns are {', '.join(table.columns)}"
            )
        return choices
    for location, row in zip(table.locations, table.rows, strict=True):
        value = row.get(column)
        if not isinstance(value, list) or len(value) < 2:
            raise BadInputError(f"{location}: {column!r} is not a list of at least two texts")
        choices.append(tuple(checked(text, column, location) for text in value))
        if len(value) != len(choices[0]):
            raise BadInputError(
                f"{location} has {len(value)} choices, but the first question has"
                f" {len(choices[0])}; move such questions to a separate file"
            )
    return choices


def _indices(table: Table, column: str, count: int) -> list[int]:
    """Return the labels of a column as indices below `count`.

    Raises:
        BadInputError: A label is not the index or letter of a choice.
    """
    names = {str(number): number for number in range(count)}
    names |= {letter: number for number, letter in enumerate(string.ascii_uppercase[:count])}
    labels = table.names(column)
    for location, label in zip(table.locations, labels, strict=True):
        if label.upper() not in names:
            last = count - 1
            raise BadInputError(
                f"{location}: label {label!r} is not a choice; write 0 to {last}, or A to"
                f" {string.ascii_uppercase[min(last, 25)]}"
            )
    return [names[label.upper()] for label in labels]
