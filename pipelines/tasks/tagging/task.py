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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.endpoint import Endpoint, Field, Single
from pipelines.tasks.tagging import bio_tags, entity_f1
from pipelines.tasks.tagging.conll import Sentence, read_sentences, split_words
from pipelines.tasks.tagging.rows import SPECIALS, encode_words, tag_rows
from pipelines.tasks.task import REQUEST_ID, Columns, Features, Record, Sample, Task

_MOST_LISTED = 10  # names in a message


@dataclass(frozen=True)
class TaggingOptions:
    """Options of tagging.

    Args:
        document_context: tagging: fill up rows with neighboring sentences of the document.
    """

    document_context: bool = False


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

    def read(self, source: str, columns: Columns, labeled: bool) -> list[Sentence]:
        """See `Task.read` and `pipelines.tasks.tagging.conll`; tags become BIO.

        Raises:
            BadInputError: It cannot be read, or only some tags begin with B-, I-, E- or S-.
        """
        sentences = read_sentences(source, columns, labeled)
        if empty := sum(not sentence.tokens for sentence in sentences):
            say(f"{source}: {empty:,} of {len(sentences):,} sentences have no words")
        documents = {sentence.document for sentence in sentences}
        if self.options.document_context and len(documents) == len(sentences):
            say(f"{source} has no -DOCSTART- lines, so sentences have no document context")
        return _in_bio(source, sentences) if labeled else sentences

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
        kind = "entities" if bio_tags.mark_entities(tags) else "words"
        listed = (f"{name} {count:,}" for name, count in counts.most_common(_MOST_LISTED + 1))
        say(f"{counts.total():,} {kind}: {_listed(list(listed))}")
        if bio_tags.mark_entities(tags):
            types = {tag[2:] for tag in tags if tag != bio_tags.OUTSIDE}
            inside = sorted(f"{prefix}-{label}" for prefix in "BI" for label in types)
            return [bio_tags.OUTSIDE, *inside]
        return sorted(tags, key=lambda tag: (tag != bio_tags.OUTSIDE, tag))

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
        records, start = [], 0
        for example in examples:
            end = start + len(example.tokens)
            tags = [classes[number] for number in best[start:end]]
            records.append(
                _record(example, tags, score[start:end], bio_tags.mark_entities(classes))
            )
            start = end
        return records

    def score(
        self, examples: Sequence[Sentence], predictions: Sequence[Record], classes: Sequence[str]
    ) -> dict[str, float]:
        """See `entity_f1.scores`."""
        tags = _gold_and_predicted(examples, predictions)
        return entity_f1.scores(*tags, bio_tags.mark_entities(classes))

    def details(
        self, examples: Sequence[Sentence], predictions: Sequence[Record], classes: Sequence[str]
    ) -> Record:
        """Return the scores of each type."""
        tags = _gold_and_predicted(examples, predictions)
        return {"types": entity_f1.by_type(*tags, bio_tags.mark_entities(classes))}

    def counts(self, examples: Sequence[Sentence]) -> Counter[str]:
        """See `Task.counts`; counts entities by type, or tags that mark no entities."""
        tags = _tag_counts(examples)
        if not bio_tags.mark_entities(tags):
            return tags
        return Counter({tag[2:]: count for tag, count in tags.items() if tag.startswith("B-")})

    def sample(self, example: Sentence, prediction: Record) -> Sample:
        """See `Task.sample`; lists the entities, or words with tags that mark no entities."""
        words, true, predicted = example.tokens, example.tags or [], prediction["tags"]
        all_tags = {*true, *predicted}
        if bio_tags.mark_entities(all_tags) or all_tags <= {bio_tags.OUTSIDE}:
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

    def from_request(self, request: Single) -> list[Sentence]:
        words, starts = split_words(request.text)
        if not words:
            raise BadArgumentsError("the text has no words")
        return [Sentence(REQUEST_ID, words, None, request.text, starts, 0, "the request", 1)]


def _gold_and_predicted(
    examples: Sequence[Sentence], predictions: Sequence[Record]
) -> tuple[list[list[str]], list[list[str]]]:
    gold = [example.tags or [] for example in examples]
    return gold, [record["tags"] for record in predictions]


def _in_bio(source: str, sentences: list[Sentence]) -> list[Sentence]:
    """Return sentences with their tags in BIO; print how many tags changed."""
    tags = set(chain.from_iterable(sentence.tags or () for sentence in sentences))
    if not bio_tags.mark_entities(tags):
        say(f"{source}: no tag begins with B- or I-, so scores are those of single words")
        return sentences
    if invalid := {tag for tag in tags if not bio_tags.is_entity_tag(tag)}:
        location = next(location for location, tag in _tags(sentences) if tag in invalid)
        raise BadInputError(
            f"{location} has a tag that is not O and does not begin with B-, I-, E- or S-, as other"
            f" tags do ({_listed(sorted(invalid))}); correct these tags"
        )
    bio = [replace(sentence, tags=bio_tags.to_bio(sentence.tags or ())) for sentence in sentences]
    changed = [
        location
        for (location, old), (_, new) in zip(_tags(sentences), _tags(bio), strict=True)
        if old != new
    ]
    if changed:
        say(f"{len(changed):,} tags converted to BIO (first: {changed[0]})")
    return bio


def _tags(sentences: Sequence[Sentence]) -> Iterator[tuple[str, str]]:
    """Yield location and tag of every word."""
    for sentence in sentences:
        for number, tag in enumerate(sentence.tags or ()):
            yield sentence.location(number), tag


def _tag_counts(examples: Sequence[Sentence]) -> Counter[str]:
    return Counter(chain.from_iterable(example.tags or () for example in examples))


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:_MOST_LISTED], "…"] if len(names) > _MOST_LISTED else names)


def _class_numbers(examples: Sequence[Sentence], classes: Sequence[str]) -> np.ndarray:
    """Return the class of every word, int32 [W]; 0 if sentences have no tags."""
    number = {name: index for index, name in enumerate(classes)}
    if all(example.tags is None for example in examples):
        return np.zeros(sum(len(example.tokens) for example in examples), np.int32)
    numbers = [number.get(tag, -1) for example in examples for tag in example.tags or ()]
    if -1 in numbers:
        location, tag = next(item for item in _tags(examples) if item[1] not in number)
        raise BadInputError(
            f"{location} has the tag {tag!r}, which is not a class of the model"
            f" ({_listed(list(classes))}); correct it, or train on data with this tag"
        )
    return np.array(numbers, np.int32)


def _record(example: Sentence, tags: list[str], score: np.ndarray, entities: bool) -> Record:
    spans: Iterable[bio_tags.Span] = bio_tags.entities(tags) if entities else ()
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
    tags = bio_tags.to_bio(tags) if entities else tags
    return {"id": example.id, "tokens": example.tokens, "tags": tags, "entities": records}
