"""The interface of a fine-tuning task.

A subclass of `Task` contains everything that differs between tasks. `registry.TASKS` lists them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.endpoint import Endpoint
from pipelines.tasks.tables.bad_rows import STOP, BadRows

Arrays = dict[str, np.ndarray]
Record = dict[str, Any]

REQUEST_ID = "0"  # of an example that is made of a request


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table, or keys of JSON objects; empty = the task's usual names.

    Numbers count the columns, from 1, of a file without a header.

    Args:
        text: The text, or the first text of a pair.
        pair: The second text of a pair; empty = by the usual names; none = single texts.
        label: The label to predict.
        id: The unique id of an example; empty = a column called id, or the row number.
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
            there is nothing to learn) and the targets of the task's objective. Rows of zeros,
            which fill up a batch, must count for nothing.
        examples: int64 [R]: the index of the example of each row.
        lengths: int64: tokens of every example (multiple choice: of every choice with the text),
            with [CLS] and [SEP], before truncation and splitting.
        notes: Anything else about each row that `Task.predict` needs.
    """

    arrays: Arrays
    examples: np.ndarray
    lengths: np.ndarray
    notes: Sequence[Any] = field(default=())

    def require_token_types(self, network: ModelConfig) -> None:
        """Refuse token types that a network does not have.

        Raises:
            BadInputError: The network reads single texts, and the rows have pairs.
        """
        if self.arrays["token_type_ids"].max(initial=0) >= network.type_vocab_size:
            raise BadInputError(
                f"the rows are pairs of texts, but type_vocab_size of the model is"
                f" {network.type_vocab_size}: it reads single texts only; use another model, or"
                " single texts"
            )


@dataclass(frozen=True)
class Sample:
    """An example and its prediction, as readable text for the report.

    Attributes:
        inputs: Name -> text of each input.
        true: The right answer.
        predicted: The prediction.
        probability: Of the prediction; None if it has none.
        correct: None if the task has degrees of correctness.
    """

    inputs: dict[str, str]
    true: str
    predicted: str
    probability: float | None = None
    correct: bool | None = None


class Task(ABC):
    """A kind of task. Examples are objects of the task's own, with an attribute ``id`` (str).

    Attributes:
        name: The word in ``bert-jax finetune NAME``.
        summary: One line about the output, for the help and the API document.
        example_file: Name of a typical file of training data, for the help.
        head: Logits are of whole sequences ([B, K, C], with K [CLS] tokens per row: 1 unless
            the arrays contain ``cls_positions`` int32 [B, K]) or of every token ([B, T, C]).
        best_metric: The metric that selects the best checkpoint; larger is better.
        architecture: Hugging Face's name of the network with a linear head; empty = none.
        problem_type: Hugging Face's ``problem_type``; empty = derived from the number of classes.
        outputs: Meaning of the outputs: ``classes`` (their names), ``fixed`` (the same in every
            model of the task) or ``value`` (a quantity of the data).
        splits_examples: An example that is longer than a row becomes several rows. Otherwise it
            is truncated.
        needs_pairs: Examples are always pairs of texts.
        length_of: What `Features.lengths` measures, for the report.
        label_title: Heading of the report's table of `counts`.
        endpoint: The HTTP interface; see `from_request` and `response`.
        Options: Dataclass of the options that only this task has.
        thresholds: Of the model, one per class; see `tuned_thresholds`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    example_file: ClassVar[str]
    head: ClassVar[Literal["pooled", "tokens"]]
    best_metric: ClassVar[str]
    architecture: ClassVar[str] = ""
    problem_type: ClassVar[str] = ""
    outputs: ClassVar[Literal["classes", "fixed", "value"]] = "classes"
    splits_examples: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = False
    length_of: ClassVar[str] = "an example"
    label_title: ClassVar[str] = "label"
    endpoint: ClassVar[Endpoint]
    Options: ClassVar[type] = object

    def __init__(self, options: Any = None, bad_rows: BadRows = STOP) -> None:
        """Create a task.

        Args:
            options: An instance of `Options`; None = the defaults.
            bad_rows: What `read` does with rows that cannot be read, in tables.
        """
        self.options = self.Options() if options is None else options
        self.bad_rows = bad_rows
        self.thresholds: tuple[float, ...] = ()

    @classmethod
    def fits(cls, classes: Sequence[str]) -> bool:
        """Return whether a network with these classes can be one of this task."""
        del classes
        return True

    def expect_classes(self, classes: Sequence[str]) -> None:
        """Note the classes of a trained model before `read`: they explain ambiguous labels."""
        del classes

    @abstractmethod
    def read(self, source: str, columns: Columns, labeled: bool) -> list[Any]:
        """Read the examples of a file or data set.

        Args:
            source: A file, ``tfds:NAME[/CONFIG]:SPLIT`` or ``hf:ORG/NAME[/CONFIG]:SPLIT``.
            columns: Names of the columns.
            labeled: Require labels. Otherwise labels are ignored.

        Raises:
            BadInputError: It cannot be read. The message is one line that names the file and the
                line or column.
        """

    def text_columns(self, examples: Sequence[Any]) -> list[str]:
        """Return the columns of text and pair that `read` used, for the model to store.

        Empty if the examples of the task cannot be confused.
        """
        del examples
        return []

    def check_texts(self, examples: Sequence[Any], trained: Sequence[str]) -> None:
        """Check that examples have as many texts as those that a model was trained on.

        Args:
            examples: From `read` or `from_request`.
            trained: From `text_columns`; empty = unknown.

        Raises:
            BadInputError: A pair is missing, or there is one too many.
        """
        del examples, trained

    @abstractmethod
    def classes(self, examples: Sequence[Any]) -> list[str]:
        """Return the names of the network's outputs for these labels; the model stores them."""

    def matched(self, examples: Sequence[Any], classes: Sequence[str]) -> Sequence[Any]:
        """Return the examples; labels that have no names get those of the network's outputs.

        Raises:
            BadInputError: The labels do not fit `classes`.
        """
        del classes
        return examples

    @abstractmethod
    def features(
        self, examples: Sequence[Any], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """Make rows of at most `length` tokens; T is the longest, rounded up to 8.

        Raises:
            BadInputError: A label is not among `classes`.
        """

    @abstractmethod
    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the sums of loss and correct predictions of a batch; `logits` are float32."""

    def notice(self) -> str:
        """Return a line about how this task predicts, for the user; may be empty."""
        return ""

    def tuned_thresholds(self, features: Features, logits: np.ndarray) -> tuple[float, ...]:
        """Return a threshold per class that suits labeled rows; empty if the task has none.

        Args:
            features: Of validation examples, from `features`.
            logits: float32, of all rows.
        """
        del features, logits
        return ()

    @abstractmethod
    def predict(
        self,
        examples: Sequence[Any],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Return one JSON object per example, in their order, with its ``id``.

        Args:
            examples: The examples.
            features: Their rows, from `features`.
            logits: float32, of all rows.
            classes: Of the network.
        """

    @abstractmethod
    def score(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """Return metrics of labeled examples: 0 to 1, unless the field uses another scale."""

    def details(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        """Return further results for eval_results.json.

        The report shows ``confusion`` (see `classification.confusion`) and ``types`` (see
        `entity_f1.by_type`).
        """
        del examples, predictions, classes
        return {}

    def counts(self, examples: Sequence[Any]) -> Counter[str]:
        """Count the right answers of labeled examples; empty if the task has no classes."""
        del examples
        return Counter()

    @abstractmethod
    def sample(self, example: Any, prediction: Record) -> Sample:
        """Describe a labeled example and its prediction for the report."""

    @abstractmethod
    def from_request(self, request: Any) -> list[Any]:
        """Make examples of an object of type ``endpoint.request``.

        Raises:
            BadArgumentsError: It contains nothing to predict.
        """

    def response(
        self, examples: Sequence[Any], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        """Return the answer to a request; the server adds ``truncated``."""
        del examples, classes
        return predictions[0]
