"""A wrong value of any option gives one line with the valid values."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UserError
from pipelines.commands import cli
from pipelines.help import COMMANDS
from pipelines.option_errors import LISTS, _choices, valid_values
from pipelines.settings import ArgumentParser, _keys, config_from_dict, parse, parser_of
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS
from support.commands import ROOT, invoke, refused

WRONG = ("wrong", "{a: [}", "[1, x]", "null")
# Words of jsonargparse and Python that no user wrote.
FOREIGN = (
    "Union",
    "Literal",
    "typing",
    "NoneType",
    "class_path",
    "<class",
    "Parser key",
    "config '",
    "int(",
)


def parsers() -> Iterator[tuple[str, ArgumentParser]]:
    for name in COMMANDS:
        words: list[tuple[str, ...]] = [("STORE",) if name == "show-batch" else ()]
        if name == "tpu":
            words = [(word,) for word in cli.module_of(name).COMMANDS]
        elif name == "finetune":
            words = [(task,) for task in TASKS]
        for word in words:
            try:
                yield " ".join((name, *word)), parser_of(cli.command(name), *word)
            except UserError:  # it needs an extra that is not installed
                continue


def actions(parser: ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for option, action in list(parser._option_string_actions.items()):
        if action.nargs != 0 and not option.endswith(("help", "--config")):
            yield option, action


def message(parser: ArgumentParser, word: str) -> str:
    """Return the error of an option; empty if the value is valid."""
    try:
        parse(parser, [word])
    except BadArgumentsError as error:
        return "" if str(error).startswith("give ") else str(error)
    return ""


def test_wrong_values_of_all_options_of_all_commands() -> None:
    checked: set[tuple[str, str]] = set()
    for command, parser in parsers():
        for option, action in actions(parser):
            hint = getattr(action, "_typehint", None)
            if (option, str(hint)) in checked:  # of another command
                continue
            checked.add((option, str(hint)))
            for value in WRONG:
                text = message(parser, f"{option}={value}")
                if not text:
                    continue
                where = f"bert-jax {command} {option}={value}: {text}"
                assert "\n" not in text, where
                assert option in text, where
                assert not [word for word in FOREIGN if word in text], where
                for choice in _choices(hint):
                    assert choice in text, where
                assert valid_values(hint) in text or hint is None or "list" in text, where
    assert len(checked) > 100


def test_each_command_that_has_a_choice_rejects_another_one() -> None:
    choices = {
        (command, option)
        for command, parser in parsers()
        for option, action in actions(parser)
        if list(_choices(getattr(action, "_typehint", None)))
    }
    assert ("train-tokenizer", "--model") in choices
    assert ("pretrain", "--data.objective") in choices


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--model", "wordpiece"), ("--model", "unigram, bpe", "--kind wordpiece")),
        (("--model", "unigramm"), ("unigram, bpe", "did you mean 'unigram'")),
        (("--kind", "bpe"), ("sentencepiece, wordpiece", "--model bpe")),
        (("--vocab-size", "many"), ("--vocab-size", "whole number", "'many'")),
    ],
)
def test_a_value_of_another_option_suggests_that_option(
    words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    result = invoke(
        "train-tokenizer", "--corpus", "text:a", "--vocab-size", "60", "--out", "t", *words
    )
    refused(result, 64, *parts)


def test_a_section_is_no_option() -> None:
    refused(invoke("pretrain", "--data", "store"), 64, "--data is a section", "--data.store")


@pytest.mark.parametrize("key", LISTS)
def test_what_is_wrong_inside_a_list_is_named(key: str) -> None:
    entry = LISTS[key].replace("128", "high").replace("0.3", "high")
    refused(invoke("pretrain", f"--{key}={entry}"), 64, key, "must be", "'high'")


@pytest.mark.parametrize("kind", [RunConfig, FinetuneConfig])
def test_wrong_values_in_files_name_the_key(kind: type) -> None:
    sections = {key: hint for key, hint in get_type_hints(kind).items() if is_dataclass(hint)}
    for section, hints in ((key, get_type_hints(hint)) for key, hint in sections.items()):
        for key, inner in hints.items():
            name = f"{section}.{key}"
            if inner is str or name in LISTS or is_dataclass(inner):
                continue
            with pytest.raises(BadInputError, match=name) as error:
                config_from_dict({section: {key: "wrong"}}, "a.yaml", kind)
            text = str(error.value)
            assert f"a.yaml: {name} must be {valid_values(inner)}" in text
            assert not [word for word in (*FOREIGN, "--") if word in text], text


def test_optional_keys_of_phases_are_named() -> None:
    optional = [key for key, hint in get_type_hints(Phase).items() if type(None) in get_args(hint)]
    for key in [*optional, "length"]:
        phase = {"length": 16, "steps": 1, "batch_size": 8, key: "high"}
        with pytest.raises(BadInputError, match=f"{key} must be .*'high'"):
            config_from_dict({"phases": [phase]}, "a.yaml", RunConfig)


def test_a_config_with_a_wrong_choice_suggests_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {dtype: bfloat}\n")
    result = invoke("pretrain", "--config", tmp_path / "a.yaml")
    refused(result, 78, "a.yaml", "model.dtype", "bfloat16, float32", "did you mean 'bfloat16'")


# Options of other programs, of the entry point, of show-batch, and placeholders, in our texts.
OTHER_OPTIONS = {
    "--a.b", "--billing-account", "--command", "--debug", "--direct-running-mode", "--file-format",
    "--force", "--location", "--logdir", "--member", "--nthreads", "--role", "--rows",
    "--scheduler", "--scopes", "--step", "--the-parser-itself", "--tunnel-through-iap",
    "--version", "--xla-force-host-platform-device-count",
}  # fmt: skip
# Ends of names of files, which look like keys: train.csv.
FILES = r"ckpt|conll|csv|json|jsonl|md|safetensors|tsv|txt"


def texts() -> Iterator[tuple[str, str]]:
    """Yield the file and value of every string in the product, but not colors of figures."""
    for package in ("bert_jax", "pipelines", "tpu"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name == "figures.py":
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path.name, node.value


def test_options_and_commands_in_messages_exist() -> None:
    known = {option for _, parser in parsers() for option in parser._option_string_actions}
    known = {option.replace("_", "-") for option in known} | OTHER_OPTIONS
    for file, text in texts():
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text):
            name = option.rstrip(".-").replace("_", "-")
            # A message may continue with the name of a column: --data.columns.{name}.
            assert name in known or f"{name}.text" in known, f"{file}: {option} in {text!r:.80}"
        for command in re.findall(r"bert-jax ([a-z]+-[a-z-]+)", text):
            assert command in COMMANDS, f"{file}: {command} in {text!r:.80}"


def test_keys_in_messages_exist() -> None:
    keys = {*_keys(RunConfig), *_keys(FinetuneConfig)}
    sections = "|".join(sorted({key.split(".")[0] for key in keys if "." in key} - {"model"}))
    pattern = re.compile(rf"(?<![\w./-])((?:{sections})\.(?!{FILES})[a-z_]+(?:\.[a-z_]+)*)")
    for file, text in texts():
        for key in pattern.findall(text):
            assert key in keys or f"{key}.text" in keys, f"{file}: {key} in {text!r:.80}"
