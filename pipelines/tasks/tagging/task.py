"""Tagging of words: named entities, chunks, parts of speech.

As in the paper, the first sub-token of each word says its tag and there is no CRF. Words are
encoded one by one, so with SentencePiece each begins with a space, punctuation too.

A sentence that does not fit into a row is cut into stretches of half a row, and words before and
after fill it up, so that every word sees both sides. With document context they do so around every
sentence, as far as its document goes: the "maximal document context" of the paper's figures for
CoNLL-2003, at the cost of a full row per sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import Literal

import numpy as np
from jax import Array

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from bert_jax.training.losses import MetricSums, cross_entropy
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.tasks.sequences import row_length
from pipelines.tasks.tagging import bio_tags
from pipelines.tasks.tagging.conll import Sentence, read_sentences
from pipelines.tasks.task import Arrays, Columns, Features, Record, Sample, Task

_SPECIALS = 2  # [CLS] … [SEP]
_SHOWN = 10  # names in a message


class Tagging:
    """See `Task`; examples are `Sentence`."""

    head: Literal["pooled", "tokens"] = "tokens"
    best = "f1"

    def __init__(self, document_context: bool = False) -> None:
        """Tagging of sentences.

        Args:
            document_context: Put the neighbouring sentences of the document beside each.
        """
        self.document_context = document_context

    def read(self, source: str, columns: Columns, labelled: bool) -> list[Sentence]:
        """See `Task.read` and `pipelines.tasks.tagging.conll`; tags become BIO.

        Raises:
            BadInputError: It cannot be read, or tags with B-, I-, E- or S- stand among others.
        """
        sentences = read_sentences(source, columns, labelled)
        if empty := sum(not sentence.tokens for sentence in sentences):
            say(f"{source}: {empty:,} of {len(sentences):,} sentences have no words")
        documents = {sentence.document for sentence in sentences}
        if self.document_context and len(documents) == len(sentences):
            say(f"{source} marks no documents (-DOCSTART- lines), so sentences have no context")
        return _in_bio(source, sentences) if labelled else sentences

    def classes(self, examples: Sequence[Sentence]) -> list[str]:
        """The tags, O first; of every type of entity both B- and I-, as other data may need them.

        Raises:
            BadInputError: There is only one.
        """
        tags = _tag_counts(examples)
        if len(tags) < 2:
            (only,) = tags or ("",)
            raise BadInputError(
                f"{examples[0].source}: every word has the tag {only!r}, so there is nothing to"
                " learn; is it the column of the tags?"
            )
        counts = self.counts(examples)
        what = "entities" if bio_tags.mark_entities(tags) else "words"
        shown = (f"{name} {count:,}" for name, count in counts.most_common(_SHOWN + 1))
        say(f"{counts.total():,} {what}: {_some(list(shown))}")
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

        ``weights`` [R, T] is 1 on the first sub-token of each word that the row is to tag, and
        ``labels`` int32 [R, T] has its class there; over all rows each word has one, in order. A
        word of more sub-tokens than a row loses the last, one of none is [UNK], and a sentence
        without words has no row.
        """
        room = length - _SPECIALS
        words = [token for example in examples for token in example.tokens]
        pieces = _encode_words(words, tokenizer, room)
        offsets = np.cumsum([0, *map(len, pieces)])
        bounds = np.cumsum([0, *(len(example.tokens) for example in examples)])
        example, begin, end = _stretches(offsets, bounds, room)
        low, high = bounds[example], bounds[example + 1]
        if self.document_context:
            low, high = (limit[example] for limit in _documents(examples, bounds))
        first, last = _with_context(offsets, begin, end, low, high, room)
        tokens = np.fromiter(chain.from_iterable(pieces), np.int32, offsets[-1])
        labels = np.zeros(len(tokens), np.int32)
        labels[offsets[:-1]] = _class_numbers(examples, classes)
        heads = np.zeros(len(tokens), bool)
        heads[offsets[:-1]] = True
        token, used = _positions(offsets[first], offsets[last], length)
        tagged = heads[token] & used
        tagged &= (token >= offsets[begin][:, None]) & (token < offsets[end][:, None])
        arrays: Arrays = {
            "token_ids": _framed(np.where(used, tokens[token], tokenizer.pad_id), used, tokenizer),
            "token_type_ids": np.zeros(token.shape, np.int32),
            "segment_ids": _framed(used.astype(np.int32), used, None),
            "weights": tagged.astype(np.float32),
            "labels": np.where(tagged, labels[token], 0).astype(np.int32),
        }
        return Features(arrays, example, np.diff(offsets[bounds]) + _SPECIALS)

    def objective(self, logits: Array, batch: dict[str, Array]) -> MetricSums:
        """Cross-entropy and accuracy of the words' tags."""
        return cross_entropy(logits, batch["labels"], batch["weights"])

    def predict(
        self,
        examples: Sequence[Sentence],
        features: Features,
        logits: np.ndarray,
        classes: Sequence[str],
    ) -> list[Record]:
        """Tags and entities of each sentence.

        Returns:
            Objects with ``id``, ``tokens``, ``tags`` (valid BIO, or plain tags) and ``entities``:
            ``text``, ``label``, ``start`` and ``end`` (characters of the text; of tokens, in the
            text that has a space between them), and ``score``, the mean probability of its tags.
        """
        # A row tags the words that follow those of the row before it.
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
        """See `pipelines.tasks.tagging.bio_tags.scores`."""
        return bio_tags.scores(
            [example.tags or [] for example in examples],
            [record["tags"] for record in predictions],
        )

    def counts(self, examples: Sequence[Sentence]) -> Counter[str]:
        """See `Task.counts`: of entities by type, or of tags that spell none."""
        tags = _tag_counts(examples)
        if not bio_tags.mark_entities(tags):
            return tags
        return Counter({tag[2:]: count for tag, count in tags.items() if tag.startswith("B-")})

    def sample(self, example: Sentence, prediction: Record) -> Sample:
        """See `Task.sample`: the entities, or the words with tags that spell none."""
        words, true, found = example.tokens, example.tags or [], prediction["tags"]
        if bio_tags.mark_entities((*true, *found)) or {*true, *found} <= {bio_tags.OUTSIDE}:
            spans = bio_tags.entities(true)
            named = [f"{label} {' '.join(words[first:end])}" for label, first, end in spans]
            told = [f"{e['label']} {e['text']} ({e['score']:.1%})" for e in prediction["entities"]]
            right, said = (", ".join(side) or "(no entity)" for side in (named, told))
        else:
            pairs = (zip(words, tags, strict=True) for tags in (true, found))
            right, said = (" ".join(f"{word}/{tag}" for word, tag in side) for side in pairs)
        return Sample({"words": " ".join(words)}, right, said, right=true == found)


TASK: Task = Tagging()


def _in_bio(source: str, sentences: list[Sentence]) -> list[Sentence]:
    """Sentences with their tags in BIO; says how many had to be written anew."""
    tags = set(chain.from_iterable(sentence.tags or () for sentence in sentences))
    if not bio_tags.mark_entities(tags):
        say(f"{source}: no tag begins with B- or I-, so each word is scored by itself")
        return sentences
    if wrong := {tag for tag in tags if not bio_tags.is_entity_tag(tag)}:
        place = next(p for p, tag in _tag_places(sentences) if tag in wrong)
        raise BadInputError(
            f"{place} has a tag that is neither O nor begins with B-, I-, E- or S- as others do:"
            f" {_some(sorted(wrong))}; correct them"
        )
    written = [
        replace(sentence, tags=bio_tags.to_bio(sentence.tags or ())) for sentence in sentences
    ]
    changed = [
        place
        for (place, old), (_, new) in zip(_tag_places(sentences), _tag_places(written), strict=True)
        if old != new
    ]
    if changed:
        say(f"tags rewritten as BIO: {len(changed):,}, the first in {changed[0]}")
    return written


def _tag_places(sentences: Sequence[Sentence]) -> Iterator[tuple[str, str]]:
    for sentence in sentences:
        for number, tag in enumerate(sentence.tags or ()):
            yield sentence.place(number), tag


def _tag_counts(examples: Sequence[Sentence]) -> Counter[str]:
    return Counter(chain.from_iterable(example.tags or () for example in examples))


def _some(names: list[str]) -> str:
    return ", ".join([*names[:_SHOWN], "…"] if len(names) > _SHOWN else names)


def _class_numbers(examples: Sequence[Sentence], classes: Sequence[str]) -> np.ndarray:
    """int32 [W]: the class of every word; 0 where sentences have no tags."""
    number = {name: index for index, name in enumerate(classes)}
    if all(example.tags is None for example in examples):
        return np.zeros(sum(len(example.tokens) for example in examples), np.int32)
    found = [number.get(tag, -1) for example in examples for tag in example.tags or ()]
    if -1 in found:
        place, tag = next(item for item in _tag_places(examples) if item[1] not in number)
        raise BadInputError(
            f"{place} has the tag {tag!r}, which the model does not know; it knows"
            f" {_some(list(classes))}"
        )
    return np.array(found, np.int32)


def _encode_words(words: Sequence[str], tokenizer: Tokenizer, room: int) -> list[list[int]]:
    # A corpus repeats its words; each is encoded once.
    different = list(dict.fromkeys(words))
    encoded = tokenizer.encode(different)
    known = {
        word: ids[:room] or [tokenizer.unk_id] for word, ids in zip(different, encoded, strict=True)
    }
    return [known[word] for word in words]


def _stretches(
    offsets: np.ndarray, bounds: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts sentences into what single rows tag.

    Args:
        offsets: int [W + 1]: where words begin, in tokens.
        bounds: int [N + 1]: where sentences begin, in words.
        room: Tokens of a row.

    Returns:
        int64 [R] each: sentence, first word, one past the last word.
    """
    rows = []
    for number, (begin, end) in enumerate(pairwise(bounds)):
        most = room if offsets[end] - offsets[begin] <= room else room // 2
        while begin < end:
            fitting = int(np.searchsorted(offsets, offsets[begin] + most, side="right")) - 1
            stop = min(max(fitting, begin + 1), end)
            rows.append((number, begin, stop))
            begin = stop
    return tuple(np.array(rows, np.int64).reshape(-1, 3).T)  # type: ignore[return-value]


def _documents(examples: Sequence[Sentence], bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] each: first word of a sentence's document, and one past its last."""
    number = np.array([example.document for example in examples])
    begins = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    document = np.searchsorted(begins, np.arange(len(number)), side="right") - 1
    ends = np.append(begins[1:], len(number))
    return bounds[begins[document]], bounds[ends[document]]


def _with_context(
    offsets: np.ndarray,
    begin: np.ndarray,
    end: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    room: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Widens stretches of words to what fits into a row, to both sides alike where there is enough.

    Args:
        offsets: int [W + 1]: where words begin, in tokens.
        begin: int [R]: first word of each stretch.
        end: int [R]: one past its last.
        low: int [R]: first word that may be its context.
        high: int [R]: one past the last.
        room: Tokens of a row.
    """
    free = room - (offsets[end] - offsets[begin])
    before, after = offsets[begin] - offsets[low], offsets[high] - offsets[end]
    left = np.maximum(free // 2, free - after)
    right = np.maximum(free - free // 2, free - before)
    first = np.searchsorted(offsets, offsets[begin] - left, side="left")
    last = np.searchsorted(offsets, offsets[end] + right, side="right") - 1
    return np.maximum(first, low), np.minimum(last, high)


def _positions(start: np.ndarray, stop: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Which token stands where.

    Returns:
        int64 [R, T], the number of a token (any, where there is none), and bool [R, T], whether
        there is one; the first place and the one after the last are left for [CLS] and [SEP].
    """
    longest = int((stop - start).max(initial=0)) + _SPECIALS
    width = row_length(longest, length)
    place = np.arange(width) - 1
    used = (place >= 0) & (place < (stop - start)[:, None])
    return np.where(used, start[:, None] + place, 0), used


def _framed(values: np.ndarray, used: np.ndarray, tokenizer: Tokenizer | None) -> np.ndarray:
    """Puts [CLS] and [SEP], or ones, around what is used of each row; int32 [R, T]."""
    values = values.astype(np.int32)
    values[:, 0] = tokenizer.cls_id if tokenizer else 1
    values[np.arange(len(values)), used.sum(axis=1) + 1] = tokenizer.sep_id if tokenizer else 1
    return values


def _record(example: Sentence, tags: list[str], score: np.ndarray, entities: bool) -> Record:
    spans: Iterable[bio_tags.Span] = bio_tags.entities(tags) if entities else ()
    found = []
    for label, first, end in spans:
        start, stop = example.starts[first], example.starts[end - 1] + len(example.tokens[end - 1])
        found.append(
            {
                "text": example.text[start:stop],
                "label": label,
                "start": start,
                "end": stop,
                "score": float(score[first:end].mean()),
            }
        )
    tags = bio_tags.to_bio(tags) if entities else tags
    return {"id": example.id, "tokens": example.tokens, "tags": tags, "entities": found}
