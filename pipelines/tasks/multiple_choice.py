"""Which of several continuations or answers fits a text (SWAG, in the paper)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jax import Array

from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences
from pipelines.tasks.classification import softmax
from pipelines.tasks.table_reader import Table, checked, read
from pipelines.tasks.task import Columns, Features, Record, Sample

CONTEXTS = ("text", "context", "sent1", "question")
LABELS = ("label", "answer")
# In the files of SWAG every ending goes on with what has begun here.
BEGINNINGS = {"sent1": "sent2"}

_ENDING = re.compile(r"(?:ending|choice|answer)_?([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Question:
    """A text and what may follow it.

    Attributes:
        id: Tells examples apart.
        text: The text.
        choices: What is to be chosen from.
        label: Index of the right one; None if it was not asked for.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    label: int | None = None


class Choice:
    """See `Task`. Each choice is a pair with the text; softmax over the scores of a question.

    The choices are in a JSON list ``choices`` or ``endings``, or in columns ``ending0``,
    ``ending1`` and so on. The label is the index, from 0, or the letter, from A. `Columns.pair`
    names a column with which every choice begins.
    """

    head: Literal["pooled", "tokens"] = "pooled"
    best = "accuracy"

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Question]:
        """See `Task.read`; every question has the same number of choices."""
        table = read(source)
        text = table.column(columns.text, CONTEXTS, "text")
        texts, choices = table.texts(text), _choices(table)
        beginning = columns.pair and table.column(columns.pair, (), "pair")
        if not columns.pair and BEGINNINGS.get(text) in table.columns:
            beginning = BEGINNINGS[text]
        if beginning:
            choices = [
                tuple(f"{begun} {choice}" for choice in row)
                for begun, row in zip(table.texts(beginning), choices, strict=True)
            ]
        table.warn_of_empty(texts, *zip(*choices, strict=True))
        labels: Sequence[int | None] = [None] * len(texts)
        if labelled:
            labels = _indices(table, table.column(columns.label, LABELS, "label"), len(choices[0]))
        return [
            Question(*row)
            for row in zip(table.ids(columns.id), texts, choices, labels, strict=True)
        ]

    def classes(self, examples: Sequence[Question]) -> list[str]:
        """The name of the only output: a score."""
        return ["score"]

    def features(
        self,
        examples: Sequence[Question],
        tokenizer: Tokenizer,
        length: int,
        classes: Sequence[str],
    ) -> Features:
        """See `Task.features`: arrays are [R, C, T], and ``labels`` int32 [R]."""
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
        """Cross-entropy of logits [B, C, 1], C being the choices."""
        return cross_entropy(logits[..., 0], batch["labels"], batch["weights"])

    def predict(
        self,
        examples: Sequence[Question],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """``{"id", "label", "choice", "probabilities"}`` from logits [R, C, 1]: the index and the
        text of the best choice, and the shares of all.
        """
        shares = softmax(logits[..., 0])
        return [
            {
                "id": example.id,
                "label": best,
                "choice": example.choices[best],
                "probabilities": row,
            }
            for example, best, row in zip(
                examples, shares.argmax(-1).tolist(), shares.tolist(), strict=True
            )
        ]

    def score(
        self, examples: Sequence[Question], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """``accuracy``."""
        right = [
            example.label == record["label"]
            for example, record in zip(examples, predictions, strict=True)
        ]
        return {"accuracy": float(np.mean(right))}

    def counts(self, examples: Sequence[Question]) -> Counter[str]:
        """See `Task.counts`: of the numbers of the right choices."""
        return Counter(str(example.label) for example in examples)

    def sample(self, example: Question, prediction: Record) -> Sample:
        """See `Task.sample`; choices are shown with their numbers."""
        best = prediction["label"]
        numbered = [f"{number}: {choice}" for number, choice in enumerate(example.choices)]
        given = {"text": example.text, "choices": " · ".join(numbered)}
        true = numbered[example.label or 0]
        share = prediction["probabilities"][best]
        return Sample(given, true, numbered[best], share, best == example.label)


def _choices(table: Table) -> list[tuple[str, ...]]:
    """The choices of every row, equally many.

    Raises:
        BadInputError: There are none, or not everywhere as many.
    """
    listed = next((name for name in ("choices", "endings") if name in table.columns), None)
    found: list[tuple[str, ...]] = []
    if listed is None:
        numbered = {int(m[1]): name for name in table.columns if (m := _ENDING.fullmatch(name))}
        names = [numbered[number] for number in sorted(numbered)]
        found = list(zip(*map(table.texts, names), strict=True))
        if len(names) < 2:
            raise BadInputError(
                f"{table.source} has neither a list 'choices' nor columns ending0, ending1 …; its"
                f" columns are {', '.join(table.columns)}"
            )
        return found
    for place, row in zip(table.places, table.rows, strict=True):
        value = row.get(listed)
        if not isinstance(value, list) or len(value) < 2:
            raise BadInputError(f"{place}: {listed!r} is not a list of at least two texts")
        found.append(tuple(checked(text, listed, place) for text in value))
        if len(value) != len(found[0]):
            raise BadInputError(
                f"{place} has {len(value)} choices, the first question {len(found[0])}; put them"
                " into files of their own"
            )
    return found


def _indices(table: Table, column: str, count: int) -> list[int]:
    """The labels of a column as indices below `count`.

    Raises:
        BadInputError: One is not the index or letter of a choice.
    """
    names = {str(number): number for number in range(count)}
    names |= {letter: number for number, letter in enumerate(string.ascii_uppercase[:count])}
    labels = table.names(column)
    for place, label in zip(table.places, labels, strict=True):
        if label.upper() not in names:
            last = count - 1
            raise BadInputError(
                f"{place}: label {label!r} is not a choice: write 0 to {last}, or A to"
                f" {string.ascii_uppercase[min(last, 25)]}"
            )
    return [names[label.upper()] for label in labels]


TASK = Choice()
