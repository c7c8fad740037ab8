"""Tagging of words: named entities, chunks, parts of speech.

As in the paper, the first sub-token of each word predicts its tag, without a CRF. Words are encoded
one by one, so with SentencePiece each begins with a space, even punctuation.

A sentence that does not fit into a row is split into spans of half a row. The words before and
after a span fill up its row, so that every word has context on both sides. With document context,
the words of the document fill up the row of every sentence: the "maximal document context" of the
paper's results for CoNLL-2003, at the cost of a full row per sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.endpoint import Endpoint, Field, Single
from pipelines.tasks.tables.bad_rows import STOP, BadRows
from pipelines.tasks.tables.labels import first_names
from pipelines.tasks.tagging import bio_tags, entity_f1, schemes
from pipelines.tasks.tagging.conversion import in_bio, located_tags
from pipelines.tasks.tagging.read import read_sentences
from pipelines.tasks.tagging.rows import SPECIALS, encode_words, tag_rows
from pipelines.tasks.tagging.sentence import Sentence, split_words
from pipelines.tasks.tagging.tag_names import are_numbers
from pipelines.tasks.task import REQUEST_ID, Columns, Features, Record, Sample, Task

_MOST_LISTED = 10  # names in a message


@dataclass(frozen=True)
class TaggingOptions:
    """Options of tagging.

    Args:
        document_context: tagging: fill up rows with neighboring sentences of the document.
        tag_names: tagging: file with the names of tags that are numbers: a name per line, or JSON.
    """

    document_context: bool = False
    tag_names: str = ""


@dataclass(frozen=True)
class Entity:
    """Words that belong together; start and end are characters of the text."""

    text: str
    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Tagged:
    """Words with their tags."""

    tokens: list[str]
    tags: list[str]
    entities: list[Entity]


class Tagging(Task):
    """Examples are `Sentence`."""

    name = "tagging"
    summary = "Tags of words, and entities"
    example_file = "train.conll"
    head = "tokens"
    best_metric = "f1"
    architecture = "BertForTokenClassification"
    splits_examples = True
    label_title = "type"
    endpoint = Endpoint(
        Single,
        Tagged,
        title="Entities and tags",
        text="A tag for every word. Entities are marked in the text.",
        button="Tag",
        fields={
            "text": Field(
                "Text", "Ada Lovelace wrote to Charles Babbage from London in 1843.", rows=4
            )
        },
    )
    Options = TaggingOptions
    options: TaggingOptions

    def __init__(self, options: Any = None, bad_rows: BadRows = STOP) -> None:
        """See `Task`."""
        super().__init__(options, bad_rows)
        # Whether tags mark entities: decided by the classes or the first data set that is read.
        self._mark_entities: bool | None = None

    def expect_classes(self, classes: Sequence[str]) -> None:
        self._mark_entities = schemes.recognize(classes) is not None

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Sentence]:
        """See `Task.read` and `pipelines.tasks.tagging.read`; tags that mark entities become BIO.

        Raises:
            BadInputError: It cannot be read, or tags of several schemes are mixed.
        """
        sentences = read_sentences(source, columns, labeled, self.options.tag_names, self.bad_rows)
        if empty := sum(not sentence.tokens for sentence in sentences):
            say(f"{source}: {empty:,} of {len(sentences):,} sentences have no words")
        documents = {sentence.document for sentence in sentences}
        if self.options.document_context and len(documents) == len(sentences):
            say(f"{source} has no -DOCSTART- lines, so sentences have no document context")
        if labeled:
            sentences, self._mark_entities = in_bio(source, sentences, self._mark_entities)
        return sentences

    def classes(self, examples: Sequence[Sentence]) -> list[str]:
        """Return the tags, O first; every type of entity has both B- and I-, for other data.

        Raises:
            BadInputError: There is only one.
        """
        tags = _tag_counts(examples)
        if len(tags) < 2:
            (only,) = tags or ("",)
            raise BadInputError(
                f"{examples[0].source}: every word has the tag {only!r}; tagging needs at least two"
                " different tags, so check the column of the tags (data.columns.label)"
            )
        counts = self.counts(examples)
        of_entities = self._of_entities(tags)
        listed = (f"{name} {count:,}" for name, count in counts.most_common(_MOST_LISTED + 1))
        one, many = ("entity", "entities") if of_entities else ("word", "words")
        kind = one if counts.total() == 1 else many
        names = "" if [*counts] == [bio_tags.UNTYPED] else f": {first_names(list(listed))}"
        say(f"{counts.total():,} {kind}{names}")
        if of_entities:
            types = {bio_tags.type_of(tag) for tag in tags if tag != bio_tags.OUTSIDE}
            inside = sorted(bio_tags.tag_of(letter, name) for letter in "BI" for name in types)
            return [bio_tags.OUTSIDE, *inside]
        numbers = are_numbers(set(tags))
        return sorted(tags, key=lambda tag: int(tag) if numbers else (tag != bio_tags.OUTSIDE, tag))

    def features(
        self,
        examples: Sequence[Sentence],
        tokenizer: Tokenizer,
        length: int,
        classes: Sequence[str],
    ) -> Features:
        """See `Task.features`.

        ``weights`` [R, T] is 1 on the first sub-token of each word that the row tags, and
        ``labels`` int32 [R, T] has its class there. Over all rows, each word has one such token,
        in order. A word with more sub-tokens than a row loses the last, a word with none is [UNK],
        and a sentence without words has no row.
        """
        words = [token for example in examples for token in example.tokens]
        pieces = encode_words(words, tokenizer, length - SPECIALS)
        offsets = np.cumsum([0, *map(len, pieces)])
        bounds = np.cumsum([0, *(len(example.tokens) for example in examples)])
        tokens = np.fromiter(chain.from_iterable(pieces), np.int32, offsets[-1])
        labels = np.zeros(len(tokens), np.int32)
        labels[offsets[:-1]] = _class_numbers(examples, classes)
        documents = None
        if self.options.document_context:
            documents = np.array([example.document for example in examples])
        arrays, owners = tag_rows(tokens, labels, offsets, bounds, documents, tokenizer, length)
        return Features(arrays, owners, np.diff(offsets[bounds]) + SPECIALS)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Return cross-entropy and correct tags of words."""
        return cross_entropy(logits, batch["labels"], batch["weights"])

    def predict(
        self,
        examples: Sequence[Sentence],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Return tags and entities of each sentence.

        Returns:
            Objects with ``id``, ``tokens``, ``tags`` (valid BIO, or plain tags) and ``entities``:
            ``text``, ``label``, ``start`` and ``end`` (characters of the text; for tokens, of the
            tokens joined by spaces), and ``score``, the mean probability of its tags.
        """
        # Rows are in the order of their words.
        chosen = logits[features.arrays["weights"] > 0].astype(np.float64)
        best = chosen.argmax(axis=-1)
        chosen -= chosen.max(axis=-1, keepdims=True)
        score = 1 / np.exp(chosen).sum(axis=-1)
        scheme = schemes.recognize(classes)
        records, start = [], 0
        for example in examples:
            end = start + len(example.tokens)
            tags = [classes[number] for number in best[start:end]]
            bio = tags if scheme is None else scheme.to_bio(tags)
            spans = [] if scheme is None else bio_tags.entities(bio)
            records.append(_record(example, bio, score[start:end], spans))
            start = end
        return records

    def score(
        self, examples: Sequence[Sentence], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """See `entity_f1.scores`."""
        tags = _gold_and_predicted(examples, predictions)
        return entity_f1.scores(*tags, schemes.recognize(classes) is not None)

    def details(
        self, examples: Sequence[Sentence], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        """Return the scores of each type."""
        tags = _gold_and_predicted(examples, predictions)
        return {"types": entity_f1.by_type(*tags, schemes.recognize(classes) is not None)}

    def counts(self, examples: Sequence[Sentence]) -> Counter[str]:
        """See `Task.counts`; counts entities by type, or tags that mark no entities."""
        tags = _tag_counts(examples)
        if not self._of_entities(tags):
            return tags
        begins = {tag: count for tag, count in tags.items() if tag.startswith("B")}
        return Counter({bio_tags.type_of(tag): count for tag, count in begins.items()})

    def sample(self, example: Sentence, prediction: Record) -> Sample:
        """See `Task.sample`; lists the entities, or words with tags that mark no entities."""
        words, true, predicted = example.tokens, example.tags or [], prediction["tags"]
        tags = {*true, *predicted}
        if self._of_entities(tags) or tags <= {bio_tags.OUTSIDE}:
            spans = bio_tags.entities(true)
            gold = [f"{label} {' '.join(words[first:end])}" for label, first, end in spans]
            entities = [
                f"{e['label']} {e['text']} ({e['score']:.1%})" for e in prediction["entities"]
            ]
            true_text, predicted_text = (
                ", ".join(side) or "(no entity)" for side in (gold, entities)
            )
        else:
            pairs = (zip(words, tags, strict=True) for tags in (true, predicted))
            true_text, predicted_text = (
                " ".join(f"{word}/{tag}" for word, tag in side) for side in pairs
            )
        inputs = {"words": " ".join(words)}
        return Sample(inputs, true_text, predicted_text, correct=true == predicted)

    def _of_entities(self, tags: Iterable[str]) -> bool:
        """Return whether the tags of the data set mark entities; `tags` decide if it is unknown."""
        if self._mark_entities is None:
            return schemes.recognize(tags) is not None
        return self._mark_entities

    def from_request(self, request: Single) -> list[Sentence]:
        words, starts = split_words(request.text)
        if not words:
            raise BadArgumentsError("the text has no words")
        return [
            Sentence(REQUEST_ID, words, None, request.text, starts, 0, "the request", "the request")
        ]


def _gold_and_predicted(
    examples: Sequence[Sentence], predictions: Sequence[Record]
) -> tuple[list[list[str]], list[list[str]]]:
    gold = [example.tags or [] for example in examples]
    return gold, [record["tags"] for record in predictions]


def _tag_counts(examples: Sequence[Sentence]) -> Counter[str]:
    return Counter(chain.from_iterable(example.tags or () for example in examples))


def _class_numbers(examples: Sequence[Sentence], classes: Sequence[str]) -> np.ndarray:
    """Return the class of every word, int32 [W]; 0 if sentences have no tags."""
    if all(example.tags is None for example in examples):
        return np.zeros(sum(len(example.tokens) for example in examples), np.int32)
    number = {name: index for index, name in enumerate(classes)}
    scheme = schemes.recognize(classes)  # of a model from elsewhere; not always BIO
    numbers: list[int] = []
    for example in examples:
        tags = example.tags or []
        names = tags if scheme is None or scheme.is_bio else scheme.from_bio(tags)
        numbers += (number.get(name, -1) for name in names)
    if -1 in numbers:
        location, tag = next(islice(located_tags(examples), numbers.index(-1), None))
        remedy = "correct it, or train on data with this tag"
        if classes[0] == "LABEL_0":  # Hugging Face's name of a class without one
            remedy = "give the classes their names in id2label of the model's config.json"
        raise BadInputError(
            f"{location} has the tag {tag!r}, which is not a class of the model"
            f" ({first_names(classes)}); {remedy}"
        )
    return np.array(numbers, np.int32)


def _record(
    example: Sentence, tags: list[str], score: np.ndarray, spans: Sequence[bio_tags.Span]
) -> Record:
    records = []
    for label, first, end in spans:
        start, stop = example.starts[first], example.starts[end - 1] + len(example.tokens[end - 1])
        records.append(
            {
                "text": example.text[start:stop],
                "label": label,
                "start": start,
                "end": stop,
                "score": float(score[first:end].mean()),
            }
        )
    return {"id": example.id, "tokens": example.tokens, "tags": tags, "entities": records}
