"""Extractive summarization as in BERTSUM (Liu 2019, https://arxiv.org/abs/1903.10318).

Every sentence has its own [CLS] token and score. A summary is the sentences with the best scores,
except those that repeat three consecutive words of a better one. A document is a row of a table:
``{"document": TEXT or list of sentences, "summary": TEXT, "id": …}``.

The targets are the sentences of a greedy search that maximizes ROUGE with the summary. A document
that is longer than a row becomes several rows, split between sentences, so that a summary can use
all of it. BERTSUM reads the beginning only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

import jax.numpy as jnp
import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.training.losses import MetricSums, binary_cross_entropy
from pipelines.data.sources import numbered_lines
from pipelines.data.sources.documents import paragraphs, split_sentences
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.endpoint import Endpoint, Field, Single
from pipelines.tasks.sequences import row_length
from pipelines.tasks.summarization.rouge import (
    ORACLE_SENTENCES,
    ngrams,
    oracle,
    rouge,
    words,
)
from pipelines.tasks.tables.read import read
from pipelines.tasks.tables.table import check_ids
from pipelines.tasks.task import REQUEST_ID, Arrays, Columns, Features, Record, Sample, Task

# Usual names of columns: XSum, CNN/DailyMail, BillSum, SAMSum; and arXiv's abstracts.
DOCUMENTS = ("document", "article", "text", "dialogue")
SUMMARIES = ("summary", "highlights", "abstract")


@dataclass(frozen=True)
class SummarizationOptions:
    """Options of summarization.

    Args:
        sentences: summarization: sentences of a summary.
        language: summarization: ISO 639 code, for splitting documents into sentences.
    """

    sentences: int = 3
    language: str = "en"


@dataclass(frozen=True)
class Example:
    """A document.

    Attributes:
        id: Unique.
        sentences: Not blank; may be empty.
        summary: The reference summary; None without labels.
    """

    id: str
    sentences: tuple[str, ...]
    summary: str | None


@dataclass(frozen=True)
class Summary:
    """Chosen sentences of a document, by their indices from 0."""

    summary: str
    document: list[str]
    sentences: list[int]
    scores: list[float]


class Summarization(Task):
    """See the docstring of this module."""

    name = "summarization"
    summary = "The sentences that sum up a document"
    example_file = "train.jsonl"
    head = "pooled"
    best_metric = "rouge2"
    outputs = "fixed"
    splits_examples = True
    endpoint = Endpoint(
        Single,
        Summary,
        title="Summary",
        text="The sentences of a document that sum it up, marked in the document.",
        button="Sum up",
        fields={
            "text": Field(
                "Document",
                "The captain found a wooden boat near the river. It was broken. He repaired it with"
                " his sister in a week. The farmer sold some bread. On Sunday they sailed to the"
                " market in the boat.",
                rows=10,
            )
        },
    )
    Options = SummarizationOptions
    options: SummarizationOptions

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Example]:
        """See `Task.read`; the default id is the number of the example, from 0.

        Raises:
            BadInputError: The file cannot be read, or a document or summary is not a text.
        """
        if columns.pair:
            raise BadInputError(
                f"summarization has no pairs of texts; remove data.columns.pair ({columns.pair!r}),"
                " and name the summary as data.columns.label"
            )
        table = read(source, columns, self.bad_rows)
        text = columns.text or table.column("", DOCUMENTS, "text")
        label = columns.label or (table.column("", SUMMARIES, "label") if labeled else "")
        ignored = [name for name in table.columns if name not in (text, label, columns.id or "id")]
        rest = f"; ignored: {', '.join(ignored)}" if ignored else ""
        say(f"{source}: document {text!r}" + f", summary {label!r}" * labeled + rest)
        named = replace(columns, text=text, label=label)
        located = enumerate(zip(table.locations, table.rows, strict=True))
        examples = [
            self._example(record, number, location, named, labeled)
            for number, (location, record) in located
        ]
        check_ids(zip((example.id for example in examples), table.locations, strict=True))
        self._describe(source, examples)
        return examples

    def _example(
        self, record: Record, count: int, location: str, columns: Columns, labeled: bool
    ) -> Example:
        name = columns.id or "id"
        number = numbered_lines.field(record, name, location) if columns.id else record.get(name)
        if number is None:
            number = count
        if not isinstance(number, (str, int)):
            raise BadInputError(
                f"{location}: field {name!r} is {number!r:.40}, not a text or number"
            )
        summary = None
        if labeled:
            value = numbered_lines.field(record, columns.label, location)
            summary = numbered_lines.text(value, columns.label, location)
            if not words(summary):
                raise BadInputError(
                    f"{location}: field {columns.label!r} is {summary!r:.40}, which has no words;"
                    " remove the line"
                )
        document = numbered_lines.field(record, columns.text, location)
        if not isinstance(document, list):
            text = numbered_lines.text(document, columns.text, location)
            sentences = split_sentences(paragraphs(text), self.options.language)
        else:
            sentences = [
                numbered_lines.text(sentence, columns.text, location).strip()
                for sentence in document
            ]
            # Without it, the indices of later sentences would change.
            if "" in sentences:
                raise BadInputError(
                    f"{location}: sentence {sentences.index('')} (from 0) of {columns.text!r} is"
                    " blank; remove it"
                )
        return Example(str(number), tuple(sentences), summary)

    def _describe(self, source: str, examples: Sequence[Example]) -> None:
        lengths = np.array([len(example.sentences) for example in examples])
        if not lengths.any():
            raise BadInputError(f"{source} has no sentences; check that it is the right file")
        if empty := int((lengths == 0).sum()):
            first = examples[int(lengths.argmin())].id
            say(f"{source}: {empty:,} documents are empty and get empty summaries (first: {first})")
        count = self.options.sentences
        if short := int(((lengths > 0) & (lengths <= count)).sum()):
            say(f"{source}: {short:,} documents have at most {count} sentences; all are chosen")

    def classes(self, examples: Sequence[Example]) -> list[str]:
        """Return the name of the score of a sentence."""
        return ["selected"]

    def features(
        self, examples: Sequence[Example], tokenizer: Tokenizer, length: int, classes: Sequence[str]
    ) -> Features:
        """See `Task.features`; each row is [CLS] sentence [SEP] [CLS] sentence [SEP] ….

        Token types alternate between 0 and 1. K is the largest number of sentences of a row.

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
            encoded = tokenizer.encode(example.sentences)
            cut += sum(len(ids) > length - 2 for ids in encoded)
            lengths.append(sum(map(len, encoded)) + 2 * len(encoded))
            framed = [[tokenizer.cls_id, *ids[: length - 2], tokenizer.sep_id] for ids in encoded]
            tokens.append(np.fromiter(chain.from_iterable(framed), np.int32))
            sizes.append(np.fromiter(map(len, framed), np.int32, len(framed)))
            label, weight = _targets(example)
            labels.append(label)
            weights.append(weight)
            rows = _rows(sizes[-1], length)
            spans += rows
            owners += [number] * len(rows)
        if cut:
            say(f"{cut:,} sentences are truncated to {length - 2} tokens")
        flat = {
            "tokens": np.concatenate(tokens),
            "sizes": np.concatenate(sizes),
            "labels": np.concatenate(labels),
            "weights": np.concatenate(weights),
        }
        arrays = _arrays(spans, flat, length, tokenizer.pad_id)
        return Features(arrays, np.array(owners, np.int64), np.array(lengths, np.int64), spans)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return the binary cross-entropy of sentences; a logit with the right sign is correct.

        Args:
            logits: float32 [B, K, 1].
            batch: With ``labels`` [B, K] and ``weights`` [B, K].
        """
        x, labels, weights = logits[..., 0], batch["labels"], batch["weights"]
        loss = binary_cross_entropy(x, labels)
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
            examples: The examples.
            features: Their rows.
            logits: float32 [R, K, 1].
            classes: Of the network.

        Returns:
            {id, summary, sentences, scores}: the chosen sentences as text, their indices (from 0,
            in the order of the document) and their probabilities.
        """
        scores = [np.zeros(len(example.sentences), np.float32) for example in examples]
        for row, (first, stop) in enumerate(features.notes):
            scores[features.examples[row]][first:stop] = logits[row, : stop - first, 0]
        return [
            self._record(example, logits) for example, logits in zip(examples, scores, strict=True)
        ]

    def _record(self, example: Example, logits: np.ndarray) -> Record:
        best_first = np.argsort(-logits, kind="stable").tolist()
        chosen = choose(example.sentences, best_first, self.options.sentences)
        # The sigmoid; 1 / (1 + exp(-x)) can overflow.
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
            those of the usual baseline, the first sentences, as ``lead3_…``.
        """
        count = self.options.sentences
        lead = [_joined(example, range(min(count, len(example.sentences)))) for example in examples]
        references = [str(example.summary) for example in examples]
        scores = rouge(references, [record["summary"] for record in predictions])
        baseline = rouge(references, lead)
        return scores | {f"lead{count}_{name}": value for name, value in baseline.items()}

    def sample(self, example: Example, prediction: Record) -> Sample:
        """See `Task.sample`; the probability is the mean over the chosen sentences."""
        scores = prediction["scores"]
        probability = float(np.mean(scores)) if scores else None
        inputs = {"document": " ".join(example.sentences)}
        return Sample(inputs, example.summary or "", prediction["summary"], probability)

    def from_request(self, request: Single) -> list[Example]:
        sentences = split_sentences(paragraphs(request.text), self.options.language)
        if not sentences:
            raise BadArgumentsError("the document has no sentences")
        return [Example(REQUEST_ID, tuple(sentences), None)]

    def response(
        self, examples: Sequence[Example], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        """See `Task.response`; adds the sentences of the document."""
        return predictions[0] | {"document": examples[0].sentences}


def choose(sentences: Sequence[str], best_first: Iterable[int], count: int) -> list[int]:
    """Choose the best sentences that have no trigram in common, in the order of the document.

    Args:
        sentences: The sentences of the document.
        best_first: Their indices, the best score first.
        count: Most sentences to choose.
    """
    chosen: list[int] = []
    used: set[tuple[str, ...]] = set()
    for number in best_first:
        if len(chosen) == count:
            break
        trigrams = set(ngrams(words(sentences[number]), 3))
        if used.isdisjoint(trigrams):
            chosen.append(number)
            used |= trigrams
    return sorted(chosen)


def _joined(example: Example, numbers: Iterable[int]) -> str:
    return " ".join(example.sentences[number] for number in numbers)


def _targets(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels, int32, and weights, float32, of a document's sentences."""
    labels = np.zeros(len(example.sentences), np.int32)
    weights = np.zeros(len(example.sentences), np.float32)
    if example.summary is not None:
        labels[oracle(example.sentences, example.summary)] = 1
        # The search does not cover later sentences, so they have no target.
        weights[:ORACLE_SENTENCES] = 1.0
    return labels, weights


def _rows(sizes: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Return first and one-past-last sentence of each row of at most `length` tokens."""
    bounds = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    first = [0]
    while first[-1] < len(sizes):
        last = np.searchsorted(bounds, bounds[first[-1]] + length, side="right") - 1
        first.append(int(last))
    return list(pairwise(first))


def _arrays(spans: Sequence[tuple[int, int]], flat: Arrays, length: int, pad_id: int) -> Arrays:
    """Put the concatenated ``tokens``, and three values of each sentence, into rows."""
    sizes = flat["sizes"]
    per_row = np.array([stop - first for first, stop in spans], np.int64)
    row = np.repeat(np.arange(len(spans)), per_row)
    position = np.arange(len(sizes)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    row_tokens = np.bincount(row, sizes, len(spans)).astype(np.int64)
    T = row_length(int(row_tokens.max(initial=1)), length)
    is_token = np.arange(T) < row_tokens[:, None]
    is_sentence = np.arange(per_row.max(initial=1)) < per_row[:, None]
    starts = np.cumsum(sizes, dtype=np.int64) - sizes
    starts -= (np.cumsum(row_tokens) - row_tokens)[row]

    def scattered(mask: np.ndarray, values: np.ndarray, fill: int = 0) -> np.ndarray:
        array = np.full(mask.shape, fill, np.int32)
        array[mask] = values
        return array

    return {
        "token_ids": scattered(is_token, flat["tokens"], pad_id),
        "token_type_ids": scattered(is_token, np.repeat(position % 2, sizes)),
        "segment_ids": is_token.astype(np.int32),
        "cls_positions": scattered(is_sentence, starts),
        "labels": scattered(is_sentence, flat["labels"]),
        "weights": scattered(is_sentence, flat["weights"]).astype(np.float32),
    }
