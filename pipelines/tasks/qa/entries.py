"""The questions in the forms in which they are distributed.

    {"data": [ARTICLE, …]}       SQuAD; an article has paragraphs, a paragraph a context and qas
    [ARTICLE or PARAGRAPH, …]    parts of such a file
    {"id", "context", "question", "answers": {"text": […], "answer_start": […]}}
                                 a row of the hub of Hugging Face or of tensorflow_datasets, in a
                                 table, in an array or under the key data

Ids may be texts or whole numbers, and rows without the key get the number of the row. Answers are
objects of two lists, as above, or lists of ``{"text", "answer_start"}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.tasks.tables.table import Table, check_ids

ROW = (
    '{"id": "1", "context": "…", "question": "…", "answers": {"text": ["…"], "answer_start": [0]}}'
)


class Entry(NamedTuple):
    """A question with its location for messages.

    Attributes:
        location: File and position.
        id: Unique.
        context: The text that may contain an answer.
        qa: The element of ``qas``, or the row.
        is_row: It is a row, which has no version; no answers mean that there is none.
    """

    location: str
    id: str
    context: str
    qa: Mapping[str, Any]
    is_row: bool


def entries_of(data: Any, source: str) -> list[Entry]:
    """Return the questions of an object of JSON.

    Args:
        data: See above.
        source: Its name, for messages.

    Raises:
        BadInputError: A key is missing or has a wrong type, or an id occurs twice.
    """
    if isinstance(data, list):
        elements, name = data, f"{source}: "
    elif isinstance(data, Mapping) and ("paragraphs" in data or "qas" in data):
        elements, name = [data], f"{source}: "
    else:
        elements, name = get(data, "data", list, source), f"{source}: data"
    return _unique(
        entry
        for number, element in enumerate(elements)
        for entry in _of_element(element, f"{name}[{number}]", number)
    )


def entries_of_table(table: Table) -> list[Entry]:
    """Return the questions of a table; see `entries_of`."""
    numbered = zip(table.locations, table.rows, strict=True)
    return _unique(
        entry
        for number, (location, row) in enumerate(numbered)
        for entry in _of_element(row, location, number)
    )


def has_null(entries: Iterable[Entry], version: Any = "") -> bool:
    """Return whether questions may have no answer (version 2.0)."""
    if str(version).removeprefix("v").startswith("2"):
        return True
    return any(
        "is_impossible" in entry.qa or (entry.is_row and not answers_of(entry)) for entry in entries
    )


def answers_of(entry: Entry) -> list[Any]:
    """Return the answers as a list of ``{"text", "answer_start"}``.

    Raises:
        BadInputError: They are missing or have another form.
    """
    answers = entry.qa.get("answers")
    if isinstance(answers, Mapping):
        texts, starts = answers.get("text"), answers.get("answer_start")
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            pairs = zip(texts, starts, strict=True)
            return [{"text": text, "answer_start": start} for text, start in pairs]
    elif not isinstance(answers, str):
        return list(get(entry.qa, "answers", list, entry.location))
    raise BadInputError(
        f"{entry.location}: 'answers' must have the lists 'text' and 'answer_start', not"
        f" {answers!r:.40}; write {ROW}"
    )


def answer_texts(entry: Entry, with_null: bool) -> tuple[str, ...]:
    """Return all right answers.

    Raises:
        BadInputError: They are missing, or there is none although `with_null` is False.
    """
    texts = tuple(
        text(answer, "text", f"{entry.location}.answers[{number}]")
        for number, answer in enumerate(answers_of(entry))
    )
    if not (texts or with_null or entry.qa.get("is_impossible")):
        raise BadInputError(
            f"{entry.location} has no answers; add one, or set is_impossible to true (SQuAD 2.0)"
        )
    return texts


def _of_element(element: Any, location: str, number: int) -> Iterator[Entry]:
    """Yield the questions of an article, a paragraph or a row."""
    if not isinstance(element, Mapping):
        raise BadInputError(f"{location} must be an object, not {element!r:.40}; write {ROW}")
    if "paragraphs" in element:
        for i, paragraph in enumerate(get(element, "paragraphs", list, location)):
            yield from _of_paragraph(paragraph, f"{location}.paragraphs[{i}]")
    elif "qas" in element:
        yield from _of_paragraph(element, location)
    elif "question" in element and "context" in element:
        name = _id(element, location) if "id" in element else str(number)
        yield Entry(location, name, text(element, "context", location), element, True)
    else:
        keys = ", ".join(map(repr, element)) or "no keys"
        raise BadInputError(
            f"{location} is neither an article of SQuAD ('paragraphs'), a paragraph ('qas') nor a"
            f" row with 'context' and 'question' (it has {keys:.100}); write {ROW}"
        )


def _of_paragraph(paragraph: Any, location: str) -> Iterator[Entry]:
    context = text(paragraph, "context", location)
    for number, qa in enumerate(get(paragraph, "qas", list, location)):
        position = f"{location}.qas[{number}]"
        yield Entry(position, _id(qa, position), context, qa, False)


def _unique(entries: Iterable[Entry]) -> list[Entry]:
    listed = list(entries)
    check_ids((entry.id, entry.location) for entry in listed)
    return listed


def _id(record: Any, location: str) -> str:
    """Return an id; whole numbers are taken as texts."""
    if isinstance(record, Mapping) and type(record.get("id")) is int:
        return str(record["id"])
    return text(record, "id", location)


def get(record: Any, key: str, kind: type, location: str) -> Any:
    """Return ``record[key]``.

    Raises:
        BadInputError: There is no such key, or its value is not of type `kind`.
    """
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


def text(record: Any, key: str, location: str) -> str:
    """Return the text ``record[key]``; see `get`."""
    value = get(record, key, str, location)
    if broken := HALF_CHARACTER.search(value):
        raise BadInputError(
            f"{location}: {key!r} contains an unpaired surrogate at {broken.start()}; remove it"
        )
    return str(value)
