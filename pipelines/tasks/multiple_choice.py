"""Multiple choice: which of several continuations or answers fits a text (SWAG, in the paper)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences
from pipelines.tasks.choice_rows import Question, read_questions
from pipelines.tasks.classification import softmax
from pipelines.tasks.endpoint import Endpoint, Field
from pipelines.tasks.task import REQUEST_ID, Columns, Features, Record, Sample, Task

_MISSING = -1e9  # score of a choice that a question does not have


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

    Questions may have different numbers of choices. `choice_rows` has the forms of files;
    `Columns.pair` names a column that is put before every choice.
    """

    name = "multiple-choice"
    summary = "The choice that fits best"
    example_file = "train.jsonl"
    head = "pooled"
    best_metric = "accuracy"
    architecture = "BertForMultipleChoice"
    outputs = "fixed"
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
        """See `Task.read` and `choice_rows`."""
        return read_questions(source, columns, labeled, self.bad_rows)

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
        """See `Task.features`; arrays are [R, C, T], and the targets ``labels`` int32 [R].

        C is the largest number of choices; the rows of missing ones are zeros.
        """
        counts = np.array([len(example.choices) for example in examples])
        exists = np.arange(counts.max()) < counts[:, None]  # [R, C]
        texts = tokenizer.encode([example.text for example in examples])
        a = [ids for ids, count in zip(texts, counts, strict=True) for _ in range(count)]
        b = tokenizer.encode([choice for example in examples for choice in example.choices])
        arrays = {}
        for name, rows in sequences.rows(a, b, tokenizer, length).items():
            arrays[name] = np.zeros((*exists.shape, rows.shape[1]), rows.dtype)
            arrays[name][exists] = rows
        labels = [example.label for example in examples]
        arrays["labels"] = np.array([label or 0 for label in labels], np.int32)
        arrays["weights"] = np.array([label is not None for label in labels], np.float32)
        return Features(arrays, np.arange(len(examples)), sequences.lengths(a, b))

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the cross-entropy of logits [B, C, 1] over the choices that a question has."""
        exists = jnp.any(batch["segment_ids"] > 0, axis=-1)  # [B, C]
        scores = jnp.where(exists, logits[..., 0], _MISSING)
        return cross_entropy(scores, batch["labels"], batch["weights"])

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
        exists = features.arrays["segment_ids"].any(axis=-1)
        probabilities = softmax(np.where(exists, logits[..., 0], _MISSING))
        return [
            {
                "id": example.id,
                "label": best,
                "choice": example.choices[best],
                "probabilities": row[: len(example.choices)],
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
