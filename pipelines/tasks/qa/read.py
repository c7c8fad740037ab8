"""Questions about texts, as SQuAD 1.1 and 2.0 write them down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import open_builder, read_split
from pipelines.data.sources.files import HALF_CHARACTER
from pipelines.models.formats.config_json import read_json

TFDS = "tfds:"


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: Unique.
        question: Its text.
        context: The text that may hold an answer.
        answers: All that count as right; none if it is impossible or not labelled.
        span: First and one-past-last character of the answer to be learned; None if there is none.
        impossible: The context holds no answer, and this is to be learned.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    impossible: bool = False


class Entry(NamedTuple):
    """One element of ``qas``, with where it stands."""

    place: str
    context: str
    qa: Mapping[str, Any]


def read(source: str, labelled: bool) -> list[Question]:
    """The questions of a SQuAD file or of a TensorFlow data set of its shape.

    An answer that is not where ``answer_start`` says is searched in the context; if it is not there
    at all, the question counts for scores, but nothing is learned from it. Both are counted aloud.

    Args:
        source: A JSON file, or ``tfds:NAME[/CONFIG]:SPLIT``.
        labelled: Whether to read answers.

    Raises:
        BadInputError: It cannot be read, lacks a key, has none or an id twice.
    """
    if source.startswith(TFDS):
        entries, with_null = list(_unique(_of_data_set(source))), False
    else:
        given = read_json(Path(source))
        entries, with_null = list(entries_of(given, source)), has_null(given)
    if not entries:
        raise BadInputError(f"{source} holds no questions")
    found: dict[str, list[str]] = {"moved": [], "lost": []}
    questions = [_question(entry, labelled, with_null, found) for entry in entries]
    if moved := found["moved"]:
        say(
            f"{source}: answers that stand elsewhere than answer_start says: {len(moved):,}"
            f" ({moved[0]!r}, …)"
        )
    if lost := found["lost"]:
        say(
            f"{source}: questions without an answer that is in the context, from which nothing is"
            f" learned: {len(lost):,} ({lost[0]!r}, …)"
        )
    return questions


def entries_of(given: Mapping[str, Any], source: str) -> Iterator[Entry]:
    """The questions of an object of SQuAD's shape.

    Args:
        given: With the key ``data``.
        source: For messages.

    Raises:
        BadInputError: A key is missing or of a wrong type, or an id stands there twice.
    """
    return _unique(_of_object(given, source))


def has_null(given: Mapping[str, Any]) -> bool:
    """Whether an object of SQuAD's shape may have questions without an answer (version 2.0)."""
    if str(given.get("version", "")).removeprefix("v").startswith("2"):
        return True
    return any("is_impossible" in entry.qa for entry in entries_of(given, "the gold file"))


def answer_texts(entry: Entry, with_null: bool) -> tuple[str, ...]:
    """All right answers; none if there is none.

    Raises:
        BadInputError: They are missing, or there is none where `with_null` does not allow it.
    """
    answers = _get(entry.qa, "answers", list, entry.place)
    texts = tuple(
        _text(answer, "text", f"{entry.place}.answers[{n}]") for n, answer in enumerate(answers)
    )
    if not (texts or with_null or entry.qa.get("is_impossible")):
        raise BadInputError(
            f"{entry.place} has no answers; give one, or set is_impossible to true (SQuAD 2.0)"
        )
    return texts


def _question(
    entry: Entry, labelled: bool, with_null: bool, found: dict[str, list[str]]
) -> Question:
    name, text = entry.qa["id"], _text(entry.qa, "question", entry.place)
    if not labelled:
        return Question(name, text, entry.context)
    texts = answer_texts(entry, with_null)
    impossible = bool(entry.qa.get("is_impossible", not texts))
    span = None
    if not impossible:
        starts = [
            _get(answer, "answer_start", int, f"{entry.place}.answers[{n}]")
            for n, answer in enumerate(entry.qa["answers"])
        ]
        spans = (_located(entry.context, *pair) for pair in zip(texts, starts, strict=True))
        span = next(filter(None, spans), None)
        if span is None:
            found["lost"].append(name)
        elif span[0] - starts[0] != _margin(texts[0]):
            found["moved"].append(name)
    return Question(name, text, entry.context, texts, span, impossible)


def _located(context: str, answer: str, start: int) -> tuple[int, int] | None:
    """Where an answer is, without white space around it: at `start` or else next to it."""
    text = answer.strip()
    wanted = start + _margin(answer)
    if not text:
        return None
    if wanted >= 0 and context.startswith(text, wanted):
        return wanted, wanted + len(text)
    places = [match.start() for match in re.finditer(re.escape(text), context)]
    if not places:
        return None
    nearest = min(places, key=lambda place: abs(place - wanted))
    return nearest, nearest + len(text)


def _margin(text: str) -> int:
    return len(text) - len(text.lstrip())


def _of_object(given: Mapping[str, Any], source: str) -> Iterator[Entry]:
    for i, article in enumerate(_get(given, "data", list, source)):
        at = f"{source}: data[{i}]"
        for j, paragraph in enumerate(_get(article, "paragraphs", list, at)):
            within = f"{at}.paragraphs[{j}]"
            context = _text(paragraph, "context", within)
            for k, qa in enumerate(_get(paragraph, "qas", list, within)):
                yield Entry(f"{within}.qas[{k}]", context, qa)


def _unique(entries: Iterable[Entry]) -> Iterator[Entry]:
    seen: dict[str, str] = {}
    for entry in entries:
        name = _text(entry.qa, "id", entry.place)
        first = seen.setdefault(name, entry.place)
        if first is not entry.place:
            raise BadInputError(f"{entry.place} has the id {name!r} of {first}; make ids unique")
        yield entry


def _of_data_set(source: str) -> Iterator[Entry]:
    """The entries of ``tfds:NAME[/CONFIG]:SPLIT``, whose answers are lists under one key each."""
    name, _, split = source.removeprefix(TFDS).rpartition(":")
    if not name or not split:
        raise BadInputError(f"{source!r} names no split; write tfds:NAME[/CONFIG]:SPLIT")
    builder = open_builder(name)
    if split not in builder.info.splits:
        raise BadInputError(f"{source}: the splits are {', '.join(builder.info.splits)}")
    for number, example in enumerate(read_split(name, split).rows):
        place = f"{source}: example {number}"
        answers = _get(example, "answers", dict, place)
        texts = _get(answers, "text", list, f"{place}.answers")
        starts = _get(answers, "answer_start", list, f"{place}.answers")
        listed = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        yield Entry(place, _text(example, "context", place), {**example, "answers": listed})


def _get(holder: Any, key: str, kind: type, place: str) -> Any:
    if not isinstance(holder, Mapping):
        raise BadInputError(f"{place} must be an object with keys, not {holder!r:.40}")
    if key not in holder:
        there = ", ".join(map(repr, holder)) or "nothing"
        raise BadInputError(f"{place} has no {key!r} but {there}")
    value = holder[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadInputError(f"{place}: {key!r} must be a {kind.__name__}, not {value!r:.40}")
    return value


def _text(holder: Any, key: str, place: str) -> str:
    text = _get(holder, key, str, place)
    if broken := HALF_CHARACTER.search(text):
        raise BadInputError(
            f"{place}: {key!r} holds half of a character at {broken.start()}; remove it"
        )
    return text
