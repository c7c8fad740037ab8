"""How large something is, such as the similarity of two texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences, table_reader
from pipelines.tasks.table_reader import Example
from pipelines.tasks.task import Columns, Features, Record, Sample

LABELS = ("label", "score", "similarity", "value")


class Regression:
    """See `Task`. One output, which is the value itself; squared error."""

    head: Literal["pooled", "tokens"] = "pooled"
    best = "pearson"

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Example]:
        """See `Task.read`; labels are numbers."""
        examples = table_reader.examples(table_reader.read(source), columns, labelled, LABELS)
        for example in examples if labelled else ():
            if not _is_number(example.label):
                raise BadInputError(
                    f"{example.where}: label {example.label!r} is not a number such as 3.5"
                )
        return examples

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """The name of the only output.

        Raises:
            BadInputError: All labels are the same.
        """
        if len({float(example.label) for example in examples}) < 2:
            raise BadInputError(
                f"{examples[0].where} and all other rows have the label {examples[0].label}; there"
                " is nothing to learn"
            )
        return ["value"]

    def features(
        self, examples: Sequence[Example], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """See `Task.features`; adds ``values``, float32 [R]."""
        arrays, lengths = sequences.of_examples(examples, tokenizer, length)
        arrays["values"] = np.array([float(example.label or 0) for example in examples], np.float32)
        arrays["weights"] = np.array([bool(example.label) for example in examples], np.float32)
        return Features(arrays, np.arange(len(examples)), lengths)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Squared error of logits [B, 1, 1]."""
        error = jnp.square(logits[:, 0, 0] - batch["values"])
        return MetricSums(jnp.sum(error * batch["weights"]), None, jnp.sum(batch["weights"]))

    def predict(
        self,
        examples: Sequence[Example],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """``{"id", "value"}``, from logits [R, 1, 1]."""
        return [
            {"id": example.id, "value": value}
            for example, value in zip(examples, logits[:, 0, 0].tolist(), strict=True)
        ]

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """``pearson`` and ``spearman`` correlation."""
        truth = np.array([float(example.label) for example in examples])
        found = np.array([record["value"] for record in predictions], np.float64)
        # Undefined; 0 lets a model that says the same of all be compared with others.
        if (truth == truth[0]).all() or (found == found[0]).all():
            return {"pearson": 0.0, "spearman": 0.0}
        return {
            "pearson": float(stats.pearsonr(truth, found).statistic),
            "spearman": float(stats.spearmanr(truth, found).statistic),
        }

    def counts(self, examples: Sequence[Example]) -> Counter[str]:
        """See `Task.counts`: none, as the answers are numbers."""
        return Counter()

    def sample(self, example: Example, prediction: Record) -> Sample:
        """See `Task.sample`."""
        return Sample(table_reader.texts(example), example.label, f"{prediction['value']:.4g}")


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


TASK = Regression()
