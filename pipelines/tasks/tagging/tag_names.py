"""Names of tags that a data set stores as numbers, such as ``ner_tags`` of Hugging Face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.tasks.tables.class_names import read_names
from pipelines.tasks.tagging.sentence import Sentence


def are_numbers(tags: set[str]) -> bool:
    """Return whether all tags are numbers."""
    return bool(tags) and all(tag.isascii() and tag.isdigit() for tag in tags)


def named(sentences: Sequence[Sentence], source: str, file: str, field: str) -> list[Sentence]:
    """Return sentences whose tags are names, not numbers.

    Args:
        sentences: With tags; those that are names stay.
        source: Their file or data set.
        file: The names; see `read_names`.
        field: Field of the tags.

    Raises:
        BadInputError: A number has no name.
    """
    names = read_names(file, field)
    by_number = {str(number): name for number, name in enumerate(names)}
    result, count = [], 0
    for sentence in sentences:
        tags = []
        for token, tag in enumerate(sentence.tags or ()):
            if are_numbers({tag}) and tag not in by_number:
                raise BadInputError(
                    f"{sentence.location(token)} has the tag {tag}, but {file} has {len(names)}"
                    f" names, of 0 to {len(names) - 1}; choose the file of this data set"
                )
            count += tag in by_number
            tags.append(by_number.get(tag, tag))
        result.append(replace(sentence, tags=tags))
    if count:
        say(f"{source}: {count:,} tags are numbers; {file} has their names")
    return result
