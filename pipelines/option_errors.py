"""Rewrite the errors of jsonargparse: one line with the option, the valid values and the remedy."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# Keys whose value is a list of sections.
LISTS = {
    "phases": "[{length: 128, steps: 1000, batch_size: 256}]",
    "data.stores": "[{path: wiki, fraction: 0.7}, {path: books, fraction: 0.3}]",
}
_FORMS = {
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "PositiveInt": "a whole number of at least 1",
    "str": "text",
}
_KEY = re.compile(r'Parser key "([^"]+)":')
_EXPECTED = re.compile(r"Expected a <class '(\w+)'>")
_VALUE = re.compile(
    r"(?:Got value|Given value|invalid literal for int\(\) with base 10): (.*)", re.S
)
_SHOWN = 80  # characters of a value
_PARTS = 3  # keys of a section


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return the end of an error message that suggests the candidate most like `word`, if any."""
    if word.endswith((".yaml", ".yml")):
        return f"; did you mean '--config {word}'?"
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def explained(text: str, parser: argparse.ArgumentParser, *, in_file: bool = False) -> str:
    """Rewrite an error of jsonargparse.

    Args:
        text: The message.
        parser: Its parser.
        in_file: The value comes from a file, so that names are keys, not options.
    """
    keys = _KEY.findall(text)
    if not keys:
        return text
    key = keys[0]
    action = next((action for action in parser._actions if action.dest == key), None)
    option = next(iter(action.option_strings), key.upper()) if action else f"--{key}"
    name = option.removeprefix("--") if in_file else option
    if key in LISTS:
        inner = f"; {problem}" if (problem := _problem_of_entry(text, keys)) else ""
        return f"{name} must be a list such as {LISTS[key]}{inner}"
    parts = [x for x in parser._option_string_actions if x.startswith(f"--{key}.")]
    if parts := [part for part in parts if not part.endswith(".help")]:
        examples = ", ".join(part.removeprefix("--" if in_file else "") for part in parts[:_PARTS])
        return f"{name} is a section; give a value to one of its keys, such as {examples}"
    hint = getattr(action, "_typehint", None)
    value = _value(text)
    line = f"{name} must be {valid_values(hint)}"
    if value is None:
        return line
    return f"{line}, not {value!r}{_suggestion(value, hint, parser)}"


def valid_values(hint: Any) -> str:
    """Describe the values of a type: "one of nsp, sop, mlm"."""
    if choices := list(_choices(hint)):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if get_origin(hint) in (Union, UnionType):
        parts = [valid_values(part) for part in get_args(hint) if part is not NoneType]
        return " or ".join(parts)
    if get_origin(hint) is tuple:
        return "a list such as '[a, b]'"
    name = getattr(hint, "__name__", str(hint))
    return _FORMS.get(name, name)


def _choices(hint: Any) -> Iterator[str]:
    """Yield the values of a Literal, or of an optional one."""
    if get_origin(hint) is Literal:
        yield from map(str, get_args(hint))
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _choices(part)


def _suggestion(value: str, hint: Any, parser: argparse.ArgumentParser) -> str:
    """Suggest the choice most like `value`, or another option that has it as a choice."""
    for action in parser._actions:
        if action.option_strings and value in _choices(getattr(action, "_typehint", None)):
            return f"; did you mean '{action.option_strings[0]} {value}'?"
    return nearest(value, _choices(hint))


def _value(text: str) -> str | None:
    """Return the rejected value as the message quotes it."""
    match = _VALUE.search(text)
    if match is None:
        return None
    value = " ".join(match[1].split()).removeprefix("'").removesuffix("'")
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"


def _problem_of_entry(text: str, keys: list[str]) -> str:
    """Describe what is wrong inside a list of sections; empty = it is no list of sections."""
    if unknown := re.search(r"Option '(\S+)' is not accepted", text):
        return f"{unknown[1]!r} is not a key"
    expected = _EXPECTED.search(text)
    if len(keys) < 2 or expected is None:
        return ""
    value = _value(text)
    return f"{keys[-1]} must be {_FORMS.get(expected[1], expected[1])}, not {value!r}"
