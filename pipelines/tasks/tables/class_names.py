"""Names of classes that a data set stores as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.numbered_lines import lines


def read_names(file: str, field: str = "") -> list[str]:
    """Return the names in a file, the name of 0 first.

    Args:
        file: Text with a name per line, or JSON: a list of names, ``id2label`` or ``label2id`` as
            in config.json of a model, or dataset_info.json of a data set.
        field: Feature of the data set; not needed if only one has classes.

    Raises:
        BadInputError: It cannot be read, contains no names, or has one twice.
    """
    path = Path(file)
    text = "\n".join(line.strip() for _, line in lines(path)).strip("\n")
    names: Any = text.split("\n")
    if text.startswith(("[", "{")):
        try:
            names = _names(json.loads(text), field)
        except ValueError as error:
            raise BadInputError(f"{path}: not JSON ({error}); write a name per line") from None
    elif text and "" in names:
        raise BadInputError(f"{path}, line {names.index('') + 1} is empty; write a name per line")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise BadInputError(
            f"{path} does not contain names of classes; write a name per line, the name of 0 first"
        )
    if again := next((n for n, name in enumerate(names) if name in names[:n]), None):
        raise BadInputError(
            f"{path}: name {again + 1} repeats {names[again]!r}; each number needs its own name"
        )
    return [*names]


def plain(name: str) -> str:
    """Return a name without case, spaces and a decimal point of 0."""
    return "".join(name.casefold().split()).removesuffix(".0")


def remedy_of_unknown(label: str, classes: Sequence[str], noun: str = "class") -> str:
    """Return what to do about a label that is not one of the classes of a model.

    Args:
        label: In the data.
        classes: Of the model.
        noun: What a class is called.
    """
    if classes[0] == "LABEL_0":  # Hugging Face's name of a class without one
        return "give the classes their names in id2label of the model's config.json"
    if alike := [name for name in classes if plain(name) == plain(label)]:
        return f"write it as the model does: {alike[0]}"
    numbers = [plain(name).isdecimal() for name in classes]
    if plain(label).isdecimal() and not any(numbers):
        return "labels are numbers here, but names in the model; write the names"
    if not plain(label).isdecimal() and all(numbers):
        return "labels are names here, but numbers in the model; write the numbers"
    return f"remove the row, or train on rows of that {noun}"


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
