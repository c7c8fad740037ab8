"""Command lines and config files, typed; errors name the nearest valid key."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import PositiveInt as Count  # noqa: F401

from bert_jax.config.model import ModelConfig
from bert_jax.config.renamed_keys import OPTIONS, old_keys, renamed_keys, renamed_model_keys
from bert_jax.config.run import RunConfig, as_dict
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import check_kind
from pipelines.config_files import find_config, remedy
from pipelines.help import essentials, example
from pipelines.option_errors import LISTS, explained, nearest

C = TypeVar("C")

# Limits of a config file: aliases of aliases can multiply its values, and PyYAML is slow.
_MAX_BYTES = 1 << 18
_MAX_VALUES = 10_000

# Type -> placeholder of an option's value in the help.
_METAVARS = {"int": "N", "PositiveInt": "N", "float": "X"}


class _Help(DefaultHelpFormatter):
    """Wraps paragraphs but not indented lines, such as examples; shows defaults but no types."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(x if x.startswith(" ") else textwrap.fill(x, width) for x in lines)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and heading.replace("``", ""))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        name = super()._get_default_metavar_for_optional(action)
        return _METAVARS.get(self._get_type_str(action) or "", name)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = (action.help or "").replace("``", "").removesuffix(".")
        if action.required and action.option_strings:
            return f"{text} (required)"
        default = action.default
        if isinstance(default, bool):
            return text if action.nargs == 0 else f"{text} (default: {str(default).lower()})"
        if default not in ("", argparse.SUPPRESS) and isinstance(default, int | float | str):
            return f"{text} (default: %(default)s)"
        return text


class _ParserRequest(Exception):  # noqa: N818
    """Carries the parser of a command to `parser_of`."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser


_REQUEST_PARSER = "--the-parser-itself"


def parser_of(main: Callable[[Sequence[str]], None], *words: str) -> ArgumentParser:
    """Return the parser of a command: call it with `words`, and stop when it parses its options."""
    try:
        main([*words, _REQUEST_PARSER])
    except _ParserRequest as request:
        return request.parser
    raise AssertionError("the command has not called `parse`")


def command_parser(command: str, description: str, epilog: str = "") -> ArgumentParser:
    """Return the parser of ``bert-jax command``, for `parse`; the epilog is an example."""
    return ArgumentParser(
        prog=f"bert-jax {command}",
        description=f"{description}\n\n{essentials(command)}".strip(),
        epilog=epilog or example(command),
        formatter_class=_Help,
        exit_on_error=False,
        allow_abbrev=False,
    )


def parse(parser: ArgumentParser, argv: Sequence[str], base: Namespace | None = None) -> Namespace:
    """Parse the options `argv` over `base`; "_" and "-" in their names are equivalent.

    Raises:
        BadArgumentsError: An option is unknown, missing or of the wrong type.
    """
    if _REQUEST_PARSER in argv:
        raise _ParserRequest(parser)
    names = list(parser._option_string_actions)  # argparse has no public list of them
    spellings = {name.replace("_", "-"): name for name in names}
    try:
        words = [_respelled(word, spellings) for word in argv]
        return parser.parse_args(words, namespace=base)
    except argparse.ArgumentError as error:
        text = explained(str(error), parser)
    if unknown := re.match(r"unrecognized arguments: (\S+)", text):
        option = unknown[1].partition("=")[0]
        text = f"unknown option {option!r}{nearest(option, names)}"
    elif missing := re.search(r"arguments are required: (.+)|Key .(\w+). is required", text):
        keys = (missing[1] or missing[2]).split(", ")
        options = [spellings.get(f"--{key.replace('_', '-')}", key.upper()) for key in keys]
        text = f"give {', '.join(options)}"
    raise BadArgumentsError(f"{text}  ({parser.prog} --help lists the options)")


def _respelled(word: str, spellings: Mapping[str, str]) -> str:
    """Return an option under its present name, as the parser spells it."""
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        return word
    if new := OPTIONS.get(name.removeprefix("--").replace("-", "_")):
        _report_renamed(name, f"--{new}")
        name = f"--{new}"
    return spellings.get(name.replace("_", "-"), name) + equals + value


def _report_renamed(old: str, new: str) -> None:
    say(f"{old} is now called {new}; the old name works until version 1.0")


def run_config(argv: Sequence[str]) -> RunConfig:
    """Return the config of a pre-training run; see `read_config`."""
    parser = command_parser("pretrain", "Train BERT on a token store. Run it again to resume.")
    return read_config(parser, argv, RunConfig, ignored=("tpu",))[0]


def read_config(
    parser: ArgumentParser, argv: Sequence[str], kind: type[C], ignored: tuple[str, ...] = ()
) -> tuple[C, dict[str, Any]]:
    """Read a config: the file after ``--config``, then the options ``--a.b VALUE``.

    Args:
        parser: Of the command, with its other options; receives those of the config.
        argv: Of the command.
        kind: A frozen dataclass.
        ignored: Sections of the file that are for another command.

    Returns:
        The config, and the values of the other options.

    Raises:
        BadArgumentsError: A wrong option.
        BadInputError: A wrong file, key or value.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="YAML file, or the name of one in configs/, such as tiny"
    )
    parser.add_class_arguments(kind)
    _tidy(parser)
    parser.usage = f"{parser.prog} [--config FILE] [--KEY VALUE …]"
    file_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    file_parser.add_argument("--config")
    try:
        file = file_parser.parse_known_args(argv)[0].config
    except argparse.ArgumentError as error:
        raise BadArgumentsError(str(error)) from None
    base = None
    if file is not None:
        try:
            base = parser.parse_object(read_yaml(find_config(file), kind, ignored))
        except argparse.ArgumentError as error:
            raise BadInputError(f"{file}: {explained(str(error), parser, in_file=True)}") from None
        except OverflowError as error:  # a number of hundreds of digits
            raise BadInputError(f"{file} contains a number that is too large: {error}") from None
    values = vars(parser.instantiate(parse(parser, argv, base)))
    keys = {field.name for field in fields(cast(Any, kind))}
    others = {name: values.pop(name) for name in values.keys() - keys}
    return kind(**values), others


def _tidy(parser: ArgumentParser) -> None:
    """Hide what jsonargparse adds for itself, and spell keys without a section with hyphens."""
    for action in parser._actions:
        if action.metavar == "CONFIG" or action.dest.endswith(".help"):
            action.help = argparse.SUPPRESS
        old = next(iter(action.option_strings), "")
        if "_" in old and "." not in old:
            new = old.replace("_", "-")
            action.option_strings = [new]
            parser._option_string_actions[new] = parser._option_string_actions.pop(old)


def read_yaml(
    path: Path, kind: type, ignored: tuple[str, ...] = (), above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Read a config file as a dict; ``base: other.yaml`` in it names a file that it overrides.

    A base may also be a name, as in ``base: tiny``.

    Args:
        path: Of the file.
        kind: The dataclass whose keys it may have.
        ignored: Other keys that it may have, which are left out.
        above: Files that have it as a base.

    Raises:
        BadInputError: The file does not exist, is not YAML, or has an unknown key.
    """
    values = _yaml(path)
    if path.resolve() in above:
        raise BadInputError(f"{path}: base leads back to the file itself; remove one of them")
    if not isinstance(values, dict):
        content = "nothing" if values is None else f"a {type(values).__name__}"
        raise BadInputError(f"{path}: expected keys and values, found {content}")
    base = values.pop("base", None)
    values = {key: value for key, value in values.items() if key not in ignored}
    for old, new in old_keys(values).items():
        _report_renamed(f"{path}: {old}", new)
    values = renamed_keys(values)
    check_keys(values, kind, str(path))
    if base is None:
        return values
    if not isinstance(base, str):
        raise BadInputError(f"{path}: base must be the name of a file, not {base!r}")
    file = find_config(base, path.parent)
    return _merged(read_yaml(file, kind, ignored, (*above, path.resolve())), values)


def _yaml(path: Path) -> Any:
    check_kind(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: {error.strerror}{remedy(path)}") from None
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}") from None
    return yaml_values(content, path)


def yaml_values(content: bytes, path: Path) -> Any:
    """Return the plain values in `content`, which was read from `path`.

    Raises:
        BadInputError: The content is not YAML, or too large for a config.
    """
    if len(content) > _MAX_BYTES:
        raise BadInputError(f"{path} is too large for a config: more than {_MAX_BYTES:,} bytes")
    try:
        loader = yaml.SafeLoader(content.decode("utf-8"))
        node = loader.get_single_node()
        if _values(node, {}) > _MAX_VALUES:
            raise BadInputError(
                f"{path} expands to more than {_MAX_VALUES:,} values; write it without aliases"
            )
        return None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not a YAML file: {error}") from None
    # PyYAML raises these for a value that does not match its tag, such as !!int "".
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{path} cannot be read as YAML: {error}") from None


def _values(node: yaml.Node | None, counts: dict[int, int]) -> int:
    """Count the values of a node with every alias expanded; `counts` has those of known nodes."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = _MAX_VALUES + 1  # for a node that contains itself
        pairs = isinstance(node, yaml.MappingNode)
        children = chain.from_iterable(node.value) if pairs else node.value
        counts[id(node)] = 1 + sum(_values(child, counts) for child in children)
    return counts[id(node)]


def config_from_dict(values: Mapping[str, Any], source: str, kind: type[C]) -> C:
    """Return the config of type `kind` whose ``as_dict`` is `values`.

    Raises:
        BadInputError: Another version wrote it, with keys or values that this one does not accept.
    """
    values = renamed_model_keys(values) if kind is ModelConfig else renamed_keys(values)
    check_keys(values, kind, source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        return kind(**vars(parser.instantiate(parser.parse_object(values))))
    except argparse.ArgumentError as error:
        raise BadInputError(f"{source}: {explained(str(error), parser, in_file=True)}") from None


def to_yaml(config: Any) -> str:
    """Return the resolved config as the text of a YAML file for ``--config``."""
    return yaml.safe_dump(as_dict(config), sort_keys=False)


def check_keys(values: Mapping[str, Any], kind: type, source: str, prefix: str = "") -> None:
    """Refuse a key that dataclass `kind` does not have; suggest the nearest one.

    Raises:
        BadInputError: There is such a key, or a section is not a section.
    """
    hints = get_type_hints(kind)
    for key, value in values.items():
        name = f"{prefix}{key}"
        if "." in str(key) and key in _keys(kind):
            nested = ": {".join(str(key).split(".")) + ": …" + "}" * str(key).count(".")
            raise BadInputError(f"{source}: write {key!r} as {nested}")
        if value is None:
            raise BadInputError(f"{source}: {name} has no value; set it or remove the key")
        if key not in hints:
            valid = [f"{prefix}{key}" for key in hints] if prefix else _keys(kind)
            raise BadInputError(f"{source}: unknown key {name!r}{nearest(name, valid)}")
        if is_dataclass(hints[key]):
            if not isinstance(value, Mapping):
                raise BadInputError(f"{source}: {name} must contain keys and values, not {value!r}")
            check_keys(value, cast(type, hints[key]), source, f"{name}.")
        elif name in LISTS and isinstance(value, list):
            entry_kind = get_args(hints[key])[0]
            for entry in filter(lambda entry: isinstance(entry, Mapping), value):
                check_keys(entry, entry_kind, source, f"{name}.")


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
