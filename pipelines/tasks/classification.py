"""Classification of a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences
from pipelines.tasks.endpoint import Endpoint, MaybePair, pair_fields
from pipelines.tasks.tables.class_names import plain, remedy_of_unknown
from pipelines.tasks.tables.examples import Example, examples_of, texts
from pipelines.tasks.tables.labels import first_names, listed_counts
from pipelines.tasks.tables.read import read
from pipelines.tasks.task import Columns, Features, Record, Sample
from pipelines.tasks.text_task import TextTask


@dataclass(frozen=True)
class Classified:
    """A class."""

    label: str
    probabilities: dict[str, float]
    truncated: bool


class Classification(TextTask):
    """One output per class, with softmax and cross-entropy."""

    name = "classification"
    summary = "The class of a text or pair"
    example_file = "train.tsv"
    head = "pooled"
    best_metric = "accuracy"
    architecture = "BertForSequenceClassification"
    endpoint = Endpoint(
        MaybePair,
        Classified,
        title="Classification",
        text="The class of a text, or of a pair of texts if the model was trained on pairs.",
        button="Classify",
        fields=pair_fields("The old cook sells the best bread in the harbor."),
    )

    @classmethod
    def fits(cls, classes: Sequence[str]) -> bool:
        """See `Task.fits`; a single output is the value of a regression."""
        return len(classes) != 1

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Example]:
        return examples_of(read(source, columns, self.bad_rows), columns, labeled)

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """Return the labels in sorted order, or in that of the data set; print their counts.

        Raises:
            BadInputError: There are fewer than two.
        """
        classes = [label for _, label in sorted({(e.rank, e.label) for e in examples})]
        if len(classes) < 2:
            raise BadInputError(
                f"{examples[0].where}: all rows have the label {classes[0]!r}; classification"
                " needs at least two different labels"
            )
        listed = listed_counts(self.counts(examples), len(examples))
        say(f"{len(classes)} classes: {listed}")
        if alike := [names for names in _alike(classes) if len(names) > 1]:
            say(f"are these different classes? {'; '.join(map(' and '.join, alike))}")
        return classes

    def features(
        self, examples: Sequence[Example], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """See `Task.features`; the targets are ``labels``, int32 [R]."""
        arrays, lengths = sequences.of_examples(examples, tokenizer, length)
        number = {label: n for n, label in enumerate(classes)} | {"": 0}
        for example in examples:
            if example.label not in number:
                raise BadInputError(
                    f"{example.where}: label {example.label!r} is not a class of the model"
                    f" ({first_names(classes)});"
                    f" {remedy_of_unknown(example.label, classes)}"
                )
        arrays["labels"] = np.array([number[example.label] for example in examples], np.int32)
        arrays["weights"] = np.array([bool(example.label) for example in examples], np.float32)
        return Features(arrays, np.arange(len(examples)), lengths)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the cross-entropy of logits [B, 1, C]."""
        return cross_entropy(logits[:, 0], batch["labels"], batch["weights"])

    def predict(
        self,
        examples: Sequence[Example],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Return ``{"id", "label", "probabilities": {class: p}}`` from logits [R, 1, C]."""
        probabilities = softmax(logits[:, 0])
        return [
            {
                "id": example.id,
                "label": classes[best],
                "probabilities": dict(zip(classes, row, strict=True)),
            }
            for example, best, row in zip(
                examples, probabilities.argmax(-1).tolist(), probabilities.tolist(), strict=True
            )
        ]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Return ``accuracy``, ``mcc`` (Matthews), and the F1 of the second of two classes, ``f1``.

        For more than two classes it is ``macro_f1``, the mean over those that occur in labels or
        predictions.
        """
        from sklearn.metrics import accuracy_score, f1_score

        true, predicted = _class_numbers(examples, predictions, classes)
        # `labels` selects the class: `pos_label` rejects a class that does not occur.
        labels = [1] if len(classes) == 2 else None
        f1 = f1_score(true, predicted, labels=labels, average="macro", zero_division=0.0)
        return {
            "accuracy": float(accuracy_score(true, predicted)),
            "f1" if len(classes) == 2 else "macro_f1": float(f1),
            "mcc": _mcc(true, predicted),
        }

    def details(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        """Return the confusion matrix."""
        matrix = confusion(examples, predictions, classes)
        return {"confusion": {"classes": list(classes), "true_by_predicted": matrix}}

    def counts(self, examples: Sequence[Example]) -> Counter[str]:
        """See `Task.counts`; counts labels."""
        return Counter(example.label for example in examples)

    def sample(self, example: Example, prediction: Record) -> Sample:
        predicted = prediction["label"]
        probability = prediction["probabilities"][predicted]
        inputs = texts(example)
        return Sample(inputs, example.label, predicted, probability, predicted == example.label)


def confusion(
    examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
) -> list[list[int]]:
    """Return the counts of true class (row) and predicted class (column), as in `classes`."""
    from sklearn.metrics import confusion_matrix

    true, predicted = _class_numbers(examples, predictions, classes)
    return confusion_matrix(true, predicted, labels=range(len(classes))).tolist()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float64 [..., C], of logits [..., C]."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _alike(classes: Sequence[str]) -> list[list[str]]:
    """Return the classes in groups that differ only in case, spaces or a decimal point."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(plain(name), []).append(name)
    return list(groups.values())


def _class_numbers(
    examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the predicted classes, int [N] each."""
    number = {label: n for n, label in enumerate(classes)}
    true = np.array([number[example.label] for example in examples])
    return true, np.array([number[record["label"]] for record in predictions])


def _mcc(true: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    # Undefined if all labels or all predictions are equal; 0 by convention.
    if min(len(np.unique(true)), len(np.unique(predicted))) < 2:
        return 0.0
    return float(matthews_corrcoef(true, predicted))
