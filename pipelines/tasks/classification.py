"""Which class a text or a pair of texts belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jax import Array
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences, table_reader
from pipelines.tasks.table_reader import Example
from pipelines.tasks.task import Columns, Features, Record, Sample

_LISTED = 10  # classes that a message names


class Classification:
    """See `Task`. One output per class; softmax and cross-entropy."""

    head: Literal["pooled", "tokens"] = "pooled"
    best = "accuracy"

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Example]:
        """See `Task.read`."""
        return table_reader.examples(table_reader.read(source), columns, labelled)

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """The labels, sorted, or as a data set orders them; says how often each occurs.

        Raises:
            BadInputError: There are fewer than two.
        """
        counts = Counter((example.rank, example.label) for example in examples)
        classes = [label for _, label in sorted(counts)]
        if len(classes) < 2:
            raise BadInputError(
                f"{examples[0].where} and all other rows have the label {classes[0]!r}; to learn"
                " a distinction takes at least two"
            )
        shares = [
            f"{label} {count:,} ({count / len(examples):.1%})"
            for (_, label), count in counts.most_common()
        ]
        if len(shares) > _LISTED:
            shares[_LISTED // 2 : -_LISTED // 2] = ["…"]
        say(f"{len(classes)} classes: {', '.join(shares)}")
        return classes

    def features(
        self, examples: Sequence[Example], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """See `Task.features`; adds ``labels``, int32 [R]."""
        arrays, lengths = sequences.of_examples(examples, tokenizer, length)
        number = {label: n for n, label in enumerate(classes)} | {"": 0}
        for example in examples:
            if example.label not in number:
                raise BadInputError(
                    f"{example.where}: label {example.label!r} is not among the classes of the"
                    f" model: {', '.join(classes[:_LISTED])}{' …' * (len(classes) > _LISTED)};"
                    " take the row out, or train on rows of that class"
                )
        arrays["labels"] = np.array([number[example.label] for example in examples], np.int32)
        arrays["weights"] = np.array([bool(example.label) for example in examples], np.float32)
        return Features(arrays, np.arange(len(examples)), lengths)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Cross-entropy of logits [B, 1, C]."""
        return cross_entropy(logits[:, 0], batch["labels"], batch["weights"])

    def predict(
        self,
        examples: Sequence[Example],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """``{"id", "label", "probabilities": {class: p}}``, from logits [R, 1, C]."""
        shares = softmax(logits[:, 0])
        return [
            {
                "id": example.id,
                "label": classes[best],
                "probabilities": dict(zip(classes, row, strict=True)),
            }
            for example, best, row in zip(
                examples, shares.argmax(-1).tolist(), shares.tolist(), strict=True
            )
        ]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """``accuracy``, ``mcc`` (Matthews), and F1: of two classes that of the last (``f1``).

        For more than two it is ``macro_f1``, the mean over those that occur in labels or
        predictions.
        """
        truth, found = _both(examples, predictions, classes)
        # Named by what is averaged over: `pos_label` refuses a class that does not occur.
        over = [1] if len(classes) == 2 else None
        f1 = f1_score(truth, found, labels=over, average="macro", zero_division=0.0)
        return {
            "accuracy": float(accuracy_score(truth, found)),
            "f1" if len(classes) == 2 else "macro_f1": float(f1),
            # Undefined, and so 0 by custom, where all labels or all predictions are the same.
            "mcc": _mcc(truth, found),
        }

    def counts(self, examples: Sequence[Example]) -> Counter[str]:
        """See `Task.counts`: of the labels."""
        return Counter(example.label for example in examples)

    def sample(self, example: Example, prediction: Record) -> Sample:
        """See `Task.sample`."""
        found = prediction["label"]
        share = prediction["probabilities"][found]
        return Sample(
            table_reader.texts(example), example.label, found, share, found == example.label
        )


def confusion(
    examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
) -> list[list[int]]:
    """How often each class (row) was taken for which (column), in the order of `classes`."""
    truth, found = _both(examples, predictions, classes)
    return confusion_matrix(truth, found, labels=range(len(classes))).tolist()


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [..., C]: probabilities from logits [..., C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _both(
    examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """int [N] each: the true classes and the predicted ones."""
    number = {label: n for n, label in enumerate(classes)}
    truth = np.array([number[example.label] for example in examples])
    return truth, np.array([number[record["label"]] for record in predictions])


def _mcc(truth: np.ndarray, found: np.ndarray) -> float:
    if min(len(np.unique(truth)), len(np.unique(found))) < 2:
        return 0.0
    return float(matthews_corrcoef(truth, found))


TASK = Classification()
