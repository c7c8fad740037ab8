"""Regression: a number for a text or pair, such as the similarity of two texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences
from pipelines.tasks.endpoint import Endpoint, MaybePair, pair_fields
from pipelines.tasks.tables.examples import Example, examples_of, texts
from pipelines.tasks.tables.read import read
from pipelines.tasks.task import Columns, Features, Record, Sample
from pipelines.tasks.text_task import TextTask

LABELS = ("label", "score", "similarity", "value")


@dataclass(frozen=True)
class Measured:
    """A number."""

    value: float
    truncated: bool


class Regression(TextTask):
    """One output, which is the value itself, with squared error."""

    name = "regression"
    summary = "The value of a text or pair"
    example_file = "train.tsv"
    head = "pooled"
    best_metric = "pearson"
    architecture = "BertForSequenceClassification"
    outputs = "value"
    endpoint = Endpoint(
        MaybePair,
        Measured,
        title="Value",
        text="The number that the model predicts for a text, or for a pair of texts if it was"
        " trained on pairs.",
        button="Measure",
        fields=pair_fields("The old cook sells the best bread in the harbor."),
    )

    @classmethod
    def fits(cls, classes: Sequence[str]) -> bool:
        return len(classes) == 1

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Example]:
        """See `Task.read`; labels are numbers."""
        table = read(source, columns, self.bad_rows)
        examples = examples_of(table, columns, labeled, LABELS, are_values=True)
        for example in examples if labeled else ():
            if not _is_number(example.label):
                raise BadInputError(
                    f"{example.where}: label {example.label!r} is not a number such as 3.5"
                )
        return examples

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """Return the name of the only output.

        Raises:
            BadInputError: All labels are equal.
        """
        if len({float(example.label) for example in examples}) < 2:
            raise BadInputError(
                f"{examples[0].where}: all rows have the label {examples[0].label}; regression"
                " needs at least two different values"
            )
        return ["value"]

    def features(
        self, examples: Sequence[Example], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """See `Task.features`; the targets are ``values``, float32 [R]."""
        arrays, lengths = sequences.of_examples(examples, tokenizer, length)
        arrays["values"] = np.array([float(example.label or 0) for example in examples], np.float32)
        arrays["weights"] = np.array([bool(example.label) for example in examples], np.float32)
        return Features(arrays, np.arange(len(examples)), lengths)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the squared error of logits [B, 1, 1]."""
        error = jnp.square(logits[:, 0, 0] - batch["values"])
        return MetricSums(jnp.sum(error * batch["weights"]), None, jnp.sum(batch["weights"]))

    def predict(
        self,
        examples: Sequence[Example],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Return ``{"id", "value"}`` from logits [R, 1, 1]."""
        return [
            {"id": example.id, "value": value}
            for example, value in zip(examples, logits[:, 0, 0].tolist(), strict=True)
        ]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Return the ``pearson`` and ``spearman`` correlations."""
        from scipy import stats

        true = np.array([float(example.label) for example in examples])
        predicted = np.array([record["value"] for record in predictions], np.float64)
        # Undefined for constants; 0 makes a model with constant predictions comparable.
        if (true == true[0]).all() or (predicted == predicted[0]).all():
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(stats.pearsonr(true, predicted).statistic),
            "spearman": float(stats.spearmanr(true, predicted).statistic),
        }

    def sample(self, example: Example, prediction: Record) -> Sample:
        return Sample(texts(example), example.label, f"{prediction['value']:.4g}")


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False
