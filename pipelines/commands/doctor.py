"""``bert-jax doctor``: check devices, versions and storage, and suggest fixes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from bert_jax.runtime.errors import printable
from pipelines.commands import checks
from pipelines.settings import command_parser, parse

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "failure": "bold red"}


def main(argv: Sequence[str]) -> None:
    """Run the checks and report their results.

    Raises:
        UserError: A check failed; of the class of the first failure.
    """
    parser = command_parser("doctor", "Check devices, versions and storage, and suggest fixes.")
    parser.add_argument("--run-dir", metavar="RUN", default=".", help="folder for runs, or gs://…")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    console = Console(highlight=False, soft_wrap=True)
    lines, failures = [], []
    for name, check in checks.all_checks(options.run_dir):
        line, error = checks.examined(name, check)
        lines.append(line)
        failures += [error] if error else []
        if not options.json:
            _print(console, line)
    if options.json:
        print(json.dumps({"ok": not failures, "checks": [asdict(line) for line in lines]}))  # noqa: T201
    if failures:
        names = ", ".join(line.name for line in lines if line.state == "failure")
        raise type(failures[0])(f"{len(failures)} of {len(lines)} checks failed: {names}")


def _print(console: Console, line: checks.Line) -> None:
    text = f"{line.found}; {line.remedy}" if line.remedy else line.found
    state = (f"{line.state:8}", _STYLES[line.state])
    console.print(Text.assemble(state, f" {line.name:13}  {printable(text)}"))
