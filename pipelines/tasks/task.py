"""What a fine-tuning task consists of; `pipelines.commands.finetune` and `predict` do the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from jax import Array

from bert_jax.training.losses import MetricSums
from pipelines.data.tokenizers.tokenizer import Tokenizer

Arrays = dict[str, np.ndarray]
Record = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """Under which names a table or JSON object holds what a task reads; empty = the task's own.

    Args:
        text: The text, or the first of a pair.
        pair: The second text of a pair; empty = single texts.
        label: What is to be predicted.
        id: What tells examples apart; empty = a column called id, or their number.
    """

    text: str = ""
    pair: str = ""
    label: str = ""
    id: str = ""


@dataclass(frozen=True)
class Features:
    """Rows for the network.

    Attributes:
        arrays: ``token_ids``, ``token_type_ids``, ``segment_ids`` (1 on tokens, 0 on padding),
            each int32 [R, T] (multiple choice: [R, C, T]), ``weights`` float32 [R, …] (0 where
            nothing is to be learned) and what the task's objective compares with. Rows of zeros,
            which fill up a batch, must count for nothing.
        examples: int64 [R]: the example that each row is made of.
        lengths: int64: tokens of every example (multiple choice: of every choice with the text),
            [CLS] and [SEP] included, before anything is cut or divided.
        notes: What `Task.predict` needs to know of each row beside that.
    """

    arrays: Arrays
    examples: np.ndarray
    lengths: np.ndarray
    notes: Sequence[Any] = field(default=())


@dataclass(frozen=True)
class Sample:
    """An example and its prediction as a person reads them.

    Attributes:
        given: Name -> text, of what the network was given.
        true: What is right.
        predicted: What the network says.
        probability: Of that; None where there is none.
        right: Whether it is; None where that is a matter of degree.
    """

    given: dict[str, str]
    true: str
    predicted: str
    probability: float | None = None
    right: bool | None = None


class Task(Protocol):
    """A kind of task. Examples are objects of the task's own, with an attribute ``id`` (str).

    Attributes:
        head: Whether logits are of whole sequences ([B, K, C], K [CLS] tokens a row, 1 unless
            ``cls_positions`` int32 [B, K] is among the arrays) or of every token ([B, T, C]).
        best: The metric that tells the best checkpoint; larger is better.
    """

    head: Literal["pooled", "tokens"]
    best: str

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Any]:
        """The examples of a file or data set.

        Args:
            source: A file, or ``tfds:NAME[/CONFIG]:SPLIT``.
            columns: Where to find what.
            labelled: Whether they must have labels; without, labels are ignored.

        Raises:
            BadInputError: It cannot be read; one line that names file, line or column.
        """

    def classes(self, examples: Sequence[Any]) -> list[str]:
        """Names of the network's outputs, as they are found in the labels; saved with the model."""

    def features(
        self, examples: Sequence[Any], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """Rows of at most `length` tokens; T is as long as the longest, rounded up to 8.

        Raises:
            BadInputError: A label is not among `classes`.
        """

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Loss and accuracy of a batch, as sums; `logits` float32."""

    def predict(
        self,
        examples: Sequence[Any],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """One JSON object per example, in their order, with its ``id``.

        Args:
            examples: As given to `features`.
            features: Made of them.
            logits: float32, of all rows.
            classes: Of the network.
        """

    def score(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Metrics of labelled examples: shares from 0 to 1 unless the field has another custom."""

    def counts(self, examples: Sequence[Any]) -> Counter[str]:
        """How often each answer is right in labelled examples; empty where there are no classes."""

    def sample(self, example: Any, prediction: Record) -> Sample:
        """A labelled example and what `predict` says of it, to be looked at."""
