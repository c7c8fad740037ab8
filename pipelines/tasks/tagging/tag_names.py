"""Names of tags that a data set stores as numbers, such as ``ner_tags`` of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.numbered_lines import lines
from pipelines.tasks.tagging.sentence import Sentence


def are_numbers(tags: set[str]) -> bool:
    """Return whether all tags are numbers."""
    return bool(tags) and all(tag.isascii() and tag.isdigit() for tag in tags)


def read_names(file: str, field: str = "") -> list[str]:
    """Return the names in a file, the name of 0 first.

    Args:
        file: Text with a name per line, or JSON: a list of names, ``id2label`` or ``label2id`` as
            in config.json of a model, or dataset_info.json of a data set.
        field: Feature of the data set; not needed if only one has classes.

    Raises:
        BadInputError: It cannot be read, or contains no names.
    """
    path = Path(file)
    content = [line.strip() for _, line in lines(path)]
    names: Any = [line for line in content if line]
    if names and names[0][0] in "[{":
        try:
            names = _names(json.loads("\n".join(content)), field)
        except ValueError as error:
            raise BadInputError(f"{path}: not JSON ({error}); write a name per line") from None
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BadInputError(
            f"{path} does not contain the names of the tags; write a name per line, the name of 0"
            " first"
        )
    return [*names]


def _names(content: Any, field: str) -> Any:
    """Return the list of names in JSON; None if there is none, or more than one."""
    if not isinstance(content, dict):
        return content
    if isinstance(number_of := content.get("label2id"), dict):
        content = {"id2label": {number: name for name, number in number_of.items()}} | content
    by_number = content.get("id2label", content)
    if by_number and all(str(key).isdigit() for key in by_number):
        named = {int(key): name for key, name in by_number.items()}
        return [named.get(number) for number in range(len(named))]
    features = content.get("features")
    whole = not isinstance(features, dict) or field not in features
    found = _class_labels(content if whole else features[field])
    return found[0] if len(found) == 1 else None


def _class_labels(feature: Any) -> list[Any]:
    """Return the lists of names in the features of dataset_info.json."""
    if not isinstance(feature, dict):
        return []
    own = [feature["names"]] if isinstance(feature.get("names"), list) else []
    return own + [names for part in feature.values() for names in _class_labels(part)]


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
