"""``bert-jax doctor``: is this machine ready to train, and how is it made so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from rich.console import Console
from rich.text import Text

from bert_jax.runtime.errors import BadInputError, UserError, one_line, printable
from bert_jax.runtime.paths import CLOUD, failures_explained
from pipelines.commands import checks
from pipelines.commands.checks import Found
from pipelines.settings import command_parser, parse

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "failure": "bold red"}


@dataclass(frozen=True)
class Line:
    """What is said of one check."""

    name: str
    state: Literal["ok", "skipped", "warning", "failure"]
    found: str
    remedy: str = ""


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
        UserError: A check failed; of the class of the first failure.
    """
    parser = command_parser("doctor", "Looks whether this machine can train, and how to mend it.")
    parser.add_argument(
        "--run-dir", metavar="RUN", default=".", help="where runs shall be: a folder, or gs://…"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parse(parser, argv)
    console = Console(highlight=False, soft_wrap=True)
    lines, failures = [], []
    for name, check in _checks(options.run_dir):
        line, error = examined(name, check)
        lines.append(line)
        failures += [error] if error else []
        if not options.json:
            _show(console, line)
    if options.json:
        print(json.dumps({"ok": not failures, "checks": [asdict(line) for line in lines]}))  # noqa: T201
    if failures:
        names = ", ".join(line.name for line in lines if line.state == "failure")
        raise type(failures[0])(f"{len(failures)} of {len(lines)} checks failed: {names}")


def _checks(run_dir: str) -> Iterator[tuple[str, Callable[[], Found]]]:
    """The checks by name, in the order in which one failure leads to the next."""
    yield "python", checks.python
    yield "packages", checks.packages
    yield "devices", checks.devices
    yield "compiler", checks.compiler
    yield "compile cache", checks.compile_cache
    yield "memory", checks.memory
    yield "cores", checks.cores
    yield "open files", checks.open_files
    storage = checks.Storage(run_dir)
    yield "storage", storage.written
    yield "clock", storage.clock
    if run_dir.startswith(CLOUD):
        yield "region", partial(checks.region, run_dir)


def examined(name: str, check: Callable[[], Found]) -> tuple[Line, UserError | None]:
    """What a check says, and its failure if it failed."""
    try:
        with failures_explained():
            found = check()
    except checks.SkippedError as error:
        return Line(name, "skipped", str(error)), None
    except UserError as error:
        return Line(name, "failure", str(error)), error
    # A broken installation fails in ways of its own; all of them are what is looked for.
    except Exception as error:
        text = one_line(f"{type(error).__name__}: {error}")
        failure = BadInputError(f"{text}; install bert-jax anew, in an environment of its own")
        return Line(name, "failure", str(failure)), failure
    return Line(name, "warning" if found.remedy else "ok", *found), None


def _show(console: Console, line: Line) -> None:
    said = f"{line.found}; {line.remedy}" if line.remedy else line.found
    state = (f"{line.state:8}", _STYLES[line.state])
    console.print(Text.assemble(state, f" {line.name:13}  {printable(said)}"))
