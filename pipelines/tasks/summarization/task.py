"""Extractive summarisation as BERTSUM does it (Liu 2019, https://arxiv.org/abs/1903.10318).

Every sentence is scored at a [CLS] of its own; a summary is the sentences that score best, except
those that repeat three words in a row of a better one. A document is a line of a JSON Lines file:
``{"document": TEXT or list of sentences, "summary": TEXT, "id": …}``.

What is learned is which sentences a greedy search takes that maximises ROUGE against the summary.
A document longer than a row becomes several rows, cut between sentences, so that all of it can be
chosen from; BERTSUM reads the beginning only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums
from pipelines.data.sources import json_lines
from pipelines.data.sources.files import paragraphs
from pipelines.data.store.shards import split_document
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.sequences import row_length
from pipelines.tasks.summarization.rouge import (
    ORACLE_SENTENCES,
    ngrams,
    oracle,
    rouge,
    words,
)
from pipelines.tasks.task import Arrays, Columns, Features, Record, Sample, Task


@dataclass(frozen=True)
class Example:
    """A document.

    Attributes:
        id: Tells it apart.
        sentences: None of them blank; there may be none.
        summary: What a person wrote; None where it is not known.
    """

    id: str
    sentences: tuple[str, ...]
    summary: str | None


@dataclass
class Summarization:
    """See the head of this file.

    Args:
        select: Sentences of a summary.
        language: ISO 639 code, for the rules that split a text into sentences.
    """

    select: int = 3
    language: str = "en"
    head: Literal["pooled", "tokens"] = field(default="pooled", init=False)
    best: str = field(default="rouge2", init=False)

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Example]:
        """See `Task.read`; without an ``id`` an example has its number, from 0.

        Raises:
            BadInputError: The file cannot be read, or a document or summary is missing or no text.
        """
        if source.startswith("tfds:"):
            raise BadInputError(
                f"{source}: summarisation reads JSON Lines files; write the data set as one"
            )
        if columns.pair:
            raise BadInputError(
                f"column {columns.pair!r} is named as the second text of a pair, but a document"
                " stands alone; name the summary as the label"
            )
        named = replace(columns, text=columns.text or "document", label=columns.label or "summary")
        examples: list[Example] = []
        places: dict[str, str] = {}
        for place, record in json_lines.records(Path(source)):
            example = self._example(record, len(examples), place, named, labelled)
            if example.id in places:
                raise BadInputError(
                    f"{place} has the id {example.id!r} of {places[example.id]}; ids must differ"
                )
            places[example.id] = place
            examples.append(example)
        self._describe(source, examples)
        return examples

    def _example(
        self, record: Record, count: int, place: str, columns: Columns, labelled: bool
    ) -> Example:
        name = columns.id or "id"
        number = json_lines.field(record, name, place) if columns.id else record.get(name)
        if number is None:
            number = count
        if not isinstance(number, (str, int)):
            raise BadInputError(f"{place}: field {name!r} is {number!r:.40}, not a text or number")
        summary = None
        if labelled:
            found = json_lines.field(record, columns.label, place)
            summary = json_lines.text(found, columns.label, place)
            if not words(summary):
                raise BadInputError(
                    f"{place}: field {columns.label!r} is {summary!r:.40}, which has no words;"
                    " take the line out"
                )
        document = json_lines.field(record, columns.text, place)
        if not isinstance(document, list):
            text = json_lines.text(document, columns.text, place)
            sentences = split_document(paragraphs(text), self.language)
        else:
            sentences = [json_lines.text(one, columns.text, place).strip() for one in document]
            # Left out silently it would shift the numbers of those behind it.
            if "" in sentences:
                raise BadInputError(
                    f"{place}: sentence {sentences.index('')} (from 0) of {columns.text!r} is"
                    " blank; leave it out"
                )
        return Example(str(number), tuple(sentences), summary)

    def _describe(self, source: str, examples: Sequence[Example]) -> None:
        lengths = np.array([len(example.sentences) for example in examples])
        if not lengths.any():
            raise BadInputError(f"{source} has no document with a sentence in it")
        if empty := int((lengths == 0).sum()):
            first = examples[int(lengths.argmin())].id
            say(f"{source}: empty documents, whose summaries are empty: {empty:,} ({first}, …)")
        if short := int(((lengths > 0) & (lengths <= self.select)).sum()):
            limit = f"{self.select} sentences or fewer"
            say(f"{source}: documents of {limit}, all of which are chosen: {short:,}")

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """See `Task.classes`: one score per sentence."""
        return ["selected"]

    def features(
        self, examples: Sequence[Example], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """See `Task.features`; each row is [CLS] sentence [SEP] [CLS] sentence [SEP] ….

        Segments alternate between 0 and 1. K is the number of sentences of the row that has most.

        Returns:
            Also ``cls_positions`` int32 [R, K], ``labels`` int32 [R, K] (1 = in the summary),
            ``weights`` float32 [R, K]; the notes are first and one-past-last sentence of each row.
        """
        tokens, sizes, labels, weights = ([np.zeros(0, np.int32)] for _ in range(4))

        owners: list[int] = []
        spans: list[tuple[int, int]] = []
        lengths: list[int] = []
        cut = 0
        for number, example in enumerate(examples):
            ids = tokenizer.encode(example.sentences)
            cut += sum(len(one) > length - 2 for one in ids)
            lengths.append(sum(map(len, ids)) + 2 * len(ids))
            ids = [[tokenizer.cls_id, *one[: length - 2], tokenizer.sep_id] for one in ids]
            tokens.append(np.fromiter(chain.from_iterable(ids), np.int32))
            sizes.append(np.fromiter(map(len, ids), np.int32, len(ids)))
            label, weight = _targets(example)
            labels.append(label)
            weights.append(weight)
            rows = _rows(sizes[-1], length)
            spans += rows
            owners += [number] * len(rows)
        if cut:
            say(f"sentences that are cut to {length - 2} tokens: {cut:,}")
        flat = {
            "tokens": np.concatenate(tokens),
            "sizes": np.concatenate(sizes),
            "labels": np.concatenate(labels),
            "weights": np.concatenate(weights),
        }
        arrays = _arrays(spans, flat, length, tokenizer.pad_id)
        return Features(arrays, np.array(owners, np.int64), np.array(lengths, np.int64), spans)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """See `Task.objective`: the cross-entropy of each sentence; right is the right sign.

        Args:
            logits: float32 [B, K, 1].
            batch: With ``labels`` [B, K] and ``weights`` [B, K].
        """
        x, labels, weights = logits[..., 0], batch["labels"], batch["weights"]
        loss = jax.nn.softplus(x) - x * labels
        correct = (x > 0) == (labels > 0)
        return MetricSums(jnp.sum(loss * weights), jnp.sum(correct * weights), jnp.sum(weights))

    def predict(
        self,
        examples: Sequence[Example],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """See `Task.predict`.

        Args:
            examples: As given to `features`.
            features: Made of them.
            logits: float32 [R, K, 1].
            classes: Of the network.

        Returns:
            {id, summary, sentences, scores}: the chosen sentences as text, their numbers (from 0,
            in the order of the document) and their probabilities.
        """
        scores = [np.zeros(len(example.sentences), np.float32) for example in examples]
        for row, (first, stop) in enumerate(features.notes):
            scores[features.examples[row]][first:stop] = logits[row, : stop - first, 0]
        return [self._record(example, one) for example, one in zip(examples, scores, strict=True)]

    def _record(self, example: Example, logits: np.ndarray) -> Record:
        best_first = np.argsort(-logits, kind="stable").tolist()
        chosen = choose(example.sentences, best_first, self.select)
        # The sigmoid; written as 1 / (1 + exp(-x)) it overflows.
        probabilities = 0.5 + 0.5 * np.tanh(0.5 * logits[chosen])
        return {
            "id": example.id,
            "summary": _joined(example, chosen),
            "sentences": chosen,
            "scores": probabilities.tolist(),
        }

    def score(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """See `Task.score`.

        Returns:
            Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L (over the whole text) of the predictions, and
            as ``lead3_…`` of the first sentences, as many as a summary has: the usual yardstick.
        """
        lead = [_joined(one, range(min(self.select, len(one.sentences)))) for one in examples]
        found = rouge([str(one.summary) for one in examples], [p["summary"] for p in predictions])
        baseline = rouge([str(one.summary) for one in examples], lead)
        return found | {f"lead{self.select}_{name}": value for name, value in baseline.items()}

    def counts(self, examples: Sequence[Example]) -> Counter[str]:
        """See `Task.counts`: none."""
        return Counter()

    def sample(self, example: Example, prediction: Record) -> Sample:
        """See `Task.sample`; the probability is the mean of the chosen sentences'."""
        scores = prediction["scores"]
        share = float(np.mean(scores)) if scores else None
        given = {"document": " ".join(example.sentences)}
        return Sample(given, example.summary or "", prediction["summary"], share)


def choose(sentences: Sequence[str], best_first: Iterable[int], count: int) -> list[int]:
    """The best sentences that share no three words in a row, in the order of the document.

    Args:
        sentences: Of the document.
        best_first: Their numbers.
        count: To choose at most.
    """
    chosen: list[int] = []
    there: set[tuple[str, ...]] = set()
    for number in best_first:
        if len(chosen) == count:
            break
        trigrams = set(ngrams(words(sentences[number]), 3))
        if there.isdisjoint(trigrams):
            chosen.append(number)
            there |= trigrams
    return sorted(chosen)


def _joined(example: Example, numbers: Iterable[int]) -> str:
    return " ".join(example.sentences[number] for number in numbers)


def _targets(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Labels int32 and weights float32 of a document's sentences."""
    labels = np.zeros(len(example.sentences), np.int32)
    weights = np.zeros(len(example.sentences), np.float32)
    if example.summary is not None:
        labels[oracle(example.sentences, example.summary)] = 1
        # Nobody knows of those behind whether they should be chosen.
        weights[:ORACLE_SENTENCES] = 1.0
    return labels, weights


def _rows(sizes: np.ndarray, length: int) -> list[tuple[int, int]]:
    """First and one-past-last sentence of each row that sentences of at most `length` fill."""
    bounds = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    first = [0]
    while first[-1] < len(sizes):
        last = np.searchsorted(bounds, bounds[first[-1]] + length, side="right") - 1
        first.append(int(last))
    return list(pairwise(first))


def _arrays(spans: Sequence[tuple[int, int]], flat: Arrays, length: int, pad_id: int) -> Arrays:
    """Puts what stands end to end, ``tokens`` and three values of each sentence, into rows."""
    sizes = flat["sizes"]
    per_row = np.array([stop - first for first, stop in spans], np.int64)
    row = np.repeat(np.arange(len(spans)), per_row)
    place = np.arange(len(sizes)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    row_tokens = np.bincount(row, sizes, len(spans)).astype(np.int64)
    T = row_length(int(row_tokens.max(initial=1)), length)
    is_token = np.arange(T) < row_tokens[:, None]
    is_sentence = np.arange(per_row.max(initial=1)) < per_row[:, None]
    starts = np.cumsum(sizes, dtype=np.int64) - sizes
    starts -= (np.cumsum(row_tokens) - row_tokens)[row]

    def laid_out(where: np.ndarray, values: np.ndarray, fill: int = 0) -> np.ndarray:
        array = np.full(where.shape, fill, np.int32)
        array[where] = values
        return array

    return {
        "token_ids": laid_out(is_token, flat["tokens"], pad_id),
        "token_type_ids": laid_out(is_token, np.repeat(place % 2, sizes)),
        "segment_ids": is_token.astype(np.int32),
        "cls_positions": laid_out(is_sentence, starts),
        "labels": laid_out(is_sentence, flat["labels"]),
        "weights": laid_out(is_sentence, flat["weights"]).astype(np.float32),
    }


TASK: Task = Summarization()
