"""Pages that are made when the site is built: commands and keys from the code, and copies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import MISSING, fields, is_dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser

from bert_jax.config.phases import Phase
from bert_jax.config.run import RunConfig
from pipelines.commands import cli
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS
from tpu.__main__ import COMMANDS as TPU_COMMANDS
from tpu.config import TpuConfig

ROOT = Path(__file__).parents[1]
_COLUMNS = "100"  # of the help texts
_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def write(folder: Path) -> None:
    """Writes commands.md and config.md, to be included, and copies of what is outside of docs/."""
    folder.mkdir(parents=True, exist_ok=True)
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8")
    pages = {"commands": commands(), "config": configs(), "readme": readme(), "results": results}
    for name, page in pages.items():
        (folder / f"{name}.md").write_text(page, "utf-8")


def readme() -> str:
    """README.md with its links as they have to be within the site."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = text.replace("](docs/", "](../").replace("](benchmarks/", "](../../benchmarks/")
    # What has no page: files and folders of the repository.
    return re.sub(r"\[([^\]]+)\]\((?!https?:|\.\./|#)[^)]+\)", r"\1", text)


def to_copies(text: str) -> str:
    """A page with its links to README.md and RESULTS.md leading to the copies."""
    text = re.sub(r"\]\((?:\.\./)+README\.md", "](/_generated/readme.md", text)
    return re.sub(r"\]\((?:\.\./)+benchmarks/RESULTS\.md", "](/_generated/results.md", text)


def commands() -> str:
    """What every command says to --help."""
    parts = [_fenced(cli.usage())]
    for name, words in invocations():
        parts.append(f"## {name}\n\n{_fenced(help_of(words))}")
    return "\n".join(parts)


def invocations() -> Iterator[tuple[str, list[str]]]:
    """Every command that has options of its own, with the words after `bert-jax`."""
    for name in cli.COMMANDS:
        if name == "tpu":
            continue
        # All tasks have the same options.
        yield f"bert-jax {name}", [name, *(list(TASKS)[:1] if name == "finetune" else [])]
    for name in TPU_COMMANDS:
        yield f"python -m tpu {name}", ["tpu", name]


def help_of(words: list[str]) -> str:
    """What a command prints when it is asked for help."""
    os.environ["COLUMNS"] = _COLUMNS
    text = StringIO()
    with redirect_stdout(text), redirect_stderr(StringIO()), suppress(SystemExit):
        cli.command(words[0])([*words[1:], "--help"])
    return text.getvalue()


def configs() -> str:
    """The keys of pre-training, fine-tuning and slices, from the dataclasses that hold them."""
    return "\n".join(
        [
            "## Pre-training\n",
            "For `bert-jax pretrain`, and for all that reads its config.\n",
            *_tables(RunConfig),
            "### phases, one of the list\n",
            _table(Phase, ""),
            "## Fine-tuning\n",
            "For `bert-jax finetune TASK`. The sections `model`, `checkpoint` and `parallel` are"
            " those of pre-training.\n",
            *_tables(FinetuneConfig, ("model", "checkpoint", "parallel")),
            "## TPU slices\n",
            "The section `tpu` of a config, for `python -m tpu`; `pretrain` passes it over.\n",
            _table(TpuConfig, "tpu."),
        ]
    )


def _tables(kind: Any, left_out: Sequence[str] = ()) -> Iterator[str]:
    yield _table(kind, "")
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]) and field.name not in left_out:
            yield f"### {field.name}\n"
            yield _table(hints[field.name], f"{field.name}.", field.default_factory)


def _table(kind: Any, prefix: str, make: Any = MISSING) -> str:
    """The keys of a dataclass; sections of it have tables of their own."""
    # A key may be described by a base class.
    texts = [base.__doc__ for base in reversed(kind.__mro__) if is_dataclass(base)]
    parameters = [p for text in texts for p in docstring_parser.parse(text or "").params]
    meaning = {p.arg_name: p.description for p in parameters}
    hints = get_type_hints(kind)
    defaults = make() if make is not MISSING else None
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(hint) and prefix:
            rows += _table(hint, f"{prefix}{field.name}.").splitlines()[2:]
        elif not is_dataclass(hint):
            value = getattr(defaults, field.name) if defaults is not None else field.default
            text = " ".join((meaning.get(field.name) or "").split())
            rows.append(f"| `{prefix}{field.name}` | {_named(hint)} | {_shown(value)} | {text} |")
    return "\n".join([*rows, ""]) if len(rows) > 2 else ""


def _named(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    return _TYPES.get(hint, "list")


def _shown(value: Any) -> str:
    if value in ("", ()) and not isinstance(value, bool):
        return "empty"
    if isinstance(value, tuple):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:,}`" if isinstance(value, int) else f"`{value}`"


def _fenced(text: str) -> str:
    # Longer than any fence that a help text may show.
    return f"````text\n{text.rstrip()}\n````\n"
