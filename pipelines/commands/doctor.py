"""``bert-jax doctor``: check devices, versions and storage, and suggest fixes."""

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
from pipelines.settings import command_parser, parse

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "failure": "bold red"}


@dataclass(frozen=True)
class Line:
    """The report on one check."""

    name: str
    state: Literal["ok", "skipped", "warning", "failure"]
    found: str
    remedy: str = ""


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
    for name, check in _checks(options.run_dir):
        line, error = examined(name, check)
        lines.append(line)
        failures += [error] if error else []
        if not options.json:
            _print(console, line)
    if options.json:
        print(json.dumps({"ok": not failures, "checks": [asdict(line) for line in lines]}))  # noqa: T201
    if failures:
        names = ", ".join(line.name for line in lines if line.state == "failure")
        raise type(failures[0])(f"{len(failures)} of {len(lines)} checks failed: {names}")


def _checks(run_dir: str) -> Iterator[tuple[str, Callable[[], checks.Result]]]:
    """Yield the checks by name; those whose failure causes others come first."""
    for check in (checks.python, checks.packages, checks.devices, checks.compiler):
        yield check.__name__, check
    yield "compile cache", checks.compile_cache
    yield "memory", checks.memory
    yield "cores", checks.cores
    yield "open files", checks.open_files
    storage = checks.Storage(run_dir)
    yield "storage", storage.written
    yield "clock", storage.clock
    if run_dir.startswith(CLOUD):
        yield "region", partial(checks.region, run_dir)


def examined(name: str, check: Callable[[], checks.Result]) -> tuple[Line, UserError | None]:
    """Make a check; return the report on it, and its error if it failed."""
    try:
        with failures_explained():
            result = check()
    except checks.SkippedError as error:
        return Line(name, "skipped", str(error)), None
    except UserError as error:
        return Line(name, "failure", str(error)), error
    except Exception as error:  # a broken installation can raise anything
        text = one_line(f"{type(error).__name__}: {error}")
        failure = BadInputError(f"{text}; reinstall bert-jax in a new environment")
        return Line(name, "failure", str(failure)), failure
    return Line(name, "warning" if result.remedy else "ok", *result), None


def _print(console: Console, line: Line) -> None:
    text = f"{line.found}; {line.remedy}" if line.remedy else line.found
    state = (f"{line.state:8}", _STYLES[line.state])
    console.print(Text.assemble(state, f" {line.name:13}  {printable(text)}"))
