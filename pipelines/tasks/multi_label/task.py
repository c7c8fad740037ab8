"""Multi-label classification: any number of labels for a text or pair, also none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, binary_cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks import sequences
from pipelines.tasks.endpoint import Endpoint, MaybePair, pair_fields
from pipelines.tasks.multi_label import columns as label_columns
from pipelines.tasks.multi_label import labels, scores
from pipelines.tasks.multi_label.labels import Names, Sets
from pipelines.tasks.tables.bad_rows import report_skipped
from pipelines.tasks.tables.class_names import read_names, remedy_of_unknown
from pipelines.tasks.tables.examples import Example, examples_of, texts
from pipelines.tasks.tables.labels import first_names, listed_counts
from pipelines.tasks.tables.read import read
from pipelines.tasks.tables.table import Table, option
from pipelines.tasks.task import REQUEST_ID, Columns, Features, Record, Sample
from pipelines.tasks.text_task import TextTask

NO_LABEL = "(no label)"  # in counts and reports
_NO_NAMES = Names(())
_attributes = attrgetter(*(field.name for field in fields(Example)))


@dataclass(frozen=True)
class MultiLabelOptions:
    """Options of multi-label classification.

    Args:
        separator: multi-label: separates labels in a column, such as "|", space or tab; empty =
            detect it; none = every text is one label.
        label_names: multi-label: file with the names of labels that are numbers: a name per line,
            or JSON.
    """

    separator: str = ""
    label_names: str = ""


@dataclass(frozen=True, slots=True)
class LabeledExample(Example):
    """One or two texts with labels.

    Attributes:
        labels: Any number; None without labels.
        names: All labels of the file.
    """

    labels: tuple[str, ...] | None = None
    names: Names = _NO_NAMES


@dataclass(frozen=True)
class MultiLabeled:
    """Labels, and the probability of every label."""

    labels: list[str]
    probabilities: dict[str, float]
    truncated: bool


class MultiLabel(TextTask):
    """One output per label, with a sigmoid and binary cross-entropy."""

    name = "multi-label"
    summary = "Any number of labels for a text or pair"
    example_file = "train.jsonl"
    head = "pooled"
    best_metric = "macro_ap"  # needs no thresholds, so that steps can be compared
    architecture = "BertForSequenceClassification"
    problem_type = "multi_label_classification"
    endpoint = Endpoint(
        MaybePair,
        MultiLabeled,
        title="Labels",
        text="Every label that fits a text, or a pair of texts if the model was trained on pairs.",
        button="Label",
        fields=pair_fields("The old cook sells the best bread in the harbor."),
    )
    Options = MultiLabelOptions
    options: MultiLabelOptions

    def read(self, source: str, columns: Columns, labeled: bool) -> list[LabeledExample]:
        """See `Task.read` and `labels`; rows that nobody labeled (-1) are skipped."""
        table = read(source, columns, self.bad_rows)
        others = (columns.text, columns.pair, columns.id)
        requested = columns.label if labeled else ""
        found, are_labels = label_columns.label_columns(table, requested, others)
        sets: Sets = [None] * len(table.rows)
        names = _NO_NAMES
        if labeled and not requested and (are_labels or not found):
            label_columns.check_ignored(table, found, others)
        if labeled:
            names, sets = self._sets(table, found, are_labels, detected=not columns.label)
        # The labels are not the second text of a pair.
        rest = [name for name in table.columns if name not in found or name in others]
        plain = examples_of(replace(table, columns=rest), replace(columns, label=""), False)
        examples = [
            LabeledExample(*(*_attributes(example), of, names))
            for example, of in zip(plain, sets, strict=True)
        ]
        return _labeled(table, examples) if labeled else examples

    def _sets(
        self, table: Table, columns: list[str], are_labels: bool, detected: bool
    ) -> tuple[Names, Sets]:
        if not columns:
            raise BadInputError(
                f"{table.source} has no column called {', '.join(label_columns.COLUMNS[:3])} …, and"
                f" none with only 0 and 1; its columns are {', '.join(table.columns)}; choose one"
                f" or several with {option('label', 'A,B')}"
            )
        if are_labels:
            are = "column is a label" if len(columns) == 1 else "columns are labels"
            say(f"{table.source}: {len(columns)} {are}: {first_names(columns)}")
            return label_columns.sets_of_flags(table, columns, detected)
        say(f"{table.source}: labels in {columns[0]!r}")
        file = self.options.label_names
        names = read_names(file) if file else []
        return labels.sets_of_column(table, columns[0], self.options.separator, names)

    def matched(
        self, examples: Sequence[LabeledExample], classes: Sequence[str]
    ) -> Sequence[LabeledExample]:
        """See `Task.matched`; vectors of 0 and 1 have the order of the classes.

        Raises:
            BadInputError: The vectors have another number of values.
        """
        names = examples[0].names if examples else _NO_NAMES
        if not names.positions or sorted(names.names) == sorted(classes):
            return examples
        if len(names.names) != len(classes):
            raise BadInputError(
                f"{examples[0].where}: rows have {len(names.names)} values of 0 or 1, but the model"
                f" has {len(classes)} labels ({first_names(classes)}); give a value for each, in"
                " this order, or lists of names"
            )
        say(f"the values of each row are those of {first_names(classes)}, in this order")
        named = Names(tuple(classes), complete=True)
        return [
            replace(e, labels=tuple(classes[int(n)] for n in e.labels or ()), names=named)
            for e in examples
        ]

    def classes(self, examples: Sequence[LabeledExample]) -> list[str]:
        """Return all labels, in the order of the data set or in sorted order; print their counts.

        Raises:
            BadInputError: No row has a label.
        """
        counts = self.counts(examples)
        classes = list(examples[0].names.names)
        without = counts.pop(NO_LABEL, 0)
        if not counts:
            raise BadInputError(f"{examples[0].where}: no row has a label; check the labels")
        rows = len(examples)
        say(
            f"labels ({len(classes)}): {listed_counts(counts, rows)};"
            f" {counts.total() / rows:.2f} per row; {without:,} of {rows:,} rows have none"
        )
        if never := [name for name in classes if name not in counts]:
            say(f"labels without examples, which cannot be learned: {first_names(never)}")
        if len(classes) > 1 and all(len(example.labels or ()) == 1 for example in examples):
            say("every row has exactly one label; the task classification chooses exactly one")
        return classes

    def features(
        self,
        examples: Sequence[LabeledExample],
        tokenizer: Tokenizer,
        length: int,
        classes: Sequence[str],
    ) -> Features:
        """See `Task.features`; the targets are ``labels``, int8 [R, L] of 0 and 1."""
        arrays, lengths = sequences.of_examples(examples, tokenizer, length)
        _check_names(examples, classes)
        arrays["labels"] = _matrix([example.labels or () for example in examples], classes)
        arrays["weights"] = np.array([e.labels is not None for e in examples], np.float32)
        return Features(arrays, np.arange(len(examples)), lengths)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the binary cross-entropy of logits [B, 1, L], the mean over the labels.

        A row is correct if all its labels are, at a probability of 0.5.
        """
        x, targets, weights = logits[:, 0], batch["labels"].astype(jnp.float32), batch["weights"]
        loss = jnp.mean(binary_cross_entropy(x, targets), axis=-1)  # [B]
        correct = jnp.all((x > 0) == (targets > 0), axis=-1)
        return MetricSums(jnp.sum(loss * weights), jnp.sum(correct * weights), jnp.sum(weights))

    def notice(self) -> str:
        if self.thresholds:
            return "labels are predicted from the thresholds that were tuned in training"
        return "labels are predicted from a probability of 0.5: no thresholds were tuned"

    def tuned_thresholds(self, features: Features, logits: np.ndarray) -> tuple[float, ...]:
        """See `Task.tuned_thresholds`; maximizes the F1 of each label."""
        probabilities = scores.sigmoid(logits[:, 0])
        true = features.arrays["labels"] > 0
        return tuple(map(scores.best_threshold, probabilities.T, true.T))

    def predict(
        self,
        examples: Sequence[LabeledExample],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Return ``{"id", "labels", "probabilities": {label: p}}`` from logits [R, 1, L].

        ``labels`` are those whose probability is at least their threshold, in the order of the
        classes; there may be none.
        """
        probabilities = scores.sigmoid(logits[:, 0])
        chosen = probabilities >= np.array(self.thresholds or [scores.HALF] * len(classes))
        return [
            {
                "id": example.id,
                "labels": [name for name, is_chosen in zip(classes, row, strict=True) if is_chosen],
                "probabilities": dict(zip(classes, of, strict=True)),
            }
            for example, row, of in zip(
                examples, chosen.tolist(), probabilities.tolist(), strict=True
            )
        ]

    def score(
        self,
        examples: Sequence[LabeledExample],
        predictions: Sequence[Record],
        classes: Sequence[str],
    ) -> dict[str, float]:
        """See `scores.metrics`."""
        return scores.metrics(*_arrays(examples, predictions, classes))

    def details(
        self,
        examples: Sequence[LabeledExample],
        predictions: Sequence[Record],
        classes: Sequence[str],
    ) -> Record:
        """Return the scores of each label, and its threshold."""
        by_label = scores.by_label(list(classes), *_arrays(examples, predictions, classes))
        thresholds = self.thresholds or [scores.HALF] * len(classes)
        for name, threshold in zip(classes, thresholds, strict=True):
            by_label[name]["threshold"] = threshold
        return {"types": by_label}

    def counts(self, examples: Sequence[LabeledExample]) -> Counter[str]:
        """See `Task.counts`; counts labels, and rows without any."""
        return Counter(name for e in examples for name in (e.labels or (NO_LABEL,)))

    def sample(self, example: LabeledExample, prediction: Record) -> Sample:
        probabilities = prediction["probabilities"]
        predicted = [f"{name} ({probabilities[name]:.1%})" for name in prediction["labels"]]
        true = [name for name in probabilities if name in (example.labels or ())]
        return Sample(
            texts(example),
            ", ".join(true) or NO_LABEL,
            ", ".join(predicted) or NO_LABEL,
            correct=true == prediction["labels"],
        )

    def from_request(self, request: MaybePair) -> list[LabeledExample]:
        return [LabeledExample(REQUEST_ID, request.text, request.pair or "")]


def _labeled(table: Table, examples: list[LabeledExample]) -> list[LabeledExample]:
    """Return the examples that have been labeled; print the number of the others."""
    skipped = [example.where for example in examples if example.labels is None]
    report_skipped(table.source, skipped, "not labeled")
    if len(skipped) == len(examples):
        raise BadInputError(f"{table.source}: no row is labeled; give a file with labels")
    return [example for example in examples if example.labels is not None]


def _check_names(examples: Sequence[LabeledExample], classes: Sequence[str]) -> None:
    """Refuse labels that the model does not have, and a file that lacks one of its labels."""
    of_file = examples[0].names
    missing = [name for name in classes if name not in of_file.names]
    if of_file.complete and missing:
        raise BadInputError(
            f"{examples[0].where}: there is nothing for the labels {first_names(missing)} of the"
            f" model; add them, or choose other columns with {option('label', 'A,B')}"
        )
    known = set(classes)
    unknown = [name for name in of_file.names if name not in known]
    if unknown and of_file.detected:
        say(f"columns that are no labels of the model are ignored: {first_names(unknown)}")
        return
    for example in examples:
        if wrong := next((name for name in example.labels or () if name not in known), None):
            raise BadInputError(
                f"{example.where}: label {wrong!r} is not a label of the model"
                f" ({first_names(classes)}); {remedy_of_unknown(wrong, classes, 'label')}"
            )


def _arrays(
    examples: Sequence[LabeledExample], predictions: Sequence[Record], classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true labels, probabilities and predicted labels, [R, L] each."""
    true = _matrix([example.labels or () for example in examples], classes) > 0
    probabilities: Any = [list(record["probabilities"].values()) for record in predictions]
    predicted = _matrix([record["labels"] for record in predictions], classes) > 0
    return true, np.array(probabilities, np.float64), predicted


def _matrix(sets: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """Return int8 [R, L] with 1 for each label of a row; other names are ignored."""
    number = {name: n for n, name in enumerate(classes)}
    matrix = np.zeros((len(sets), len(classes)), np.int8)
    for row, names in enumerate(sets):
        matrix[row, [number[name] for name in names if name in number]] = 1
    return matrix
