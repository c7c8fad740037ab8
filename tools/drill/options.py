"""The options that the drill and fuzzing have in common."""

from __future__ import annotations

import argparse
import difflib
import random
import sys
from collections.abc import Sequence


def parser_of(program: str, description: str | None, what: str) -> argparse.ArgumentParser:
    """A parser of ``--seed`` and ``--only``; `what` is a thing that can be chosen."""
    parser = argparse.ArgumentParser(program, description=description)
    parser.add_argument("--seed", type=int, help="of all that is random; a new one unless given")
    these = f"each {what} whose name has these words; may be given again"
    parser.add_argument("--only", action="append", metavar="WORDS", default=[], help=these)
    return parser


def seed_of(options: argparse.Namespace) -> int:
    """The one that was given, or a new one."""
    return random.SystemRandom().randrange(10**6) if options.seed is None else int(options.seed)


def chosen(names: Sequence[str], words: Sequence[str], what: str) -> list[str]:
    """The names that have some of these words, all without any; ends the program if none has."""
    found = [name for name in names if not words or any(w.lower() in name.lower() for w in words)]
    if not found:
        near = difflib.get_close_matches(words[0], names, 1, 0)
        sys.exit(f"no {what} has {words[0]!r} in its name; the nearest is {near[0]!r}")
    return found
