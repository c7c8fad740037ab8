"""Generate pages for the site: commands, config keys and accelerators from the code; copies."""

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

from bert_jax.config.accelerators import accelerators, prices_as_of
from bert_jax.config.phases import Phase
from bert_jax.config.run import RunConfig
from bert_jax.config.stores import MixedStore
from pipelines.commands import cli
from pipelines.data.sources.registry import SOURCES
from pipelines.help import COMMANDS
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS
from tpu.__main__ import COMMANDS as TPU_COMMANDS
from tpu.config import TpuConfig

ROOT = Path(__file__).parents[1]
_COLUMNS = "100"  # of the help texts
_TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def write(folder: Path) -> None:
    """Write the pages that others include, and copies of those outside of docs/."""
    folder.mkdir(parents=True, exist_ok=True)
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8")
    pages = {
        "commands": commands(),
        "config": configs(),
        "accelerators": accelerator_tables(),
        "readme": readme(),
        "results": results,
    }
    for name, page in pages.items():
        (folder / f"{name}.md").write_text(page, "utf-8")


def readme() -> str:
    """Return README.md with links that work in the site."""
    text = (ROOT / "README.md").read_text("utf-8")
    text = text.replace("](docs/", "](../").replace("](benchmarks/", "](../../benchmarks/")
    # Files and folders of the repository have no page.
    return re.sub(r"\[([^\]]+)\]\((?!https?:|\.\./|#)[^)]+\)", r"\1", text)


def to_copies(text: str) -> str:
    """Point the links of a page to README.md and RESULTS.md to the copies."""
    text = re.sub(r"\]\((?:\.\./)+README\.md", "](/_generated/readme.md", text)
    return re.sub(r"\]\((?:\.\./)+benchmarks/RESULTS\.md", "](/_generated/results.md", text)


def commands() -> str:
    """Return the help of every command."""
    parts = [_fenced(cli.usage())]
    for name, words in invocations():
        parts.append(f"## {name}\n\n{_fenced(help_of(words))}")
    parts.append(f"## Sources of a corpus\n\n{sources()}")
    return "\n".join(parts)


def sources() -> str:
    """Return the table of the corpus sources."""
    rows = [f"| `{source.form}` | {source.summary} | `{source.example}` |" for source in SOURCES]
    return "\n".join(["| SPEC | reads | example |", "|---|---|---|", *rows, ""])


def invocations() -> Iterator[tuple[str, list[str]]]:
    """Yield every command, with the words after `bert-jax`."""
    for name in COMMANDS:
        if name == "tpu":
            continue
        # All tasks have the same options.
        yield f"bert-jax {name}", [name, *(list(TASKS)[:1] if name == "finetune" else [])]
    for name in TPU_COMMANDS:
        yield f"bert-jax tpu {name}", ["tpu", name]


def help_of(words: list[str]) -> str:
    """Return the help of a command."""
    os.environ["COLUMNS"] = _COLUMNS
    text = StringIO()
    with redirect_stdout(text), redirect_stderr(StringIO()), suppress(SystemExit):
        cli.command(words[0])([*words[1:], "--help"])
    return text.getvalue()


def configs() -> str:
    """Return the keys of pre-training, fine-tuning and slices, from their dataclasses."""
    return "\n".join(
        [
            "## Pre-training\n",
            "For `bert-jax pretrain`, and for every command that reads its config.\n",
            *_tables(RunConfig),
            "### data.stores: one entry of the list\n",
            _table(MixedStore, ""),
            "### phases: one entry of the list\n",
            _table(Phase, ""),
            "## Fine-tuning\n",
            "For `bert-jax finetune TASK`. The sections `model`, `checkpoint` and `parallel` are"
            " those of pre-training.\n",
            *_tables(FinetuneConfig, ("model", "checkpoint", "parallel")),
            "## TPU slices\n",
            "The section `tpu` of a config, for `bert-jax tpu`; `pretrain` ignores it.\n",
            _table(TpuConfig, "tpu."),
        ]
    )


def accelerator_tables() -> str:
    """Return the chips, their prices and the zones of their slices, from accelerators.yaml."""
    chips, prices, zones = [], [], []
    for chip in accelerators():
        kernel = "yes" if chip.attention_kernel else "no"
        memory = f"{chip.memory_gib:g}" if chip.memory_gib else ""
        kinds = ", ".join(f"`{kind}`" for kind in chip.device_kinds)
        chips.append(
            f"| {chip.name} | {kinds} | {chip.devices_per_chip} | {chip.peak_tflops:g} | {memory}"
            f" | {kernel} |"
        )
        if chip.prices:
            per_hour = " | ".join(f"{chip.prices[kind]:.2f}" for kind in ("on-demand", "spot"))
            prices.append(
                f"| {chip.name} | {per_hour} | {chip.price_zones} | {chip.other_prices} |"
            )
        if chip.zones:
            listed = ", ".join(f"`{zone}` ({source})" for zone, source in chip.zones.items())
            zones.append(f"| {chip.name} | {listed} |")
    return "\n".join(
        [
            "## Chips\n",
            "| chip | JAX device kinds | devices per chip | bfloat16 peak, TFLOP/s | memory, GiB |"
            " attention kernel |",
            "|---|---|---:|---:|---:|---|",
            *chips,
            f"\n## Prices\n\nUSD per chip-hour ({prices_as_of()}).\n",
            "| chip | on demand | spot | zones | other zones, on demand / spot |",
            "|---|---:|---:|---|---|",
            *prices,
            "\n## Zones\n\nSources: G = a copy of Google's page, S = SkyPilot's catalog, T ="
            " e-mails of the TPU Research Cloud of May and September 2026.\n",
            "| chip | zones (source) |",
            "|---|---|",
            *zones,
            "",
        ]
    )


def _tables(kind: Any, omitted: Sequence[str] = ()) -> Iterator[str]:
    yield _table(kind, "")
    hints = get_type_hints(kind)
    for field in fields(kind):
        if is_dataclass(hints[field.name]) and field.name not in omitted:
            yield f"### {field.name}\n"
            yield _table(hints[field.name], f"{field.name}.", field.default_factory)


def _table(kind: Any, prefix: str, make: Any = MISSING) -> str:
    """Return the table of the keys of a dataclass; its sections have their own tables."""
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
            rows.append(
                f"| `{prefix}{field.name}` | {_type_name(hint)} | {_default(value)} | {text} |"
            )
    return "\n".join([*rows, ""]) if len(rows) > 2 else ""


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    return _TYPES.get(hint, "list")


def _default(value: Any) -> str:
    if value in ("", ()) and not isinstance(value, bool):
        return "empty"
    if isinstance(value, tuple):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:,}`" if isinstance(value, int) else f"`{value}`"


def _fenced(text: str) -> str:
    # Longer than any fence in a help text.
    return f"````text\n{text.rstrip()}\n````\n"
