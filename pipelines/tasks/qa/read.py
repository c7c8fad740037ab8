"""Reader of questions in the format of SQuAD 1.1 and 2.0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.data_sets import TFDS, read_split
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.json_files import read_json


@dataclass(frozen=True)
class Question:
    """A question about a context.

    Attributes:
        id: Unique.
        question: Its text.
        context: The text that may contain an answer.
        answers: All right answers; empty if it is impossible or not labeled.
        span: First and one-past-last character of the answer to learn; None if there is none.
        impossible: The context has no answer, and the network learns this.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    impossible: bool = False


class Entry(NamedTuple):
    """One element of ``qas``, with its location for messages."""

    location: str
    context: str
    qa: Mapping[str, Any]


def read(source: str, labeled: bool) -> list[Question]:
    """Read the questions of a SQuAD file or of a TensorFlow data set in its format.

    An answer that is not at ``answer_start`` is searched in the context. If the context does not
    contain it, the question counts for scores, but not for training. Messages have both counts.

    Args:
        source: A JSON file, or ``tfds:NAME[/CONFIG]:SPLIT``.
        labeled: Read answers.

    Raises:
        BadInputError: It cannot be read, lacks a key, has no questions or has an id twice.
    """
    if source.startswith(TFDS):
        entries, with_null = list(_unique(_of_data_set(source))), False
    else:
        data = read_json(Path(source))
        entries, with_null = list(entries_of(data, source)), has_null(data)
    if not entries:
        raise BadInputError(f"{source} has no questions; check that it is a SQuAD file")
    problems: dict[str, list[str]] = {"moved": [], "lost": []}
    questions = [_question(entry, labeled, with_null, problems) for entry in entries]
    if moved := problems["moved"]:
        say(
            f"{source}: {len(moved):,} answers are not at their answer_start; the nearest match is"
            f" used (first: {moved[0]!r})"
        )
    if lost := problems["lost"]:
        say(
            f"{source}: {len(lost):,} questions have an answer that is not in the context; they are"
            f" not used for training (first: {lost[0]!r})"
        )
    return questions


def entries_of(data: Mapping[str, Any], source: str) -> Iterator[Entry]:
    """Yield the questions of an object in the format of SQuAD.

    Args:
        data: Object with the key ``data``.
        source: Its name, for messages.

    Raises:
        BadInputError: A key is missing or has a wrong type, or an id occurs twice.
    """
    return _unique(_of_object(data, source))


def has_null(data: Mapping[str, Any]) -> bool:
    """Return whether questions may have no answer (version 2.0)."""
    if str(data.get("version", "")).removeprefix("v").startswith("2"):
        return True
    return any("is_impossible" in entry.qa for entry in entries_of(data, "the gold file"))


def answer_texts(entry: Entry, with_null: bool) -> tuple[str, ...]:
    """Return all right answers.

    Raises:
        BadInputError: They are missing, or there is none although `with_null` is False.
    """
    answers = _get(entry.qa, "answers", list, entry.location)
    texts = tuple(
        _text(answer, "text", f"{entry.location}.answers[{n}]") for n, answer in enumerate(answers)
    )
    if not (texts or with_null or entry.qa.get("is_impossible")):
        raise BadInputError(
            f"{entry.location} has no answers; add one, or set is_impossible to true (SQuAD 2.0)"
        )
    return texts


def _question(
    entry: Entry, labeled: bool, with_null: bool, problems: dict[str, list[str]]
) -> Question:
    name, text = entry.qa["id"], _text(entry.qa, "question", entry.location)
    if not labeled:
        return Question(name, text, entry.context)
    texts = answer_texts(entry, with_null)
    impossible = bool(entry.qa.get("is_impossible", not texts))
    span = None
    if not impossible:
        starts = [
            _get(answer, "answer_start", int, f"{entry.location}.answers[{n}]")
            for n, answer in enumerate(entry.qa["answers"])
        ]
        spans = (_located(entry.context, *pair) for pair in zip(texts, starts, strict=True))
        span = next(filter(None, spans), None)
        if span is None:
            problems["lost"].append(name)
        elif span[0] - starts[0] != _margin(texts[0]):
            problems["moved"].append(name)
    return Question(name, text, entry.context, texts, span, impossible)


def _located(context: str, answer: str, start: int) -> tuple[int, int] | None:
    """Return the span of an answer, without surrounding white space: the one nearest to `start`."""
    text = answer.strip()
    expected = start + _margin(answer)
    if not text:
        return None
    if expected >= 0 and context.startswith(text, expected):
        return expected, expected + len(text)
    starts = [match.start() for match in re.finditer(re.escape(text), context)]
    if not starts:
        return None
    nearest = min(starts, key=lambda position: abs(position - expected))
    return nearest, nearest + len(text)


def _margin(text: str) -> int:
    return len(text) - len(text.lstrip())


def _of_object(data: Mapping[str, Any], source: str) -> Iterator[Entry]:
    for i, article in enumerate(_get(data, "data", list, source)):
        article_path = f"{source}: data[{i}]"
        for j, paragraph in enumerate(_get(article, "paragraphs", list, article_path)):
            path = f"{article_path}.paragraphs[{j}]"
            context = _text(paragraph, "context", path)
            for k, qa in enumerate(_get(paragraph, "qas", list, path)):
                yield Entry(f"{path}.qas[{k}]", context, qa)


def _unique(entries: Iterable[Entry]) -> Iterator[Entry]:
    locations: dict[str, str] = {}
    for entry in entries:
        name = _text(entry.qa, "id", entry.location)
        first = locations.setdefault(name, entry.location)
        if first is not entry.location:
            raise BadInputError(
                f"{entry.location} has the same id {name!r} as {first}; make ids unique"
            )
        yield entry


def _of_data_set(source: str) -> Iterator[Entry]:
    """Yield the entries of ``tfds:NAME[/CONFIG]:SPLIT``, whose answers are an object of lists."""
    for number, example in enumerate(read_split(source).rows):
        location = f"{source}: example {number}"
        answers = _get(example, "answers", dict, location)
        texts = _get(answers, "text", list, f"{location}.answers")
        starts = _get(answers, "answer_start", list, f"{location}.answers")
        listed = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
        yield Entry(location, _text(example, "context", location), {**example, "answers": listed})


def _get(record: Any, key: str, kind: type, location: str) -> Any:
    if not isinstance(record, Mapping):
        raise BadInputError(
            f"{location} must be an object with keys, not {record!r:.40}; correct it"
        )
    if key not in record:
        keys = ", ".join(map(repr, record)) or "no keys"
        raise BadInputError(f"{location} has no {key!r}; add it (it has {keys})")
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadInputError(
            f"{location}: {key!r} must be a {kind.__name__}, not {value!r:.40}; correct it"
        )
    return value


def _text(record: Any, key: str, location: str) -> str:
    text = _get(record, key, str, location)
    if broken := HALF_CHARACTER.search(text):
        raise BadInputError(
            f"{location}: {key!r} contains an unpaired surrogate at {broken.start()}; remove it"
        )
    return text
