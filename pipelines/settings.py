"""Command lines and config files: typed, and with errors that name the nearest right key."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import PositiveInt as Count  # noqa: F401

from bert_jax.config.renamed import OPTIONS, old_keys, renamed_keys, renamed_model_keys
from bert_jax.config.run import ModelConfig, Phase, RunConfig, as_dict
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.help import essentials, example

C = TypeVar("C")

# A config file has some hundred values in some kilobytes. Aliases of aliases can make as many of
# them as there are atoms, and PyYAML is slow.
_LARGEST = 1 << 18
_MOST_VALUES = 10_000


def nearest(word: str, known: Iterable[str]) -> str:
    """An ending for an error message that names the known word most like `word`, if any is."""
    if word.endswith((".yaml", ".yml")):
        return f"; did you mean '--config {word}'?"
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class _Help(DefaultHelpFormatter):
    """Wraps paragraphs but not indented lines, such as examples; says nothing of empty defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(x if x.startswith(" ") else textwrap.fill(x, width) for x in lines)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action)
        if action.default not in (None, ""):
            return text
        return re.sub(
            r", default: %\(default\)s| \((type: str, )?default: %\(default\)s\)", "", text
        )


class _Asked(Exception):  # noqa: N818
    """Takes a parser to whoever wants to know the options of a command."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser


_ASK = "--the-parser-itself"


def parser_of(main: Callable[[Sequence[str]], None], *words: str) -> ArgumentParser:
    """The parser of a command, which is called with `words` and ends when it would read options."""
    try:
        main([*words, _ASK])
    except _Asked as found:
        return found.parser
    raise AssertionError("the command has read no options with `parse`")


def command_parser(command: str, description: str) -> ArgumentParser:
    """Parser of ``bert-jax command``; `parse` reads with it."""
    return ArgumentParser(
        prog=f"bert-jax {command}",
        description=f"{description}\n\n{essentials(command)}".strip(),
        epilog=example(command),
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,
    )


def parse(parser: ArgumentParser, argv: Sequence[str], base: Namespace | None = None) -> Namespace:
    """Reads the options `argv` over `base`; "_" and "-" in their names mean the same.

    Raises:
        BadArgumentsError: An option is unknown, missing or of the wrong type.
    """
    if _ASK in argv:
        raise _Asked(parser)
    known = list(parser._option_string_actions)  # argparse has no public list of them
    spelled = {name.replace("_", "-"): name for name in known}
    try:
        words = [_respelled(word, spelled) for word in map(_renamed, argv)]
        return parser.parse_args(words, namespace=base)
    except argparse.ArgumentError as error:
        text = str(error)
    if unknown := re.match(r"unrecognized arguments: (\S+)", text):
        option = unknown[1].partition("=")[0]
        text = f"unknown option {option!r}{nearest(option, known)}"
    elif missing := re.search(r"arguments are required: (.+)|Key .(\w+). is required", text):
        names = (missing[1] or missing[2]).split(", ")
        options = [spelled.get(f"--{name.replace('_', '-')}", name.upper()) for name in names]
        text = f"give {', '.join(options)}"
    raise BadArgumentsError(f"{_plain(text)}  ({parser.prog} --help lists the options)")


def _respelled(word: str, spelled: Mapping[str, str]) -> str:
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        return word
    return spelled.get(name.replace("_", "-"), name) + equals + value


def _renamed(word: str) -> str:
    name, equals, value = word.partition("=")
    new = OPTIONS.get(name.removeprefix("--").replace("-", "_")) if name[:2] == "--" else None
    if new is None:
        return word
    _note_renamed(name, f"--{new}")
    return f"--{new}{equals}{value}"


def _note_renamed(old: str, new: str) -> None:
    say(f"{old} is now called {new}; the old name is read until version 1.0")


def _plain(text: str) -> str:
    """jsonargparse's complaint with option and type names as a user writes them."""
    if "phases" in text and ("class_path" in text or "class path" in text or "tuple" in text):
        return "phases must be a list such as [{length: 128, steps: 1000, batch_size: 256}]"
    text = re.sub(r'Parser key "([^"]+)":\s*', r"--\1: ", text)
    text = re.sub(r"Expected a <class '(\w+)'>", r"expected \1", text)
    text = text.replace("expected tuple", "expected a list such as '[a, b]'")
    text = re.sub(r"Expected a typing\.Literal\[(.+?)\]", r"expected one of \1", text)
    return text.replace("Got value:", "got")


def run_config(argv: Sequence[str]) -> RunConfig:
    """The config of a pre-training run; see `read_config`."""
    parser = command_parser(
        "pretrain", "Trains BERT on a token store; the same command again resumes."
    )
    return read_config(parser, argv, RunConfig, passed_over=("tpu",))[0]


def read_config(
    parser: ArgumentParser, argv: Sequence[str], kind: type[C], passed_over: tuple[str, ...] = ()
) -> tuple[C, dict[str, Any]]:
    """A config: the file after ``--config``, then the options ``--a.b VALUE``.

    Args:
        parser: Of the command, with its other options; gets those of the config.
        argv: Of the command.
        kind: A frozen dataclass.
        passed_over: Sections of the file that are for another command.

    Returns:
        The config, and the values of the other options.

    Raises:
        BadArgumentsError: A wrong option.
        BadInputError: A wrong file, key or value.
    """
    parser.add_argument("--config", metavar="FILE", help="a YAML file such as those of configs/")
    parser.add_class_arguments(kind)
    parser.usage = f"{parser.prog} [--config FILE] [--KEY VALUE …]"
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    try:
        file = first.parse_known_args(argv)[0].config
    except argparse.ArgumentError as error:
        raise BadArgumentsError(str(error)) from None
    base = None
    if file is not None:
        try:
            base = parser.parse_object(read_yaml(Path(file), kind, passed_over))
        except argparse.ArgumentError as error:
            raise BadInputError(f"{file}: {_plain(str(error)).replace('--', '', 1)}") from None
        except OverflowError as error:  # a number of hundreds of digits
            raise BadInputError(f"{file} holds a number that is too large: {error}") from None
    given = parser.instantiate(parse(parser, argv, base))
    values = vars(given)
    keys = {field.name for field in fields(cast(Any, kind))}
    others = {name: values.pop(name) for name in values.keys() - keys}
    return kind(**values), others


def read_yaml(
    path: Path, kind: type, passed_over: tuple[str, ...] = (), above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """A config file as a dict; ``base: other.yaml`` in it names a file that it overrides.

    Args:
        path: Of the file.
        kind: The dataclass whose keys it may have.
        passed_over: Keys that it may have beside them, and that are left out.
        above: Files that it is a base of.

    Raises:
        BadInputError: The file is absent, is not YAML, or has an unknown key.
    """
    given = _yaml(path)
    if path.resolve() in above:
        raise BadInputError(f"{path}: base leads back to the file itself")
    if not isinstance(given, dict):
        found = "nothing" if given is None else f"a {type(given).__name__}"
        raise BadInputError(f"{path}: expected keys and values, found {found}")
    base = given.pop("base", None)
    given = {key: value for key, value in given.items() if key not in passed_over}
    for old, new in old_keys(given).items():
        _note_renamed(f"{path}: {old}", new)
    given = renamed_keys(given)
    check_keys(given, kind, str(path))
    if base is None:
        return given
    if not isinstance(base, str):
        raise BadInputError(f"{path}: base must be the name of a file, not {base!r}")
    return _merged(
        read_yaml(path.parent / base, kind, passed_over, (*above, path.resolve())), given
    )


def _yaml(path: Path) -> Any:
    """The plain values that a YAML file holds."""
    check_kind(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    return yaml_values(content, path)


def yaml_values(content: bytes, path: Path) -> Any:
    """The plain values that `content`, read from `path`, holds.

    Raises:
        BadInputError: It is no YAML, or no config by its size.
    """
    if len(content) > _LARGEST:
        raise BadInputError(f"{path} is no config: it has more than {_LARGEST:,} bytes")
    try:
        loader = yaml.SafeLoader(content.decode("utf-8"))
        node = loader.get_single_node()
        if _values(node, {}) > _MOST_VALUES:
            raise BadInputError(
                f"{path} stands for more than {_MOST_VALUES:,} values; write less, without aliases"
            )
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not a YAML file: {error}") from None
    # What PyYAML's parts happen to raise on a value that is not of its tag, such as !!int "".
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{path} is not a YAML file that can be read: {error}") from None


def _values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for, with every alias written out."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # of a node within itself
        pairs = isinstance(node, yaml.MappingNode)
        parts = chain.from_iterable(node.value) if pairs else node.value
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def config_from_dict(values: Mapping[str, Any], source: str, kind: type[C]) -> C:
    """The config that ``as_dict`` of a `kind` gave.

    Raises:
        BadInputError: It was written by another version and does not fit any more.
    """
    values = renamed_model_keys(values) if kind is ModelConfig else renamed_keys(values)
    check_keys(values, kind, source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        return kind(**vars(parser.instantiate(parser.parse_object(values))))
    except argparse.ArgumentError as error:
        raise BadInputError(f"{source}: {_plain(str(error)).replace('--', '', 1)}") from None


def to_yaml(config: Any) -> str:
    """The resolved config as a YAML file that ``--config`` takes."""
    return yaml.safe_dump(as_dict(config), sort_keys=False)


def check_keys(given: Mapping[str, Any], kind: type, source: str, prefix: str = "") -> None:
    """Refuses a key that dataclass `kind` does not have, naming the nearest that it has.

    Raises:
        BadInputError: There is one, or a section is not a section.
    """
    hints = get_type_hints(kind)
    for key, value in given.items():
        name = f"{prefix}{key}"
        if "." in str(key) and key in _keys(kind):
            nested = ": {".join(str(key).split(".")) + ": …" + "}" * str(key).count(".")
            raise BadInputError(f"{source}: write {key!r} as {nested}")
        if value is None:
            raise BadInputError(f"{source}: {name} has no value")
        if key not in hints:
            known = [f"{prefix}{key}" for key in hints] if prefix else _keys(kind)
            raise BadInputError(f"{source}: unknown key {name!r}{nearest(name, known)}")
        if is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise BadInputError(f"{source}: {name} must hold keys and values, not {value!r}")
            check_keys(value, cast(type, hints[key]), source, f"{name}.")
        elif name == "phases" and isinstance(value, list):
            for phase in filter(lambda phase: isinstance(phase, Mapping), value):
                check_keys(phase, Phase, source, "phases.")


def _keys(kind: type, prefix: str = "") -> list[str]:
    keys = []
    for name, hint in get_type_hints(kind).items():
        keys.append(prefix + name)
        if is_dataclass(hint):
            keys += _keys(cast(type, hint), f"{prefix}{name}.")
    return keys


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
