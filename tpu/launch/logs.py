"""``bert-jax tpu logs RUN``: print the logs of the hosts from the run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bert_jax.runtime import status_files
from bert_jax.runtime.errors import BadInputError, printable
from bert_jax.runtime.paths import at, check_kind, failures_explained
from pipelines.settings import command_parser, parse
from tpu.launch.request import read_launch

_PAUSE = 5.0  # seconds between reads of --follow
_LINES = 20  # of each host, unless --all


def files(run: Path, attempt: int | None) -> dict[str, Path]:
    """Return host -> log of an attempt, or of the newest one with logs."""
    with failures_explained(str(run)):
        folder = run / status_files.LOGS
        attempts = sorted(folder.glob("attempt-*")) if folder.exists() else []
        if attempt is not None:
            attempts = [path for path in attempts if path.name == f"attempt-{attempt:04}"]
        logs = sorted(attempts[-1].glob("*.log"), key=_number) if attempts else []
    return {path.name.removesuffix(".log"): path for path in logs}


class Tail:
    """Reads new lines of a log and prefixes each with the name of its host."""

    def __init__(self, name: str, path: Path, last: int | None) -> None:
        """Start with the `last` lines; None for all."""
        self._name, self._path, self._last, self._offset = name, path, last, 0

    def new(self) -> list[str]:
        """Return the complete lines since the last call."""
        check_kind(self._path)
        with failures_explained(str(self._path)):
            content = self._path.read_bytes() if self._path.exists() else b""
        if len(content) < self._offset:  # a new file, after a rotation or a reboot
            self._offset = 0
        end = content.rfind(b"\n") + 1
        lines = content[self._offset : end].decode("utf-8", "replace").splitlines()
        self._offset = end
        if self._last is not None:
            lines, self._last = lines[-self._last :], None
        return [f"{self._name}: {printable(line.expandtabs())}" for line in lines]


def main(argv: Sequence[str]) -> None:
    parser = command_parser(
        "tpu logs", "Print the logs of the hosts, which are copied every 15 seconds."
    )
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing new lines")
    parser.add_argument("--worker", type=int, default=None, help="only this host")
    parser.add_argument(
        "--attempt", type=int, default=None, help="this attempt instead of the newest"
    )
    parser.add_argument("--all", action="store_true", help="from the beginning of the logs")
    options = parse(parser, argv)
    run = at(options.run)
    read_launch(run)
    tails: dict[Path, Tail] = {}
    while True:
        for name, path in files(run, options.attempt).items():
            if options.worker in (None, int(name.rpartition("-")[2])):
                tails.setdefault(path, Tail(name, path, None if options.all else _LINES))
        if not tails and not options.follow:
            raise BadInputError(
                f"{run} has no such log yet; check its hosts with: bert-jax tpu status {run}"
            )
        for tail in tails.values():
            for line in tail.new():
                sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        if not options.follow:
            return
        time.sleep(_PAUSE)


def _number(path: Path) -> int:
    return int("".join(c for c in path.name if c.isdigit()) or 0)
